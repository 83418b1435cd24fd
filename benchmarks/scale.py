"""Cost against edges, from a hundred thousand interactions to ten million.

    python -m benchmarks.scale --sizes 1e5 1e6 1e7 --features 256 --memory 16GiB

Every size is measured in a fresh process, so that its peak memory is its own. Graphs
are synthetic: ten interactions a user, an item for five users, long-tailed degrees;
item features are on disk in float16. The exponent of a cost is the slope of a line
through the logarithms of seconds and edges. An epoch of the student with the lazy
optimizer is whole at any size; others stop after ``--seconds``, and what the rest would
have cost is told in a column of its own, which nothing is fitted to. Exact ranking of
*all* users is a product of users and items, so it cannot be linear in edges: it is
measured for ``--ranked-users``.

Finished sizes are kept under ``--work``, so an interrupted run goes on where it was.
Writes ``scale.json`` and ``scale.png``.
"""

import argparse
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import promptmm_pyg
from benchmarks.cache import cached
from benchmarks.result_file import versions, write_result
from benchmarks.scale_graph import Size
from benchmarks.scale_measures import measure
from benchmarks.scale_report import measured, scale_plot, scale_table
from benchmarks.workers import end_with_parent
from promptmm_pyg.ranking._budget import parse_memory


def exponent(edges: list[int], seconds: list[float]) -> float:
    """The slope of least squares through the logarithms of both.

    Raises:
        ValueError: If there are not two different numbers of edges.
    """
    if len(set(edges)) < 2:
        raise ValueError(f"'edges' requires two different numbers (got {edges})")
    x = [math.log(value) for value in edges]
    y = [math.log(value) for value in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)


def fitted(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By cost, the exponent over all sizes and that of the last two alone, where what
    does not grow with the graph weighs least; of what was done as a whole only.
    """
    out = {}
    for name in dict.fromkeys(name for row in rows for name in row['costs']):
        edges, seconds = measured(rows, name)
        if len(set(edges)) > 1:
            out[name] = {
                'exponent': exponent(edges, seconds),
                'last_two': exponent(edges[-2:], seconds[-2:]),
            }
    return out


def in_fresh_process(size: Size, folder: Path) -> dict[str, Any]:
    """What :func:`~benchmarks.scale_measures.measure` returns there."""
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=end_with_parent,
    ) as pool:
        return pool.submit(measure, size, folder).result()


def run(sizes: list[Size], work: Path) -> dict[str, Any]:
    """All sizes, smallest first, each now or before.

    Raises:
        ValueError: Before any work, if one is not positive or does not fit.
    """
    for size in sizes:
        size.check()
    rows = []
    for size in sorted(set(sizes), key=lambda size: size.interactions):
        key = ['scale', promptmm_pyg.__version__, torch.__version__, asdict(size)]
        make = partial(in_fresh_process, size, work)
        rows.append(cached(work, key, make, prefix='scale-'))
    common = {k: x for k, x in asdict(sizes[0]).items() if k != 'interactions'}
    return {
        'scale': rows,
        'exponents': fitted(rows),
        'setting': common,
        'versions': versions(),
    }


def whole(text: str) -> int:
    """A whole number, also from text such as ``'1e6'``."""
    number = float(text)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f'must be a whole number (got {text})')
    return int(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--sizes', type=whole, nargs='+', default=[10**5, 10**6, 10**7])
    parser.add_argument('--features', type=int, default=256, help='width, of items')
    parser.add_argument('--width', type=int, default=64, help='of all tables')
    parser.add_argument('--memory', default='16GiB', help='what all has to fit in')
    parser.add_argument('--batch-size', type=whole, default=65_536, help='of a student')
    parser.add_argument('--ranked-users', type=whole, default=100_000, help='at most')
    parser.add_argument('--repeats', type=int, default=3, help='of a step')
    parser.add_argument(
        '--seconds', type=float, default=300, help='of an epoch that may be cut'
    )
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--work', type=Path, default=Path('runs/benchmarks'))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'))
    args = parser.parse_args()
    names = ('features', 'width', 'batch_size', 'ranked_users', 'repeats', 'seconds')
    common: dict[str, Any] = {name: getattr(args, name) for name in names}
    common |= {'memory': parse_memory(args.memory), 'threads': args.threads}
    result = run([Size(number, **common) for number in args.sizes], args.work)
    write_result(args.out / 'scale.json', result)
    scale_plot(result, args.out / 'scale.png')
    print(scale_table(result))


if __name__ == '__main__':
    main()
