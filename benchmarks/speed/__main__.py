"""Times against their alternatives, all in one run; medians and ratios.

    python -m benchmarks.speed
    python -m benchmarks.speed --epochs [--device cuda]
    python -m benchmarks.speed --processes 1 2
    python -m benchmarks.speed --item-graphs 200000

Writes ``benchmarks/results/speed.json``; the second, with epoch and evaluation of
teacher and LightGCN beside plain loops, ``epochs.json`` in a few minutes; the third,
with steps of sharded tables by the number of processes, ``sharded.json``; the fourth,
with approximate item graphs and their recall, ``item_graphs.json``.
Everything is synthetic, so nothing but the package is needed; torch_sparse and the
libraries that ``benchmarks/README.md`` names take part where they are installed.
"""

import argparse
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import Graph, Times, interleaved, random_graph
from benchmarks.speed.models import lightgcn_runs, peer_runs
from benchmarks.speed.operators import (
    CHANNELS,
    evaluation_runs,
    item_graphs,
    item_graphs_table,
    propagation_runs,
    ranking_runs,
    roofline_rows,
    roofline_runs,
    sampling_runs,
    triad_numbers,
    with_rate,
)
from benchmarks.speed.scale_steps import sharded_costs, sharded_table
from benchmarks.speed.teacher import epoch_runs, epoch_times, teacher_runs
from promptmm_pyg.benchmark.result import versions, write_result
from promptmm_pyg.cli.parsing import UserError, check_device
from promptmm_pyg.nn import CSRPair
from promptmm_pyg.training import tune_allocator

PEER_EPOCHS = 5
GRAPHS = {
    '9k x 7k, 60k edges': (9_308, 6_710, 60_000),
    '44k x 17k, 435k edges': (44_000, 17_000, 435_000),
    '200k x 60k, 2.7M edges': (200_000, 60_000, 2_700_000),
}
RANKED_USERS = 6_130
GIVEN_BACK = 'freed memory given back'  # What a process of torch does by itself.
FEATURES = {'2 x 128-d': (128, 128), '4096-d + 1024-d': (4096, 1024)}


def roofline(name: str, graph: Graph, repeats: int) -> list[dict[str, float | str]]:
    """The sparse product beside the bandwidth of the memory."""
    size = (graph.num_users, graph.num_items)
    weight = torch.rand(graph.num_edges)
    pair = CSRPair.from_edge_index(graph.edge_index, weight, size=size)
    numbers = triad_numbers()
    times = interleaved(roofline_runs(pair, CHANNELS, numbers), repeats)
    return roofline_rows(name, pair, times, numbers)


def measure(repeats: int, width: int) -> dict[str, Any]:
    """Every section, by title, and the roofline."""
    graphs = {name: random_graph(*sizes) for name, sizes in GRAPHS.items()}
    smallest, graph = next(iter(graphs.items()))
    tables = torch.randn(graph.num_users, 64), torch.randn(graph.num_items, 64)
    sections: dict[str, Times] = {}
    for name, widths in FEATURES.items():
        runs = teacher_runs(graph, widths)
        sections[f'teacher, {name}, {GIVEN_BACK}'] = interleaved(runs, repeats)
    # From here on for all alike: page faults are as long as some runs, and as many as
    # the process happens to have.
    tune_allocator()
    for name, widths in FEATURES.items():
        runs = teacher_runs(graph, widths)
        sections[f'teacher, {name}'] = interleaved(runs, repeats)
    rows: list[dict[str, float | str]] = []
    for name, any_graph in graphs.items():
        runs = propagation_runs(any_graph, width)
        sections[f'propagation, {name}'] = interleaved(runs, repeats)
        rows += roofline(name, any_graph, repeats)
    runs = lightgcn_runs(graph)
    sections[f'LightGCN epoch, {smallest}'] = interleaved(runs, repeats)
    times = interleaved(peer_runs(graph, epochs=PEER_EPOCHS), repeats)
    sections[f'factorization under BPR, {PEER_EPOCHS} epochs, {smallest}'] = with_rate(
        times, PEER_EPOCHS * graph.num_edges
    )
    runs = ranking_runs(graph, *tables, RANKED_USERS)
    sections[f'full ranking, {RANKED_USERS:,} users'] = interleaved(runs, repeats)
    runs = evaluation_runs(graph, *tables, RANKED_USERS)
    sections[f'evaluation, {RANKED_USERS:,} users'] = interleaved(runs, repeats)
    for name, any_graph in graphs.items():
        times = interleaved(sampling_runs(any_graph), repeats)
        sections[f'negatives, {name}'] = with_rate(times, any_graph.num_edges)
    return {'sections': sections, 'roofline': rows}


