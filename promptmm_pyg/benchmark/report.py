"""Tables in Markdown and figures of results."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptmm_pyg.benchmark.runner import METRIC, row_name
from promptmm_pyg.viz.figure import figure_of, save_figure

Result = Mapping[str, Any]
LAST_EPOCH = '†'
# Columns of a row beside its hyper-parameters and values.
FACTORS = {
    'group': 'model',
    'name': 'variant',
    'width': 'width',
    'start': 'start',
    'share': 'share',
}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    return lines + ['| ' + ' | '.join(row) + ' |' for row in rows]


def mean_std(values: Mapping[str, Any] | None) -> str:
    """A spread, for a cell."""
    return f'{values["mean"]:.4f} ± {values["std"]:.4f}' if values else ''


def interval(values: Mapping[str, float] | None) -> str:
    """A difference with its interval, for a cell."""
    if values is None:
        return ''
    return f'{values["difference"]:+.4f} [{values["low"]:+.4f}, {values["high"]:+.4f}]'


def recall(row: Mapping[str, Any]) -> str:
    """The test value of a row, for a cell."""
    return mean_std(row.get('test', {}).get(METRIC))


def mean_epochs(row: Mapping[str, Any]) -> str:
    """The mean of the best epochs, for a cell; marked where it is the last allowed."""
    epochs = row.get('epochs')
    if not epochs:
        return ''
    mark = f' {LAST_EPOCH}' if last_epochs(row) else ''
    return f'{sum(epochs) / len(epochs):.0f}{mark}'


def last_epochs(row: Mapping[str, Any]) -> int:
    """The number of seeds whose best epoch is the last allowed: more may be better."""
    return sum(epoch == row.get('max_epochs') for epoch in row.get('epochs', ()))


def convergence(result: Result) -> list[str]:
    """The line below a table that names its rows that may not have converged, after an
    empty one; none if all have.
    """
    rows = (*result.get('teachers', ()), *result['rows'])
    names = [
        f'{row_name(row)} ({last_epochs(row)} of {len(row["epochs"])} seeds)'
        for row in rows
        if last_epochs(row)
    ]
    if not names:
        return []
    text = f'{LAST_EPOCH} The best epoch is the last, so more epochs may be better: '
    return ['', text + ', '.join(dict.fromkeys(names))]


def seeds_of(result: Result) -> str:
    """What the values of a table are."""
    number = len(result['seeds'])
    if number == 1:
        return 'one seed: intervals do not include training noise'
    return f'mean ± standard deviation of {number} seeds'


def title(result: Result, more: str = '') -> list[str]:
    """The line above a table, and an empty one."""
    return [f'**{result["dataset"]}**, test {METRIC}, {seeds_of(result)}{more}', '']


def rows_table(result: Result, names: Mapping[str, str] | None = None) -> str:
    """Every row with its factors, hyper-parameters, test value and differences.

    Args:
        result: A result of any kind.
        names: Titles of the references. (default: their keys)
    """
    rows = result['rows']
    keys = dict.fromkeys(key for row in rows for key in row)
    factors = [key for key in FACTORS if key in keys]
    params = list(dict.fromkeys(p for row in rows for p in row.get('best_params', ())))
    references = [key for key in keys if key.startswith('diff_vs_')]
    head = [FACTORS[key] for key in factors] + [p.replace('_', ' ') for p in params]
    head += ['epochs', METRIC]
    for key in references:
        reference = key.removeprefix('diff_vs_')
        head.append(f'vs. {(names or {}).get(reference, reference)} (95 %)')
    body = [
        [
            *(str(row.get(key, '')) for key in factors),
            *(_cell(row.get('best_params', {}).get(param, '')) for param in params),
            mean_epochs(row),
            recall(row),
            *(interval(row.get(key)) for key in references),
        ]
        for row in rows
    ]
    lines = title(result) if 'seeds' in result else [f'**{result["dataset"]}**', '']
    return '\n'.join([*lines, *markdown(head, body)])


def _cell(value: Any) -> str:
    return f'{value:g}' if isinstance(value, float) else str(value)


def save_plot(axes: Any, path: str | Path) -> None:
    """Writes the figure of the axes as PNG."""
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    save_figure(figure_of(axes), path)
