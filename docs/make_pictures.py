"""The pictures and the results table of the README, from ``benchmarks/results``.

python docs/make_pictures.py          # writes the pictures
python docs/make_pictures.py --table  # prints the table
"""

import argparse
import runpy
from pathlib import Path
from typing import Any, NamedTuple

from promptmm_pyg.benchmark.result import load_result, rows_by_name
from promptmm_pyg.viz.figure import COLORS, figure_of, new_axes, save_figure

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / 'benchmarks' / 'results'
PICTURE = DOCS / '_static' / 'results.png'
METRIC = 'Recall@20'
DATASETS = {'tiktok': 'TikTok', 'ml100k': 'MovieLens-100K', 'synthetic': 'synthetic'}
OURS = ('PromptMM', 'PromptMMPlus')
COLUMNS = ('best tuned baseline', 'teacher', 'student without KD', 'student')


class Value(NamedTuple):
    """Mean and standard deviation over seeds on test."""

    model: str
    width: int | None
    mean: float
    std: float


class Row(NamedTuple):
    """The four models of a data set, in the order of ``COLUMNS``."""

    name: str
    values: tuple[Value, Value, Value, Value]


def rows() -> list[Row]:
    """One row per data set. The best baseline is the one with the highest validation
    metric among the tuned models of the suite, those of this library excluded.
    """
    return [Row(title, _values(name)) for name, title in DATASETS.items()]


def _values(dataset: str) -> tuple[Value, Value, Value, Value]:
    suite = rows_by_name(_read(f'suite-{dataset}'))
    others = {name: row for name, row in suite.items() if name not in OURS}
    best = max(others, key=lambda name: others[name]['validation']['mean'])
    main = rows_by_name(_read(f'main-{dataset}'))
    return (
        _value(best, others[best]),
        _value('PromptMM', main['PromptMM']),
        _value('LightGCN', main['LightGCN baseline']),
        _value('LightGCN', main['LightGCN student']),
    )


def _read(name: str) -> dict[str, Any]:
    return load_result(RESULTS / f'{name}.json')


def _value(name: str, model: dict[str, Any]) -> Value:
    metric = model['test'][METRIC]
    return Value(name, model.get('width'), metric['mean'], metric['std'])


def table() -> str:
    """The results table in Markdown."""
    head = f'| {METRIC} on test | {" | ".join(COLUMNS)} |'
    lines = [head, '|---' * (1 + len(COLUMNS)) + '|']
    for row in rows():
        cells = [
            f'{value.mean:.4f} ± {value.std:.4f}<br>{_model(value)}'
            for value in row.values
        ]
        lines.append(f'| {row.name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _model(value: Value) -> str:
    return value.model + (f', width {value.width}' if value.width else '')


def draw() -> None:
    """Writes the chart of the table, readable at the width of a phone."""
    data = rows()
    figure = figure_of(new_axes('make_pictures', 6.0, 6.6, rows=len(data)))
    colors = ('0.62', COLORS[0], '0.78', COLORS[1])
    for ax, row in zip(figure.axes, data, strict=True):
        means = [value.mean for value in row.values]
        errors = [value.std for value in row.values]
        ax.barh(range(4), means, xerr=errors, color=colors, height=0.74)
        for place, value in enumerate(row.values):
            ax.annotate(
                f'{value.mean:.3f}',
                (value.mean + value.std, place),
                xytext=(5, 0),
                textcoords='offset points',
                va='center',
                fontsize=12,
                fontweight='bold' if place == 3 else 'normal',
            )
        labels = [
            f'{_short(name, v)}' for name, v in zip(COLUMNS, row.values, strict=True)
        ]
        ax.set_yticks(range(4), labels, fontsize=12)
        ax.tick_params(axis='y', length=0)
        ax.set_xticks([])
        ax.set_xlim(0, 1.2 * max(means))
        ax.invert_yaxis()
        ax.set_title(row.name, loc='left', fontsize=13.5, fontweight='bold')
        for side in ('top', 'right', 'bottom'):
            ax.spines[side].set_visible(False)
    figure.suptitle(f'{METRIC} on test, mean and deviation over seeds', fontsize=12.5)
    save_figure(figure, PICTURE)


def _short(column: str, value: Value) -> str:
    if column == COLUMNS[0]:
        return f'best baseline ({value.model})'
    return column


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--table', action='store_true')
    if parser.parse_args().table:
        print(table())
    else:
        draw()
        runpy.run_path(str(DOCS / '_ext' / 'architecture.py'), run_name='__main__')