def measure_epochs(repeats: int, device: str) -> dict[str, Any]:
    """Epoch and evaluation of every contestant, in seconds, and their parts."""
    tune_allocator()
    graph = random_graph(*next(iter(GRAPHS.values())))
    contestants = epoch_runs(graph, RANKED_USERS, device)
    parts = {
        f'{name}: {part}': run
        for name, runs in contestants.items()
        for part, run in runs.items()
    }
    times = interleaved(parts, repeats)
    epochs = {}
    for name, runs in contestants.items():
        size = int(name.split('batch ')[1].split()[0].rstrip(','))
        own = {part: times[f'{name}: {part}'] for part in runs}
        epochs[name] = {
            key: epoch_times(own, size, graph.num_edges, f'{key}_ms') / 1e3
            for key in ('cpu', 'median')
        } | {f'{part}_cpu_ms': value['cpu_ms'] for part, value in own.items()}
    return {'epochs': epochs, 'device': device}


def epochs_table(result: dict[str, Any]) -> str:
    """Seconds of an epoch and an evaluation, and ratios to ours above."""
    lines = [
        '| epoch and evaluation | CPU s | to ours | wall s | CPU ms of drawing, step '
        'and evaluation |',
        '|---|---|---|---|---|',
    ]
    ours = 1.0
    for name, value in result['epochs'].items():
        if '(ours)' in name:
            ours = value['cpu']
        parts = ', '.join(
            f'{value[f"{part}_cpu_ms"]:.1f}'
            for part in ('drawing', 'step', 'evaluation')
        )
        lines.append(
            f'| {name} | {value["cpu"]:.2f} | {value["cpu"] / ours:.1f}x | '
            f'{value["median"]:.2f} | {parts} |'
        )
    load, threads = result['load'], result['threads']
    lines += ['', f'{threads} threads on {result["device"]}; load {load:.1f} before.']
    return '\n'.join(lines)


def roofline_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Measured time beside the time at full bandwidth; nothing without rows."""
    if not rows:
        return []
    cells = [
        f'| {row["graph"]} | {row["channels"]} | {row["median_ms"]:.2f} | '
        f'{row["alone_ms"]:.2f} | {row["once_ms"]:.2f} | {row["gb_per_s"]:.1f} | '
        f'{row["triad_gb_per_s"]:.1f} ({row["triad_best_gb_per_s"]:.1f}) | '
        f'{row["share"]:.0%} |'
        for row in rows
    ]
    return [
        '',
        'Product and gradient beside the bandwidth of the memory, measured by a triad '
        'in the same turns. *Gathered* counts a row for every edge, as if nothing '
        'stayed in a cache, *once* every row once; a share beyond 100 % means that '
        'rows came from the cache.',
        '',
        '| graph | channels | taken, ms | gathered alone, ms | once alone, ms | GB/s | '
        'triad, GB/s (best) | share |',
        '|---|---|---|---|---|---|---|---|',
        *cells,
    ]


def speed_table(result: dict[str, Any]) -> str:
    """Medians, each beside its ratio to our own of the same group."""
    lines = ['| what | how | median ms | to ours |', '|---|---|---|---|']
    for title, times in result['sections'].items():
        ours = 1.0
        for name, value in times.items():
            if '(ours)' in name:  # The first of its group.
                ours = value['median_ms']
            rate = f', {value["per_second"]:,.0f}/s' if 'per_second' in value else ''
            lines.append(
                f'| {title} | {name}{rate} | {value["median_ms"]:.2f} | '
                f'{value["median_ms"] / ours:.1f}x |'
            )
    lines += ['', f'Peak memory of the whole run: {result["peak_memory_mib"]:.0f} MiB.']
    return '\n'.join([*lines, *roofline_lines(result.get('roofline', []))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--width', type=int, default=32, help='channels propagated')
    parser.add_argument('--epochs', action='store_true', help='epochs and evaluation')
    parser.add_argument('--device', default='cpu', help='of --epochs')
    parser.add_argument('--processes', type=int, nargs='+', help='of sharded tables')
    parser.add_argument('--item-graphs', type=int, help='by a number of items')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    try:
        check_device(args.device)
    except (UserError, RuntimeError) as error:
        parser.error(str(error))
    kind, load = 'epochs' if args.epochs else 'speed', os.getloadavg()[0]
    if args.processes:
        kind = 'sharded'
        costs = [sharded_costs(number, args.width) for number in args.processes]
        measured: dict[str, Any] = {'sharded': costs, 'width': args.width}
        table: Callable[[dict[str, Any]], str] = sharded_table
    elif args.item_graphs:
        kind, number = 'item_graphs', args.item_graphs
        measured = {'item_graphs': item_graphs(number), 'num_items': number}
        table = item_graphs_table
    elif args.epochs:
        measured, table = measure_epochs(args.repeats, args.device), epochs_table
    else:
        measured, table = measure(args.repeats, args.width), speed_table
    result = {
        'kind': kind,
        **measured,
        'peak_memory_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        'threads': torch.get_num_threads(),
        'load': load,
        'versions': versions(),
    }
    write_result(args.out or Path(f'benchmarks/results/{kind}.json'), result)
    print(table(result))


if __name__ == '__main__':
    main()
