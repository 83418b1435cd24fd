"""The trials of a search."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from promptmm_pyg.viz.figure import COLORS, figure_of, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_LOG_RANGE = 20.0  # From this ratio on, an axis is logarithmic.


def plot_trials(
    trials: Sequence[Mapping[str, Any]], metric: str = 'Recall@20'
) -> 'Figure':
    """Returns a figure with the value of each trial and the best so far, and the value
    over each parameter. Trials that were pruned or stopped are hollow; failed ones are
    left out.

    Args:
        trials: ``number``, ``params``, ``value`` and ``state`` of each, as the fields
            of :class:`~promptmm_pyg.tuning.Trial`.
        metric: The title of the values. (default: ``'Recall@20'``)

    Raises:
        ValueError: If no trial has a value.
        ImportError: If matplotlib is not installed.
    """
    trials = [trial for trial in trials if trial['value'] is not None]
    if not trials:
        raise ValueError("'trials' must contain a trial with a value (got none)")
    names = list(dict.fromkeys(name for trial in trials for name in trial['params']))
    columns = min(_COLUMNS, max(1, len(names)))
    rows = 1 + math.ceil(len(names) / columns)
    figure = figure_of(new_axes('plot_trials', 9.0, 0.6 + 2.6 * rows))
    figure.clear()
    grid = figure.add_gridspec(rows, columns)
    top = figure.add_subplot(grid[0, :])
    numbers = [trial['number'] + 1 for trial in trials]
    _draw(top, numbers, trials)
    values = [trial['value'] for trial in trials]
    best = [max(values[: end + 1]) for end in range(len(values))]
    top.step(numbers, best, where='post', color=COLORS[1], label='best so far')
    top.set_xlabel('trial')
    top.set_ylabel(f'validation {metric}')
    top.locator_params(axis='x', integer=True)
    top.legend(frameon=False, loc='lower right')
    for number, name in enumerate(names):
        ax = figure.add_subplot(grid[1 + number // columns, number % columns])
        own = [trial for trial in trials if name in trial['params']]
        points = [trial['params'][name] for trial in own]
        _draw(ax, _positions(ax, points), own)
        ax.set_xlabel(name)
    return figure


def _positions(ax: 'Axes', values: Sequence[Any]) -> Sequence[Any]:
    """Where values are drawn: texts and few numbers at equal distances."""
    distinct = sorted(set(values))
    is_text = isinstance(distinct[0], str)
    if not is_text and distinct[0] > 0 and distinct[-1] / distinct[0] >= _LOG_RANGE:
        ax.set_xscale('log')
        return values
    if not is_text and len(distinct) > 6:
        return values
    ax.set_xticks(range(len(distinct)), [_short(value) for value in distinct])
    ax.set_xlim(-0.5, len(distinct) - 0.5)
    return [distinct.index(value) for value in values]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f'{value:g}'


def _draw(ax: 'Axes', x: Sequence[Any], trials: Sequence[Mapping[str, Any]]) -> None:
    """A mark per trial, the best one in another color."""
    best = max(range(len(trials)), key=lambda n: trials[n]['value'])
    for number, (place, trial) in enumerate(zip(x, trials, strict=True)):
        is_best, is_complete = number == best, trial['state'] == 'complete'
        color = COLORS[1] if is_best else COLORS[0]
        face = color if is_complete else 'white'
        ax.plot(
            place,
            trial['value'],
            'o',
            color=color,
            markerfacecolor=face,
            markersize=8 if is_best else 6,
            zorder=3 if is_best else 2,
        )
    tidy(ax)
