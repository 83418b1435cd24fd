"""Figures of training and evaluation; needs matplotlib, draws without a display."""

import random
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptmm_pyg._files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

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


def plot_explanation(
    panels: Mapping[str, Sequence[tuple[str, float]]], title: str = ''
) -> 'Figure':
    """Returns a figure with a panel for each way to add a score up: a bar a part, to
    the right where it raises the score, and the sum below, all on one scale.

    Args:
        panels: Names and values by heading, drawn from the top.
        title: Stands above. (default: nothing)

    Raises:
        ValueError: If there is no panel, or one without parts.
        ImportError: If matplotlib is not installed.
    """
    if not panels or not all(panels.values()):
        raise ValueError(
            f"'panels' needs at least one part each (got "
            f'{ {name: len(parts) for name, parts in panels.items()} })'
        )
    first = _new_axes('plot_explanation', 0.8 + 4.6 * len(panels), columns=len(panels))
    figure = first.get_figure(root=True)
    assert figure is not None
    most = max(len(parts) for parts in panels.values())
    figure.set_figheight(1.5 + 0.38 * (most + 1))
    totals = [sum(value for _, value in parts) for parts in panels.values()]
    values = [value for parts in panels.values() for _, value in parts] + totals
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.24 * (high - low) or 1.0
    for ax, (name, parts), total in zip(
        figure.axes, panels.items(), totals, strict=True
    ):
        _draw_parts(ax, [*parts, ('sum', total)])
        ax.set_title(name, loc='left', fontsize=10.5)
        # Room for the numbers at both ends.
        ax.set_xlim(low - margin if low < 0 else 0.0, high + margin)
        ax.set_ylim(most + 0.6, -0.6)
    if title:
        figure.suptitle(textwrap.fill(title, 40 * len(panels)), fontsize=12)
    return figure


