"""Figures without a display, in one style, and their files."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from promptmm_pyg._files import replacing
from promptmm_pyg._utils import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, distinct for color-blind readers; in order of use.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = 'osD^vP'


def save_figure(figure: 'Figure', path: str | Path) -> None:
    """Writes a figure as PNG, atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format='png', dpi=150)


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A color per name, in the order of the palette."""
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def new_axes(
    caller: str,
    width: float = 6.0,
    height: float = 4.2,
    *,
    columns: int = 1,
    rows: int = 1,
) -> 'Axes':
    """The first axes of a new figure on the Agg canvas, in inches. ``pyplot`` would
    choose a backend for the whole process and never release the figure.

    Raises:
        ImportError: If matplotlib is not installed; ``caller`` is named.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra(caller, 'matplotlib', 'viz') from error
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    figure.subplots(rows, columns)
    return figure.axes[0]


def figure_of(ax: 'Axes') -> 'Figure':
    """The figure of the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def tidy(ax: 'Axes') -> None:
    """Removes the top and right frame and adds a grid."""
    for side in ('top', 'right'):
        ax.spines[side].set_visible(False)
    ax.grid(axis='y', alpha=0.3)
    ax.set_axisbelow(True)
