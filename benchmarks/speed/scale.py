"""Cost against edges, from a hundred thousand interactions to ten million.

    python -m benchmarks.speed.scale --sizes 1e5 1e6 1e7 --features 256 --memory 16GiB

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
import hashlib
import json
import math
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import promptmm_pyg
from benchmarks.speed.scale_steps import (
    Costs,
    Size,
    asked,
    distillation,
    draw_graph,
    peak_mib,
    propagation,
    ranking,
    teaching,
    training,
)
from promptmm_pyg.benchmark.result import versions, write_result
from promptmm_pyg.benchmark.run import end_with_parent
from promptmm_pyg.data import open_features, save_features
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.ranking._budget import parse_memory
from promptmm_pyg.training import load_state, save_state, tune_allocator
from promptmm_pyg.viz.figure import figure_of, new_axes, save_figure


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
    """What :func:`measure` returns there."""
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
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        path = work / f'scale-{digest}.safetensors'
        if not path.is_file():
            save_state(path, in_fresh_process(size, work))
        rows.append(load_state(path))
    common = {k: x for k, x in asdict(sizes[0]).items() if k != 'interactions'}
    return {
        'kind': 'scale',
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


def measure(size: Size, folder: Path) -> dict[str, Any]:
    """Everything of one size, in this process; the student comes before the teacher,
    so that the peak of its training and evaluation is its own.

    Args:
        size: The size.
        folder: Where features and targets are written meanwhile.
    """
    tune_allocator()
    torch.set_num_threads(size.threads)
    torch.manual_seed(size.seed)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        return _measure(size, Path(name), Costs(f'{size.interactions:,}'))


def _measure(size: Size, folder: Path, costs: Costs) -> dict[str, Any]:
    start_mib = peak_mib()
    features, targets = folder / 'features', folder / 'targets'
    with costs.timed('graph drawn'):
        data = draw_graph(size)
    with costs.timed('features written'):
        save_features(features, _random_features(size))
    ranking(size, data, training(size, data, costs), costs)
    student_peak_mib = peak_mib()
    propagation(size, data, costs)
    teacher = teaching(size, data, open_features(features), costs)
    asked(teacher, data, targets, costs)
    del teacher
    distillation(size, data, targets, costs)
    return {
        'interactions': size.interactions,
        'edges': data[INTERACTS].edge_index.size(1),
        'users': size.users,
        'items': size.items,
        'costs': costs.found,
        'features_bytes': features.stat().st_size,
        'tables_bytes': size.table,
        'start_mib': start_mib,
        'student_peak_mib': student_peak_mib,
        'peak_mib': peak_mib(),
        'estimated_mib': (size.whole_graph if size.whole_fits else size.peak) / 2**20,
    }


def _random_features(size: Size) -> Iterator[Tensor]:
    """All rows, some at a time: they are nowhere as a whole but on disk."""
    g = torch.Generator().manual_seed(size.seed)
    for rows in torch.arange(size.items).split(2**14):
        yield torch.randn(rows.numel(), size.features, generator=g)


DRAWN = (
    'propagation',
    'rows gathered alone',
    'teacher step, whole graph',
    'student epoch, lazy',
    'student epoch, dense',
    'distillation epoch',
    'triplets of an epoch',
)


def scale_table(result: dict[str, Any]) -> str:
    """Every cost at every size, seconds measured and, where an epoch was cut or users
    were sampled, estimated; the exponents; sizes and memory.
    """
    rows, setting = result['scale'], result['setting']
    head = [f'{row["interactions"]:,}' for row in rows]
    columns = [f'{name} | all, estimated' for name in head]
    lines = [
        f'Seconds by number of interactions; tables of width {setting["width"]}, '
        f'{setting["features"]}-d item features in float16 on disk, '
        f'{setting["threads"]} threads. Steps are medians of {setting["repeats"]}. '
        'Of an epoch that was cut, or of a sample of users, the share that was '
        'measured stands beside its seconds; the estimate for all is never fitted',
        '',
        '| what | ' + ' | '.join(columns) + ' | exponent | of the last two |',
        '|---|' + '---|---|' * len(rows) + '---|---|',
    ]
    for name in dict.fromkeys(name for row in rows for name in row['costs']):
        cells = [name]
        for row in rows:
            cells += _seconds(row['costs'].get(name))
        fit = result['exponents'].get(name)
        cells += (
            ['', '']
            if fit is None
            else [f'{fit["exponent"]:.2f}', f'{fit["last_two"]:.2f}']
        )
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join([*lines, '', *_memory(rows, setting['memory'])])


def _seconds(cost: dict[str, Any] | None) -> list[str]:
    """Measured, and estimated where that was not the whole."""
    if cost is None:
        return ['does not fit', '']
    if cost['share'] == 1:
        return [f'{cost["seconds"]:.3g}', '']
    return [f'{cost["seconds"]:.3g} ({cost["share"]:.2%})', f'{cost["estimate"]:.3g}']


def _memory(rows: list[dict[str, Any]], budget: int) -> list[str]:
    lines = [
        '| interactions | users | items | trained edges | triplets/s | ranked users/s '
        '| tables MiB | features MiB | peak MiB, student and evaluation | '
        'peak MiB, all | estimated MiB |',
        '|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        costs = row['costs']
        cells = [
            *(f'{row[k]:,}' for k in ('interactions', 'users', 'items', 'edges')),
            f'{costs["triplets of an epoch"]["triplets_per_second"]:,.0f}',
            f'{costs["evaluation"]["users_per_second"]:,.0f} '
            f'({costs["evaluation"]["users"]:,} users)',
            *(f'{row[k] / 2**20:.1f}' for k in ('tables_bytes', 'features_bytes')),
            *(
                f'{row[k]:,.0f}'
                for k in ('student_peak_mib', 'peak_mib', 'estimated_mib')
            ),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    most = max(row['peak_mib'] for row in rows)
    kept = 'kept' if most * 2**20 <= budget else 'EXCEEDED'
    lines += ['', f'The budget of {budget / 2**30:g} GiB was {kept}.']
    return lines


def scale_plot(result: dict[str, Any], path: str | Path) -> None:
    """Writes a PNG: seconds over edges, both logarithmic, a line a cost, named with
    its exponent, beside a line of exponent 1.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    ax = new_axes('scale_plot', 8.5, 4.5)
    figure = figure_of(ax)
    rows, starts = result['scale'], []
    for name in DRAWN:
        edges, seconds = measured(rows, name)
        if edges:
            fit = result['exponents'].get(name)
            label = name if fit is None else f'{name}: {fit["exponent"]:.2f}'
            ax.plot(edges, seconds, 'o-', label=label)
            starts.append(seconds[0] / edges[0])
    ends = [min(row['edges'] for row in rows), max(row['edges'] for row in rows)]
    line = [min(starts) * edges for edges in ends]
    ax.plot(ends, line, 'k:', label='exponent 1')
    ax.set_xscale('log')
    ax.set_yscale('log')
    ax.set_xlabel('edges')
    ax.set_ylabel('seconds')
    ax.set_title('Cost against edges, with fitted exponents')
    figure.legend(loc='outside right upper', fontsize='small')
    for side in ('top', 'right'):
        ax.spines[side].set_visible(False)
    save_figure(figure, path)


def measured(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Edges and seconds of a cost, of the sizes where it was measured as a whole."""
    found = [row for row in rows if row['costs'].get(name, {}).get('share') == 1]
    return (
        [row['edges'] for row in found],
        [row['costs'][name]['seconds'] for row in found],
    )


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
