"""Figures of training and evaluation; needs matplotlib, draws without a display."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptmm_pyg._files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart by color-blind readers; in order of use.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_MARKERS = 'osD^vP'


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
        raise ValueError("'curves' needs to hold at least one model (got none)")
    ax = _new_axes('plot_learning_curves') if ax is None else ax
    colors = _colors(curves)
    for number, (name, records) in enumerate(curves.items()):
        points = [
            (record['epoch'], record['validation'][metric])
            for record in records
            if metric in record.get('validation', {})
        ]
        if not points:
            raise ValueError(
                f"'curves' needs '{metric}' among the validation metrics of '{name}' "
                f"(got none). Name one that was monitored with 'metric'"
            )
        epochs, values = zip(*points, strict=True)
        color = colors[name]
        ax.plot(epochs, values, color=color, linewidth=1.8, label=name)
        best = max(range(len(values)), key=values.__getitem__)
        marker = _MARKERS[number % len(_MARKERS)]
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
    _tidy(ax)
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
        raise ValueError("'bars' needs to hold at least one model (got none)")
    for name, bar in bars.items():
        if not bar.low <= bar.value <= bar.high:
            raise ValueError(
                f"'bars' needs each value inside its interval (got {bar} for '{name}')"
            )
    ax = _new_axes('plot_metric_bars') if ax is None else ax
    colors = colors or _colors(bars)
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
    _tidy(ax)
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
    left = _new_axes('plot_run', width=11.0, columns=2)
    figure = left.get_figure(root=True)
    assert figure is not None
    right = figure.axes[1]
    plot_learning_curves(curves, metric, ax=left)
    colors = _colors([*curves, *(name for name in bars if name not in curves)])
    plot_metric_bars(bars, f'test {metric}', ax=right, colors=colors)
    right.set_title('Test, read once (95% intervals over users)')
    return figure


def save_figure(figure: 'Figure', path: str | Path) -> None:
    """Writes a figure as PNG, whole or not at all.

    Args:
        figure: What to write.
        path: The file.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format='png', dpi=150)


def _colors(names: Iterable[str]) -> dict[str, str]:
    return {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}


def _new_axes(caller: str, width: float = 6.0, columns: int = 1) -> 'Axes':
    """The first axes of a new figure on the Agg canvas: `pyplot` would choose a
    backend for the whole process and keep the figure for ever.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"'{caller}' needs 'matplotlib'. Install it with "
            f"'pip install promptmm_pyg[viz]'"
        ) from error
    figure = Figure(figsize=(width, 4.2), layout='constrained')
    FigureCanvasAgg(figure)
    figure.subplots(1, columns)
    return figure.axes[0]


def _tidy(ax: 'Axes') -> None:
    for side in ('top', 'right'):
        ax.spines[side].set_visible(False)
    ax.grid(axis='y', alpha=0.3)
    ax.set_axisbelow(True)
