"""Charts of a run: learning curves, test results, and the parts of a score."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from promptmm_pyg.viz.figure import (
    COLORS,
    MARKERS,
    colors_of,
    figure_of,
    new_axes,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Bar(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


Records = Sequence[Mapping[str, Any]]
"""One record per epoch: a :class:`~promptmm_pyg.training.History`'s ``records``, or
the lines of a ``log.jsonl``."""


def plot_learning_curves(
    curves: Mapping[str, Records],
    metric: str = 'Recall@20',
    *,
    ax: 'Axes | None' = None,
) -> 'Axes':
    """Draws a validation metric over the epochs: a line per model, with a mark at its
    best epoch.

    Args:
        curves: Records by name of the model.
        metric: The metric. (default: ``'Recall@20'``)
        ax: Axes. (default: those of a new figure)

    Raises:
        ValueError: If there is no model, or one was never validated on the metric.
        ImportError: If matplotlib is not installed.
    """
    if not curves:
        raise ValueError("'curves' must contain at least one model (got none)")
    ax = new_axes('plot_learning_curves') if ax is None else ax
    colors = colors_of(curves)
    for number, (name, records) in enumerate(curves.items()):
        points = [
            (record['epoch'], record['validation'][metric])
            for record in records
            if metric in record.get('validation', {})
        ]
        if not points:
            raise ValueError(
                f"'curves' must have '{metric}' among the validation metrics of "
                f"'{name}' (got none). Set 'metric' to a monitored one"
            )
        epochs, values = zip(*points, strict=True)
        color = colors[name]
        ax.plot(epochs, values, color=color, linewidth=1.8, label=name)
        best = max(range(len(values)), key=values.__getitem__)
        marker = MARKERS[number % len(MARKERS)]
        ax.plot(
            epochs[best],
            values[best],
            marker,
            color=color,
            markerfacecolor='white',
            markeredgewidth=1.8,
            markersize=8,
        )
    ax.set_xlabel('epoch')
    ax.set_ylabel(f'validation {metric}')
    ax.set_ylim(bottom=0)
    ax.set_title('Learning curves (mark: best epoch)')
    ax.legend(frameon=False)
    tidy(ax)
    return ax


def plot_metric_bars(
    bars: Mapping[str, Bar],
    metric: str = 'Recall@20',
    *,
    ax: 'Axes | None' = None,
    colors: Mapping[str, str] | None = None,
) -> 'Axes':
    """Draws one bar per model with its interval and its value above.

    Args:
        bars: Values with intervals by name of the model.
        metric: Title of the axis. (default: ``'Recall@20'``)
        ax: Axes. (default: those of a new figure)
        colors: Color by name. (default: in the order of the bars)

    Raises:
        ValueError: If there is no bar, or a value is outside its interval.
        ImportError: If matplotlib is not installed.
    """
    if not bars:
        raise ValueError("'bars' must contain at least one model (got none)")
    for name, bar in bars.items():
        if not bar.low <= bar.value <= bar.high:
            raise ValueError(
                f"'bars' must have each value inside its interval (got {bar} for "
                f"'{name}')"
            )
    ax = new_axes('plot_metric_bars') if ax is None else ax
    colors = colors or colors_of(bars)
    positions = range(len(bars))
    values = [bar.value for bar in bars.values()]
    errors = [
        [b.value - b.low for b in bars.values()],
        [b.high - b.value for b in bars.values()],
    ]
    ax.bar(positions, values, color=[colors[name] for name in bars], width=0.65)
    ax.errorbar(positions, values, yerr=errors, fmt='none', ecolor='black', capsize=5)
    for x, bar in enumerate(bars.values()):
        ax.annotate(
            f'{bar.value:.3f}',
            (x, bar.high),
            xytext=(0, 5),
            textcoords='offset points',
            ha='center',
        )
    ax.set_xticks(list(positions), list(bars))
    ax.set_ylabel(metric)
    ax.set_ylim(0, 1.15 * max(bar.high for bar in bars.values()) or 1)
    tidy(ax)
    return ax


def plot_run(
    curves: Mapping[str, Records],
    bars: Mapping[str, Bar],
    metric: str = 'Recall@20',
) -> 'Figure':
    """Returns a figure with :func:`plot_learning_curves` on the left and, in the same
    colors, :func:`plot_metric_bars` of test on the right.
    """
    left = new_axes('plot_run', width=11.0, columns=2)
    figure = figure_of(left)
    right = figure.axes[1]
    plot_learning_curves(curves, metric, ax=left)
    colors = colors_of([*curves, *(name for name in bars if name not in curves)])
    plot_metric_bars(bars, f'test {metric}', ax=right, colors=colors)
    right.set_title('Test, read once (95% intervals over users)')
    return figure


def plot_explanation(
    panels: Mapping[str, Sequence[tuple[str, float]]], title: str = ''
) -> 'Figure':
    """Returns a figure with a panel per decomposition of a score: a bar per part and
    the sum below, on one scale.

    Args:
        panels: Names and values by heading, drawn from the top.
        title: Title. (default: none)

    Raises:
        ValueError: If there is no panel, or one without parts.
        ImportError: If matplotlib is not installed.
    """
    if not panels or not all(panels.values()):
        raise ValueError(
            f"'panels' must have at least one part each (got "
            f'{ {name: len(parts) for name, parts in panels.items()} })'
        )
    num_bars = max(len(parts) for parts in panels.values())
    size = 0.8 + 5.2 * len(panels), 1.5 + 0.38 * (num_bars + 1)
    figure = figure_of(new_axes('plot_explanation', *size, columns=len(panels)))
    totals = [sum(value for _, value in parts) for parts in panels.values()]
    values = [value for parts in panels.values() for _, value in parts] + totals
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.24 * (high - low) or 1.0
    for ax, (name, parts), total in zip(
        figure.axes, panels.items(), totals, strict=True
    ):
        _draw_parts(ax, [*parts, ('sum', total)])
        ax.set_title(name, loc='left', fontsize=10.5)
        ax.set_xlim(low - margin if low < 0 else 0.0, high + margin)
        ax.set_ylim(num_bars + 0.6, -0.6)
    if title:
        figure.suptitle(textwrap.fill(title, 40 * len(panels)), fontsize=12)
    return figure


def _draw_parts(ax: 'Axes', parts: Sequence[tuple[str, float]]) -> None:
    last = len(parts) - 1
    for y, (_, value) in enumerate(parts):
        color = COLORS[0] if value >= 0 else COLORS[1]
        ax.barh(y, value, color='0.45' if y == last else color, height=0.66)
        ax.annotate(
            f'{value:+.2g}' if 0 < abs(value) < 0.01 else f'{value:+.3f}',
            (value, y),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords='offset points',
            ha='left' if value >= 0 else 'right',
            va='center',
            fontsize=8.5,
        )
    ax.plot([0, 0], [-0.6, last + 0.6], color='black', linewidth=0.8)
    ax.axhline(last - 0.5, color='0.75', linewidth=0.8)
    names = [name if len(name) <= 34 else f'{name[:31]}...' for name, _ in parts]
    ax.set_yticks(range(len(parts)), names, fontsize=9)
    ax.tick_params(axis='y', length=0)
    ax.set_xlabel('score')
    tidy(ax)
    ax.spines['left'].set_visible(False)
    ax.grid(visible=False, axis='y')
    ax.grid(axis='x', alpha=0.3)
