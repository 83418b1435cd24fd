"""The pictures and the results table of the README, from ``benchmarks/results``.

python docs/make_pictures.py                      # writes the pictures
python docs/make_pictures.py --table              # prints the table
python docs/make_pictures.py --gallery runs/demo  # of the front page, from a demo
"""

import argparse
import runpy
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from promptmm_pyg.benchmark.result import load_result, rows_by_name
from promptmm_pyg.cli import main
from promptmm_pyg.viz.figure import COLORS, figure_of, new_axes, save_figure

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / 'benchmarks' / 'results'
PICTURE = DOCS / '_static' / 'results.png'
METRIC = 'Recall@20'
DATASETS = {
    'office': 'Office (Amazon)',
    'tiktok': 'TikTok',
    'ml100k': 'MovieLens-100K',
    'synthetic': 'synthetic',
}
COLUMNS = {
    'EASE': 'EASE',
    'LightGCN': 'LightGCN',
    'PromptMM': 'teacher',
    'LightGCN baseline': 'student without KD',
    'truncated teacher': 'truncated teacher',
    'LightGCN student': 'student',
}
"""Titles by the start of a row's name."""


class Value(NamedTuple):
    """Mean and standard deviation over seeds on test."""

    column: str
    width: int
    mean: float
    std: float


class Row(NamedTuple):
    """The models of a data set, in the order of ``COLUMNS``."""

    name: str
    values: tuple[Value, ...]


def rows() -> list[Row]:
    """One row per data set."""
    return [Row(title, _values(name)) for name, title in DATASETS.items()]


def _values(dataset: str) -> tuple[Value, ...]:
    by_name = rows_by_name(_read(f'main-{dataset}'))
    width = by_name['LightGCN student']['width']
    cut = f'truncated teacher, width {width}'
    names = {name: cut if name == 'truncated teacher' else name for name in COLUMNS}
    return tuple(_value(COLUMNS[k], by_name[name]) for k, name in names.items())


def _read(name: str) -> dict[str, Any]:
    return load_result(RESULTS / f'{name}.json')


def _value(column: str, model: dict[str, Any]) -> Value:
    metric = model['test'][METRIC]
    return Value(column, model['width'], metric['mean'], metric['std'])


def table() -> str:
    """The results table in Markdown."""
    head = f'| {METRIC} on test | {" | ".join(COLUMNS.values())} |'
    lines = [head, '|---' * (1 + len(COLUMNS)) + '|']
    for row in rows():
        cells = [
            f'{value.mean:.4f} ± {value.std:.4f}<br>width {value.width}'
            for value in row.values
        ]
        lines.append(f'| {row.name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def draw() -> None:
    """Writes the chart of the table, readable at the width of a phone."""
    data = rows()
    figure = figure_of(new_axes('make_pictures', 6.0, 2.6 * len(data), rows=len(data)))
    colors = ('0.62', '0.62', COLORS[0], '0.78', '0.78', COLORS[1])
    places = range(len(colors))
    for ax, row in zip(figure.axes, data, strict=True):
        means = [value.mean for value in row.values]
        errors = [value.std for value in row.values]
        ax.barh(places, means, xerr=errors, color=colors, height=0.74)
        for place, value in enumerate(row.values):
            ax.annotate(
                f'{value.mean:.3f}',
                (value.mean + value.std, place),
                xytext=(5, 0),
                textcoords='offset points',
                va='center',
                fontsize=12,
                fontweight='bold' if place == places[-1] else 'normal',
            )
        labels = [f'{v.column} ({v.width})' for v in row.values]
        ax.set_yticks(places, labels, fontsize=12)
        ax.tick_params(axis='y', length=0)
        ax.set_xticks([])
        ax.set_xlim(0, 1.2 * max(means))
        ax.invert_yaxis()
        ax.set_title(row.name, loc='left', fontsize=13.5, fontweight='bold')
        for side in ('top', 'right', 'bottom'):
            ax.spines[side].set_visible(False)
    figure.suptitle(
        f'{METRIC} on test (width), mean and deviation over seeds', fontsize=12.5
    )
    save_figure(figure, PICTURE)


def draw_gallery(run: Path) -> None:
    """Writes the pictures of the front page, small, from the run of a demo."""
    why, items = run / 'explanation.png', run / 'map.png'
    user = 'u1685'  # The most active one.
    main(['explain', str(run), '--user', user, '--out', str(why), '--map', str(items)])
    for picture in (run / 'demo.png', why, items):
        with Image.open(picture) as image:
            image.thumbnail((1200, 1200))
            small = image.convert('RGB').quantize(64)
        small.save(PICTURE.parent / f'gallery_{picture.name}', optimize=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--table', action='store_true')
    parser.add_argument('--gallery', type=Path, metavar='RUN')
    args = parser.parse_args()
    if args.table:
        print(table())
    elif args.gallery:
        draw_gallery(args.gallery)
    else:
        draw()
        runpy.run_path(str(DOCS / '_ext' / 'architecture.py'), run_name='__main__')
