"""Maps of embeddings."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from promptmm_pyg.viz.figure import COLORS, colors_of, figure_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


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
    """Returns a figure with a map per table, a point per row, on the two principal axes
    of all rows (:func:`~promptmm_pyg.explain.pca_map`).

    Args:
        x_dict: Tables ``[N, D]`` of the same nodes by name, as by modality; widths may
            differ.
        labels: A word or a number per node, shown as color; of more than six words
            the five most frequent have a color of their own. (default: ``None``)
        label_name: Title of the legend. (default: none)
        mask_dict: ``[N]``, bool, by name: rows that exist. (default: all)
        title: Title. (default: none)
        max_points: Maximum number of drawn nodes, sampled at random.
            (default: ``5000``)
        seed: Seed of the sample and of the drawing order. (default: ``0``)

    Raises:
        ValueError: If there is no table or row, sizes differ or a table is not finite.
        ImportError: If matplotlib is not installed.
    """
    masks = mask_dict or {}
    num_nodes = _check_map(x_dict, labels, masks, max_points)
    columns = min(len(x_dict), 3 if len(x_dict) in (3, 5, 6) else 4)
    num_rows = -(-len(x_dict) // columns)
    size = 0.6 + 3.0 * columns, 1.0 + 3.1 * num_rows
    ax = new_axes('plot_embedding_map', *size, columns=columns, rows=num_rows)
    figure = figure_of(ax)
    shown = random.Random(seed).sample(range(num_nodes), min(num_nodes, max_points))
    colors = _PointColors(labels)
    for ax, (name, x) in zip(figure.axes, x_dict.items(), strict=False):
        _scatter(ax, name, x, masks.get(name), shown, colors)
    drawn = figure.axes[: len(x_dict)]
    for ax in figure.axes[len(x_dict) :]:
        ax.remove()
    colors.add_legend(figure, drawn, label_name)
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
        raise ValueError(f"'max_points' must be positive (got {max_points})")
    sizes = {name: x.size(0) for name, x in x_dict.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(
            f"'x_dict' must have one or more tables of the same nodes (got {sizes})"
        )
    num_nodes = next(iter(sizes.values()))
    if labels is not None and len(labels) != num_nodes:
        raise ValueError(
            f"'labels' must have one entry per row (got {len(labels)} for {num_nodes} "
            f'rows)'
        )
    for name in x_dict:
        mask = masks.get(name)
        if mask is not None and (len(mask) != num_nodes or not bool(mask.any())):
            raise ValueError(
                f"'mask_dict' must have {num_nodes} entries, one or more true, for "
                f"'{name}' (got {len(mask)} with {int(mask.sum())})"
            )
    return num_nodes


class _PointColors:
    """The colors of points, and their legend or color bar."""

    def __init__(self, labels: Sequence[str] | Sequence[float] | None) -> None:
        self.numbers: list[float] | None = None
        self.words: list[str] | None = None
        if labels is None:
            return
        if any(isinstance(label, str) for label in labels):
            words = [str(label) for label in labels]
            common = [word for word, _ in Counter(words).most_common(len(COLORS))]
            if len(set(words)) > len(COLORS):
                common = [*common[:-1], 'other']
            self.words = [word if word in common else 'other' for word in words]
            self.by_word = colors_of(sorted(common, key=lambda w: (w == 'other', w)))
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
        return {'c': COLORS[0]}

    def norm(self) -> Any:
        from matplotlib.colors import SymLogNorm

        assert self.numbers is not None
        low, high = min(self.numbers), max(self.numbers)
        # Counts have long tails, and zeros.
        return SymLogNorm(1.0, vmin=low, vmax=high if high > low else low + 1)

    def add_legend(self, figure: 'Figure', axes: Sequence['Axes'], name: str) -> None:
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

    present = list(range(x.size(0)))
    if mask is not None:
        present = mask.nonzero().view(-1).tolist()
        x = x[mask.to(x.device)]
    coordinates = pca_map(x)
    row_of = {node: row for row, node in enumerate(present)}
    nodes = [node for node in shown if node in row_of]
    points = coordinates.points[[row_of[node] for node in nodes]].tolist()
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
    ax.set_title(f'{name} ({len(present)} rows)', fontsize=10.5)
    first, second = coordinates.share
    ax.set_xlabel(f'axis 1: {first:.0%} of variance', fontsize=8.5)
    ax.set_ylabel(f'axis 2: {second:.0%}', fontsize=8.5)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_box_aspect(1)
