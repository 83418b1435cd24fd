"""A score, part by part."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from promptmm_pyg.viz.figure import COLORS, figure_of, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
            f"'panels' requires at least one part each (got "
            f'{ {name: len(parts) for name, parts in panels.items()} })'
        )
    most = max(len(parts) for parts in panels.values())
    size = 0.8 + 4.6 * len(panels), 1.5 + 0.38 * (most + 1)
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
        # Room for the numbers at both ends.
        ax.set_xlim(low - margin if low < 0 else 0.0, high + margin)
        ax.set_ylim(most + 0.6, -0.6)
    if title:
        figure.suptitle(textwrap.fill(title, 40 * len(panels)), fontsize=12)
    return figure


def _draw_parts(ax: 'Axes', parts: Sequence[tuple[str, float]]) -> None:
    last = len(parts) - 1
    for place, (_, value) in enumerate(parts):
        color = COLORS[0] if value >= 0 else COLORS[1]
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
    tidy(ax)
    ax.spines['left'].set_visible(False)
    ax.grid(visible=False, axis='y')
    ax.grid(axis='x', alpha=0.3)