def _draw_parts(ax: 'Axes', parts: Sequence[tuple[str, float]]) -> None:
    last = len(parts) - 1
    for place, (_, value) in enumerate(parts):
        color = _COLORS[0] if value >= 0 else _COLORS[1]
        ax.barh(place, value, color='0.45' if place == last else color, height=0.66)
        ax.annotate(
            f'{value:+.2g}' if 0 < abs(value) < 0.01 else f'{value:+.3f}',
            (value, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords='offset points',
            ha='left' if value >= 0 else 'right',
            va='center',
            fontsize=8.5,
        )
    ax.plot([0, 0], [-0.6, last + 0.6], color='black', linewidth=0.8)
    ax.axhline(last - 0.5, color='0.75', linewidth=0.8)
    names = [name if len(name) <= 30 else f'{name[:27]}...' for name, _ in parts]
    ax.set_yticks(range(len(parts)), names, fontsize=9)
    ax.tick_params(axis='y', length=0)
    ax.set_xlabel('score')
    _tidy(ax)
    ax.spines['left'].set_visible(False)
    ax.grid(visible=False, axis='y')
    ax.grid(axis='x', alpha=0.3)


def plot_embedding_map(
    x_dict: Mapping[str, 'Tensor'],
    labels: Sequence[str] | Sequence[float] | None = None,
    *,
    label_name: str = '',
    mask_dict: Mapping[str, 'Tensor'] | None = None,
    title: str = '',
    max_points: int = 5000,
    seed: int = 0,
) -> 'Figure':
    """Returns a figure with a map for each table, a point a row: the rows on their two
    principal axes (:func:`~promptmm_pyg.explain.pca_map`), which all rows decide, also
    those that are not drawn.

    Args:
        x_dict: Tables ``[N, D]`` of the same nodes by name, as by modality; widths may
            differ.
        labels: A word or a number for each node, shown as color; of more than six
            words the five most frequent are told apart. (default: ``None``)
        label_name: What labels are. (default: nothing)
        mask_dict: ``[N]``, bool, by name: which rows are there. (default: all)
        title: Stands above. (default: nothing)
        max_points: How many nodes are drawn at most, chosen at random.
            (default: ``5000``)
        seed: Seed of that choice and of the order in which points cover each other.
            (default: ``0``)

    Raises:
        ValueError: If there is no table or row, sizes differ or a table is not finite.
        ImportError: If matplotlib is not installed.
    """
    masks = mask_dict or {}
    num_nodes = _check_map(x_dict, labels, masks, max_points)
    columns = min(len(x_dict), 3 if len(x_dict) in (3, 5, 6) else 4)
    num_rows = -(-len(x_dict) // columns)
    ax = _new_axes('plot_embedding_map', 0.6 + 3.0 * columns, columns, num_rows)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(1.0 + 3.1 * num_rows)
    shown = random.Random(seed).sample(range(num_nodes), min(num_nodes, max_points))
    colors = _PointColors(labels)
    for ax, (name, x) in zip(figure.axes, x_dict.items(), strict=False):
        _scatter(ax, name, x, masks.get(name), shown, colors)
    drawn = figure.axes[: len(x_dict)]
    for ax in figure.axes[len(x_dict) :]:
        ax.remove()
    colors.explain(figure, drawn, label_name)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _check_map(
    x_dict: Mapping[str, 'Tensor'],
    labels: Sequence[str] | Sequence[float] | None,
    masks: Mapping[str, 'Tensor'],
    max_points: int,
) -> int:
    if max_points < 1:
        raise ValueError(f"'max_points' needs to be positive (got {max_points})")
    sizes = {name: x.size(0) for name, x in x_dict.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(
            f"'x_dict' needs tables of the same nodes, one at least (got {sizes})"
        )
    num_nodes = next(iter(sizes.values()))
    if labels is not None and len(labels) != num_nodes:
        raise ValueError(
            f"'labels' needs one entry a row (got {len(labels)} for {num_nodes} rows)"
        )
    for name in x_dict:
        mask = masks.get(name)
        if mask is not None and (len(mask) != num_nodes or not bool(mask.any())):
            raise ValueError(
                f"'mask_dict' needs {num_nodes} entries with one row there at least "
                f"for '{name}' (got {len(mask)} with {int(mask.sum())})"
            )
    return num_nodes


class _PointColors:
    """The colors of points, and what explains them."""

    def __init__(self, labels: Sequence[str] | Sequence[float] | None) -> None:
        self.numbers: list[float] | None = None
        self.words: list[str] | None = None
        if labels is None:
            return
        if any(isinstance(label, str) for label in labels):
            words = [str(label) for label in labels]
            common = [word for word, _ in Counter(words).most_common(len(_COLORS))]
            if len(set(words)) > len(_COLORS):
                common = [*common[:-1], 'other']
            self.words = [word if word in common else 'other' for word in words]
            self.by_word = _colors(sorted(common, key=lambda w: (w == 'other', w)))
        else:
            self.numbers = [float(label) for label in labels]

    def of(self, nodes: Sequence[int]) -> dict[str, Any]:
        if self.words is not None:
            return {'c': [self.by_word[self.words[node]] for node in nodes]}
        if self.numbers is not None:
            return {
                'c': [self.numbers[node] for node in nodes],
                'norm': self.norm(),
                'cmap': 'viridis_r',
            }
        return {'c': _COLORS[0]}

    def norm(self) -> Any:
        from matplotlib.colors import SymLogNorm

        assert self.numbers is not None
        low, high = min(self.numbers), max(self.numbers)
        # Counts have long tails, and zeros.
        return SymLogNorm(1.0, vmin=low, vmax=high if high > low else low + 1)

    def explain(self, figure: 'Figure', axes: Sequence['Axes'], name: str) -> None:
        if self.numbers is not None:
            from matplotlib.cm import ScalarMappable
            from matplotlib.ticker import ScalarFormatter

            mappable = ScalarMappable(self.norm(), 'viridis_r')
            bar = figure.colorbar(mappable, ax=list(axes), label=name, shrink=0.8)
            bar.ax.yaxis.set_major_formatter(ScalarFormatter())
            bar.ax.minorticks_off()
        elif self.words is not None:
            from matplotlib.lines import Line2D

            handles = [
                Line2D([], [], marker='o', linestyle='', color=color, label=word)
                for word, color in self.by_word.items()
            ]
            figure.legend(
                handles=handles,
                title=name or None,
                loc='outside lower center',
                ncols=min(6, len(handles)),
                frameon=False,
            )


def _scatter(
    ax: 'Axes',
    name: str,
    x: 'Tensor',
    mask: 'Tensor | None',
    shown: Sequence[int],
    colors: _PointColors,
) -> None:
    from promptmm_pyg.explain.pca_map import pca_map

    there = list(range(x.size(0)))
    if mask is not None:
        there = [node for node, here in enumerate(mask.tolist()) if here]
        x = x[mask.to(x.device)]
    found = pca_map(x)
    row_of = {node: row for row, node in enumerate(there)}
    nodes = [node for node in shown if node in row_of]
    points = found.points[[row_of[node] for node in nodes]].tolist()
    size = max(3.0, min(22.0, 6000.0 / max(1, len(nodes))))
    ax.scatter(
        [point[0] for point in points],
        [point[1] for point in points],
        s=size,
        alpha=0.8,
        linewidths=0.3,
        edgecolors='0.35',
        **colors.of(nodes),
    )
    ax.set_title(f'{name} ({len(there)} rows)', fontsize=10.5)
    first, second = found.share
    ax.set_xlabel(f'axis 1: {first:.0%} of variance', fontsize=8.5)
    ax.set_ylabel(f'axis 2: {second:.0%}', fontsize=8.5)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_box_aspect(1)


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


def _new_axes(
    caller: str, width: float = 6.0, columns: int = 1, rows: int = 1
) -> 'Axes':
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
    figure.subplots(rows, columns)
    return figure.axes[0]


def _tidy(ax: 'Axes') -> None:
    for side in ('top', 'right'):
        ax.spines[side].set_visible(False)
    ax.grid(axis='y', alpha=0.3)
    ax.set_axisbelow(True)
