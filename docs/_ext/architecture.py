"""The one picture of the architecture: from files to served lists.

``STAGES`` and ``ARROWS`` are the only source. ``python docs/_ext/architecture.py``
writes the SVG, and ``tests/test_layers.py`` compares the arrows with the imports.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).parents[1] / '_static' / 'architecture.svg'
BOX = 164, 56
STEP = 204, 92


class Stage(NamedTuple):
    """A box: its second line, column and row. ``package`` is false for what is
    outside of the package.
    """

    text: str
    column: int
    row: int
    package: bool = True


class Arrow(NamedTuple):
    """``target`` imports ``source``. With ``data_only`` neither imports the other:
    files or tensors pass.
    """

    source: str
    target: str
    data_only: bool = False


STAGES = {
    'files': Stage('tables and folders', 1, 0, package=False),
    'data': Stage('files to a Split', 1, 1),
    'models': Stage('teachers and students', 1, 2),
    'training': Stage('train', 1, 3),
    'distillation': Stage('distill', 1, 4),
    'serving': Stage('Recommender', 1, 5),
    'lists': Stage('by raw ids', 1, 6, package=False),
    'transforms': Stage('graph to graph', 0, 2),
    'loader': Stage('edges to batches', 0, 3),
    'losses': Stage('tensors to numbers', 0, 4),
    'nn': Stage('layers and operators', 2, 2),
    'evaluation': Stage('metrics, intervals', 2, 3),
    'ranking': Stage('exact top-K lists', 2, 5),
}
ARROWS = (
    Arrow('files', 'data', data_only=True),
    Arrow('data', 'models'),
    Arrow('models', 'training'),
    Arrow('training', 'distillation'),
    Arrow('distillation', 'serving', data_only=True),
    Arrow('serving', 'lists', data_only=True),
    Arrow('transforms', 'models'),
    Arrow('loader', 'training'),
    Arrow('losses', 'distillation'),
    Arrow('nn', 'models'),
    Arrow('evaluation', 'training'),
    Arrow('ranking', 'evaluation'),
    Arrow('ranking', 'serving'),
)


def draw() -> str:
    """The picture as SVG."""
    width = STEP[0] * 2 + BOX[0] + 20
    height = STEP[1] * 6 + BOX[1] + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'role="img" aria-label="Packages from files to served lists" '
        'font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#57606a"/>'
        '</marker></defs>',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    parts += [_arrow(arrow) for arrow in ARROWS]
    parts += [_box(name, stage) for name, stage in STAGES.items()]
    return '\n'.join([*parts, '</svg>', ''])


def _corner(stage: Stage) -> tuple[int, int]:
    return 10 + STEP[0] * stage.column, 10 + STEP[1] * stage.row


def _box(name: str, stage: Stage) -> str:
    x, y = _corner(stage)
    middle = x + BOX[0] // 2
    look = 'fill="#e8f1fa" stroke="#0072b2" stroke-width="1.5"'
    if not stage.package:
        look = 'fill="#f6f8fa" stroke="#8c959f" stroke-width="1.5"'
    return (
        f'<rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="6" {look}/>'
        f'<text x="{middle}" y="{y + 25}" text-anchor="middle" font-size="17" '
        f'font-weight="600" fill="#1b1f24">{escape(name)}</text>'
        f'<text x="{middle}" y="{y + 45}" text-anchor="middle" font-size="14.5" '
        f'fill="#57606a">{escape(stage.text)}</text>'
    )


def _arrow(arrow: Arrow) -> str:
    source, target = STAGES[arrow.source], STAGES[arrow.target]
    (x1, y1), (x2, y2) = _corner(source), _corner(target)
    if source.row == target.row:
        right, middle = x2 > x1, BOX[1] // 2
        x1, x2 = x1 + right * BOX[0], x2 + (not right) * BOX[0]
        y1, y2 = y1 + middle, y2 + middle
    else:
        down, middle = y2 > y1, BOX[0] // 2
        y1, y2 = y1 + down * BOX[1], y2 + (not down) * BOX[1]
        x1, x2 = x1 + middle, x2 + middle
    dashes = ' stroke-dasharray="5 4"' if arrow.data_only else ''
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#57606a" '
        f'stroke-width="1.8"{dashes} marker-end="url(#tip)"/>'
    )


if __name__ == '__main__':
    FILE.write_text(draw(), encoding='utf-8')
