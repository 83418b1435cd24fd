"""How a run went: validation over the epochs, and the results on test."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from promptmm_pyg.viz.figure import MARKERS, colors_of, figure_of, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Bar(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


Records = Sequence[Mapping[str, Any]]
"""One record an epoch: a :class:`~promptmm_pyg.training.History`'s ``records``, or
the lines of a ``log.jsonl``."""


def plot_learning_curves(
    curves: Mapping[str, Records],
    metric: str = 'Recall@20',
    *,
    ax: 'Axes | None' = None,
) -> 'Axes':
    """Draws a validation metric over the epochs, a line a model, a ring around the
    best epoch of each.

    Args:
        curves: Records by name of the model.
        metric: Which metric. (default: ``'Recall@20'``)
        ax: Where to draw. (default: a figure of its own)

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
                f"'curves' requires '{metric}' among the validation metrics of "
                f"'{name}' "
                f"(got none). Name one that was monitored with 'metric'"
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
    ax.set_title('Learning curves (mark: the epoch kept)')
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
    """Draws a bar a model with its interval and its value above.

    Args:
        bars: Values with intervals by name of the model.
        metric: What they are values of. (default: ``'Recall@20'``)
        ax: Where to draw. (default: a figure of its own)
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
                f"'bars' requires each value inside its interval (got {bar} for "
                f"'{name}')"
            )
    ax = new_axes('plot_metric_bars') if ax is None else ax
    colors = colors or colors_of(bars)
    places = range(len(bars))
    values = [bar.value for bar in bars.values()]
    errors = [
        [b.value - b.low for b in bars.values()],
        [b.high - b.value for b in bars.values()],
    ]
    ax.bar(places, values, color=[colors[name] for name in bars], width=0.65)
    ax.errorbar(places, values, yerr=errors, fmt='none', ecolor='black', capsize=5)
    for place, bar in zip(places, bars.values(), strict=True):
        ax.annotate(
            f'{bar.value:.3f}',
            (place, bar.high),
            xytext=(0, 5),
            textcoords='offset points',
            ha='center',
        )
    ax.set_xticks(list(places), list(bars))
    ax.set_ylabel(metric)
    ax.set_ylim(0, 1.15 * max(bar.high for bar in bars.values()) or 1)
    tidy(ax)
    return ax


def plot_run(
    curves: Mapping[str, Records],
    bars: Mapping[str, Bar],
    metric: str = 'Recall@20',
) -> 'Figure':
    """Returns a figure with the learning curves to the left and the test results,
    in the same colors, to the right.

    Args:
        curves: As in :func:`plot_learning_curves`.
        bars: As in :func:`plot_metric_bars`, on test.
        metric: Which metric. (default: ``'Recall@20'``)

    Raises:
        ValueError: As in both functions.
        ImportError: If matplotlib is not installed.
    """
    left = new_axes('plot_run', width=11.0, columns=2)
    figure = figure_of(left)
    right = figure.axes[1]
    plot_learning_curves(curves, metric, ax=left)
    colors = colors_of([*curves, *(name for name in bars if name not in curves)])
    plot_metric_bars(bars, f'test {metric}', ax=right, colors=colors)
    right.set_title('Test, read once (95% intervals over users)')
    return figure
