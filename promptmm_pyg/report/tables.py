"""The rows of the tables; a cell without content is ``None``, empty or a dash."""

import math
from collections.abc import Sequence
from typing import Any

from jinja2.filters import do_filesizeformat

from promptmm_pyg.report.content import Bar, Comparison, Difference, Report

Rows = list[list[Any]]
_EMPTY = (None, '', '–')


def number(value: float | None, digits: int = 4) -> str:
    """A number with fixed decimals, or a dash.

    Example:
        >>> number(0.25), number(None), number(float('nan'))
        ('0.2500', '–', '–')
    """
    if value is None or not math.isfinite(value):
        return '–'
    return f'{value:,.{digits}f}'


def file_size(count: int | None) -> str:
    """A number of bytes, or a dash.

    Example:
        >>> file_size(12), file_size(3 << 20), file_size(None)
        ('12 Bytes', '3.0 MiB', '–')
    """
    return '–' if count is None else do_filesizeformat(count, binary=True)


def interval(bar: Bar, sign: str = '') -> str:
    """A 95% interval, or a dash.

    Example:
        >>> interval(Bar(0.5, 0.25, 0.75)), interval(Bar(0.5))
        ('0.2500 to 0.7500', '–')
    """
    if bar.low is None or bar.high is None:
        return '–'
    return f'{bar.low:{sign}.4f} to {bar.high:{sign}.4f}'


def filled_columns(head: Sequence[str], rows: Rows) -> list[int]:
    """The columns with content, and always the first.

    Example:
        >>> filled_columns(['id', 'title', 'score'], [[1, '–', 0.5], [2, '', 0.25]])
        [0, 2]
    """
    return [
        n for n in range(len(head)) if n == 0 or any(r[n] not in _EMPTY for r in rows)
    ]


def metrics(comparison: Comparison) -> Rows:
    """One row per metric, the widths first."""
    models = comparison.metrics
    keys = dict.fromkeys(key for values in models.values() for key in values)
    widths = ['width', *(comparison.widths.get(name, '–') for name in models)]
    return [
        widths,
        *([key, *(number(x.get(key)) for x in models.values())] for key in keys),
    ]


def differences(comparison: Comparison) -> Rows:
    """One row per pair, one cell per metric of :func:`difference_head`; significant
    differences have an asterisk.
    """
    cells: dict[str, dict[str, str]] = {}
    for pair, metric, bar in comparison.differences:
        star = ' *' if Difference(pair, metric, bar).significant else ''
        text = f'{bar.value:+.4f}{star} ({interval(bar, "+")})'
        cells.setdefault(pair, {})[metric] = text
    _, *keys = difference_head(comparison)
    return [[pair, *(x.get(key, '–') for key in keys)] for pair, x in cells.items()]


def difference_head(comparison: Comparison) -> list[str]:
    """The heads of the columns of :func:`differences`."""
    return ['pair', *dict.fromkeys(x.metric for x in comparison.differences)]


def leaderboard(report: Report) -> Rows:
    """The models of a search."""
    return [[name, number(x), *rest] for name, x, *rest in report.leaderboard[1:]]


def trainings(report: Report) -> Rows:
    """One row per trained model."""
    return [
        [name, one.epochs, one.best, f'{one.seconds:.2g}']
        for name, one in report.trainings.items()
    ]


def trials(report: Report, names: Sequence[str]) -> Rows:
    """One row per trial, with the settings of these names."""
    return [
        [
            one.number,
            number(one.value),
            *(one.params.get(name, '–') for name in names),
            '–' if one.epochs is None else one.epochs,
            number(one.seconds, 0),
            '' if one.state == 'complete' else one.state,
        ]
        for one in report.trials
    ]


def sizes(report: Report) -> Rows:
    """One row per model."""
    return [
        [name, number(x.parameters, 0), file_size(x.stored), file_size(x.served)]
        for name, x in report.sizes.items()
    ]


def latencies(report: Report) -> Rows:
    """One row per model and number of users."""
    return [
        [
            x.model,
            f'{x.num_users:,}',
            number(x.median, 2),
            f'{x.low:.2f} to {x.high:.2f}',
        ]
        for x in report.latencies
    ]
