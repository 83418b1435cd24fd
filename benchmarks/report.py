"""Writes the tables of ``RESULTS.md`` from the result files.

    python -m benchmarks.report                  # rewrites the page
    python -m benchmarks.report FILE.json ...    # prints tables (--plot: a figure)

The table between ``<!-- table: NAME -->`` and ``<!-- end -->`` is that of
``benchmarks/results/NAME.json``. ``promptmm benchmark FILE.json`` prints one, too.
"""

import argparse
from pathlib import Path

from benchmarks.speed.__main__ import speed_table
from benchmarks.speed.scale import scale_plot, scale_table
from promptmm_pyg.benchmark import report
from promptmm_pyg.benchmark.result import load_result

RESULTS = Path(__file__).parent / 'results'
PAGE = RESULTS.parents[1] / 'RESULTS.md'
TABLES = {**report.TABLES, 'speed': speed_table, 'scale': scale_table}


def render(path: Path) -> str:
    """The tables of a result file."""
    return report.render(path, TABLES)


def updated(text: str) -> str:
    """A page with the tables of the result files."""
    return report.update_page(text, RESULTS, TABLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', nargs='*', type=Path, help='(default: the page)')
    parser.add_argument('--plot', type=Path, help='PNG of one result')
    args = parser.parse_args()
    for path in args.results:
        print(render(path), end='\n\n')
    if args.plot is not None:
        (path,) = args.results
        result = load_result(path)
        draw = scale_plot if result['kind'] == 'scale' else report.plot
        draw(result, args.plot)
    if not args.results:
        PAGE.write_text(updated(PAGE.read_text()))


if __name__ == '__main__':
    main()
