"""Writes the tables of ``RESULTS.md`` from the result files.

    python -m benchmarks.report                  # rewrites the page
    python -m benchmarks.report FILE.json ...    # prints tables (--plot: a figure)

The table between ``<!-- table: NAME -->`` and ``<!-- end -->`` is that of
``benchmarks/results/NAME.json``. ``promptmm benchmark FILE.json`` prints it, too; for
the studies in this folder it prints a table of all rows.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from benchmarks.speed.__main__ import epochs_table, speed_table
from benchmarks.speed.operators import item_graphs_table
from benchmarks.speed.scale import scale_plot, scale_table, stages_table
from benchmarks.speed.scale_steps import sharded_table
from benchmarks.speed.serving import serving_table
from benchmarks.studies.ablation import Ablation, Parts
from benchmarks.studies.budget import Budget
from benchmarks.studies.cold import Cold
from benchmarks.studies.corruption import Corruption, Prompts
from benchmarks.studies.distillation import Distillation
from benchmarks.studies.ensemble import Ensemble
from benchmarks.studies.main import Main
from benchmarks.updates import updates_table
from promptmm_pyg._files import replacing
from promptmm_pyg.benchmark import KINDS, Experiment
from promptmm_pyg.benchmark.experiments import experiment_class
from promptmm_pyg.benchmark.result import load_result

RESULTS = Path(__file__).parent / 'results'
PAGE = RESULTS.parents[1] / 'RESULTS.md'
# The names of kinds in the committed results.
STUDIES: dict[str, type[Experiment]] = {
    **KINDS,
    'ablation': Ablation,
    'budget': Budget,
    'cold': Cold,
    'distillation': Distillation,
    'ensemble': Ensemble,
    'main': Main,
    'promptmm': Parts,
    'prompts': Prompts,
    'variants': Corruption,
}
TABLES = {
    'speed': speed_table,
    'epochs': epochs_table,
    'scale': scale_table,
    'serving': serving_table,
    'sharded': sharded_table,
    'item_graphs': item_graphs_table,
    'stages': stages_table,
    'updates': updates_table,
}


def study(kind: str) -> type[Experiment]:
    """The class of a kind of result."""
    return STUDIES.get(kind) or experiment_class(kind)


def render(path: Path) -> str:
    """The tables of a result file."""
    result = load_result(path)
    kind = result['kind']
    return TABLES[kind](result) if kind in TABLES else study(kind).report(result)


def plot(result: dict[str, Any], path: Path) -> None:
    """Writes a PNG of a result."""
    draw = scale_plot if result['kind'] == 'scale' else study(result['kind']).plot
    draw(result, path)


def updated(text: str, folder: Path = RESULTS) -> str:
    """A page with the tables of the result files in a folder."""

    def table(match: re.Match[str]) -> str:
        rendered = render(folder / f'{match[1]}.json')
        return f'<!-- table: {match[1]} -->\n\n{rendered}\n\n<!-- end -->'

    pattern = r'<!-- table: ([\w-]+) -->.*?<!-- end -->'
    return re.sub(pattern, table, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', nargs='*', type=Path, help='(default: the page)')
    parser.add_argument('--plot', type=Path, help='PNG of one result')
    args = parser.parse_args()
    for path in args.results:
        print(render(path), end='\n\n')
    if args.plot is not None:
        (path,) = args.results
        plot(load_result(path), args.plot)
    if not args.results:
        with replacing(PAGE) as temporary:
            temporary.write_text(updated(PAGE.read_text()))


if __name__ == '__main__':
    main()
