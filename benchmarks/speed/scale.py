"""Cost against edges, from a hundred thousand interactions to ten million.

    python -m benchmarks.speed.scale --sizes 1e5 1e6 1e7 --features 256 --memory 16GiB
    python -m benchmarks.speed.scale --sizes 2e6 --stages 'data check' train distill \\
        evaluate recommend --formats parquet csv
    python -m benchmarks.speed.scale --sizes 1e8 --stages ids --formats parquet

Every size is measured in a process of its own, for its own peak memory. Graphs are
synthetic: ten interactions per user, one item per five users, long-tailed degrees; item
features are on disk in float16. The exponent of a cost is the slope of a line through
the logarithms of seconds and edges. An epoch of the student with the lazy optimizer is
complete at any size; others stop after ``--seconds``. A column of its own has the
estimate for the complete epoch, which is not part of any fit. Exact ranking of *all*
users is a product of users and items and cannot be linear in edges: it is measured for
``--ranked-users``.

Finished sizes are cached under ``--work``: an interrupted run continues. Writes
``scale.json`` and ``scale.png``.

With ``--stages``, the commands of a run on a table with text ids and item features:
``data check``, ``train`` (two epochs), ``distill`` (one), ``evaluate`` and ``recommend
--all-users``, each with its seconds and its peak memory as a process; ``ids`` only
reads and codes the ids. Writes ``stages.json``.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import promptmm_pyg
from benchmarks.speed import Size, draw_graph
from benchmarks.speed.scale_steps import (
    Costs,
    distillation,
    inference,
    peak_mib,
    propagation,
    ranking,
    teaching,
    training,
)
from promptmm_pyg.benchmark.report import markdown, save_plot
from promptmm_pyg.benchmark.result import versions, write_result
from promptmm_pyg.benchmark.run import end_with_parent
from promptmm_pyg.data import open_features, save_features
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.ranking._budget import parse_memory
from promptmm_pyg.training import load_state, save_state, tune_allocator
from promptmm_pyg.viz.figure import figure_of, new_axes

STAGES = ('ids', 'data check', 'train', 'distill', 'evaluate', 'recommend')
_ROWS = 2**20  # Of a block of a table that is written.
_IDS = """import sys
from promptmm_pyg.data.tables import read_file
table = read_file(sys.argv[1], ['user_id', 'item_id'])
print([len(table.ids(name).values) for name in ('user_id', 'item_id')])
"""


def exponent(edges: list[int], seconds: list[float]) -> float:
    """The slope of least squares through the logarithms of both."""
    x, y = ([math.log(value) for value in values] for values in (edges, seconds))
    return statistics.linear_regression(x, y).slope


def fitted(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per cost, the exponent over all sizes and that of the last two, where constant
    costs count least; of complete measurements only.
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
    """The result of :func:`measure` in a new process."""
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=end_with_parent,
    ) as pool:
        return pool.submit(measure, size, folder).result()


def run(sizes: list[Size], work: Path) -> dict[str, Any]:
    """All sizes, smallest first, measured now or read from the cache.

    Raises:
        ValueError: Before any work, if a size is not positive or does not fit.
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


def integer(text: str) -> int:
    """An integer, also from text such as ``'1e6'``."""
    number = float(text)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f'must be an integer (got {text})')
    return int(number)


def measure(size: Size, folder: Path) -> dict[str, Any]:
    """All costs of one size, in this process. The student precedes the teacher, for the
    peak memory of its training and evaluation.

    Args:
        size: The size.
        folder: Folder of temporary features and targets.
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
    inference(teacher, data, targets, costs)
    del teacher
    distillation(size, data, targets, costs)
    return {
        'interactions': size.interactions,
        'edges': data[INTERACTS].edge_index.size(1),
        'users': size.users,
        'items': size.items,
        'costs': costs.by_name,
        'features_bytes': features.stat().st_size,
        'tables_bytes': size.table,
        'start_mib': start_mib,
        'student_peak_mib': student_peak_mib,
        'peak_mib': peak_mib(),
        'estimated_mib': (size.whole_graph if size.whole_fits else size.peak) / 2**20,
    }


def _random_features(size: Size) -> Iterator[Tensor]:
    """All rows in blocks; only the file has all of them."""
    g = torch.Generator().manual_seed(size.seed)
    for rows in torch.arange(size.items).split(2**14):
        yield torch.randn(rows.numel(), size.features, generator=g)


PLOTTED = (
    'propagation',
    'rows gathered alone',
    'teacher step, whole graph',
    'student epoch, lazy',
    'student epoch, dense',
    'distillation epoch',
    'triplets of an epoch',
)


def scale_table(result: dict[str, Any]) -> str:
    """Every cost at every size, in seconds, with an estimate where an epoch was cut or
    users were sampled; the exponents; sizes and memory.
    """
    rows, setting = result['scale'], result['setting']
    sizes = [f'{row["interactions"]:,}' for row in rows]
    columns = [name for size in sizes for name in (size, 'all, estimated')]
    head = ['what', *columns, 'exponent', 'of the last two']
    lines = [
        f'Seconds by number of interactions; tables of width {setting["width"]}, '
        f'{setting["features"]}-d item features in float16 on disk, '
        f'{setting["threads"]} threads. Steps are medians of {setting["repeats"]}. '
        'Of an epoch that was cut, or of a sample of users, the share that was '
        'measured stands beside its seconds; the estimate for all is never fitted',
        '',
    ]
    body = []
    for name in dict.fromkeys(name for row in rows for name in row['costs']):
        cells = [name]
        for row in rows:
            cells += _seconds(row['costs'].get(name))
        fit = result['exponents'].get(name)
        cells += [f'{fit[k]:.2f}' if fit else '' for k in ('exponent', 'last_two')]
        body.append(cells)
    lines += [*markdown(head, body), '', *_memory(rows, setting['memory'])]
    return '\n'.join(lines)


def _seconds(cost: dict[str, Any] | None) -> list[str]:
    """The measurement, and the estimate for all where it is a part."""
    if cost is None:
        return ['does not fit', '']
    if cost['share'] == 1:
        return [f'{cost["seconds"]:.3g}', '']
    return [f'{cost["seconds"]:.3g} ({cost["share"]:.2%})', f'{cost["estimate"]:.3g}']


def _memory(rows: list[dict[str, Any]], budget: int) -> list[str]:
    head = [
        *('interactions', 'users', 'items', 'trained edges', 'triplets/s'),
        *('ranked users/s', 'tables MiB', 'features MiB'),
        *('peak MiB, student and evaluation', 'peak MiB, all', 'estimated MiB'),
    ]
    body = []
    for row in rows:
        evaluation = row['costs']['evaluation']
        triplets = row['costs']['triplets of an epoch']
        memory = ('student_peak_mib', 'peak_mib', 'estimated_mib')
        body.append(
            [
                *(f'{row[k]:,}' for k in ('interactions', 'users', 'items', 'edges')),
                f'{triplets["triplets_per_second"]:,.0f}',
                f'{evaluation["users_per_second"]:,.0f} '
                f'({evaluation["users"]:,} users)',
                *(f'{row[k] / 2**20:.1f}' for k in ('tables_bytes', 'features_bytes')),
                *(f'{row[k]:,.0f}' for k in memory),
            ]
        )
    peak = max(row['peak_mib'] for row in rows)
    state = 'kept' if peak * 2**20 <= budget else 'EXCEEDED'
    text = f'The budget of {budget / 2**30:g} GiB was {state}.'
    return [*markdown(head, body), '', text]


def scale_plot(result: dict[str, Any], path: str | Path) -> None:
    """Writes a PNG: seconds over edges, both logarithmic, one line per cost with its
    exponent, beside a line of exponent 1.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    ax = new_axes('scale_plot', 8.5, 4.5)
    rows, starts = result['scale'], []
    for name in PLOTTED:
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
    figure_of(ax).legend(loc='outside right upper', fontsize='small')
    save_plot(ax, path)


def measured(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Edges and seconds of a cost at the sizes with a complete measurement."""
    complete = [r for r in rows if r['costs'].get(name, {}).get('share') == 1]
    return (
        [row['edges'] for row in complete],
        [row['costs'][name]['seconds'] for row in complete],
    )


def write_table(size: Size, folder: Path, suffix: str, *, has_pairs: bool) -> Path:
    """A table of interactions with text ids, written in blocks, and ids and features of
    its items beside it; without ``has_pairs``, users and items at random.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    path, random = folder / f'clicks.{suffix}', np.random.default_rng(size.seed)
    names, kinds = ('user_id', 'item_id', 'timestamp'), (pa.string(),) * 2
    schema = pa.schema(list(zip(names, (*kinds, pa.int64()), strict=True)))
    kind = pa.parquet.ParquetWriter if suffix == 'parquet' else pa.csv.CSVWriter
    pairs = np.zeros((2, 0), np.int64)
    if has_pairs:
        pairs = draw_graph(size)[INTERACTS].edge_index.numpy()
        pairs = pairs[:, random.permutation(pairs.shape[1])]
        write_items(size, folder, np.unique(pairs[1]))
    number = pairs.shape[1] if has_pairs else size.interactions
    with kind(path, schema) as writer:
        for start in range(0, number, _ROWS):
            rows = np.arange(start, min(start + _ROWS, number))
            block = (
                pairs[:, rows] if has_pairs else _random_pairs(size, len(rows), random)
            )
            texts = [pc.utf8_lpad(pa.array(x).cast(pa.string()), 9, '0') for x in block]
            columns = [*texts, pa.array(1_700_000_000 + rows)]
            writer.write_table(pa.table(columns, schema=schema))
    return path


def _random_pairs(size: Size, number: int, random: np.random.Generator) -> Any:
    return np.stack([random.integers(n, size=number) for n in (size.users, size.items)])


def write_items(size: Size, folder: Path, items: Any) -> None:
    """Ids and random features of items."""
    text = '\n'.join(f'{number:09}' for number in items.tolist())
    (folder / 'ids.txt').write_text(text, encoding='utf-8')
    shape = (len(items), size.features)
    x = np.lib.format.open_memmap(folder / 'text.npy', 'w+', np.float32, shape)
    start = 0
    for rows in _random_features(size):
        part = rows[: len(x) - start]
        x[start : start + len(part)] = part
        start += len(part)
    x.flush()


def stage_commands(
    table: Path, folder: Path, options: Mapping[str, str]
) -> dict[str, list[str]]:
    """The words of the commands of a run, by stage.

    Args:
        table: The interactions.
        folder: Where ids and features are, and the run is written.
        options: The stages with their further options.
    """
    run = str(folder / 'run')
    data = [str(table), '--features', f'text={folder / "text.npy"}']
    data += ['--item-ids', str(folder / 'ids.txt')]
    epochs = ['--validate-every', '1', '--quiet']
    lists = str(folder / 'lists.parquet')
    ranking = ['--all-users', '--approximate', '--save-index', '--overwrite']
    commands = {
        'ids': [str(table)],
        'data check': ['data', 'check', *data],
        'train': [
            'train',
            *data,
            '--out',
            run,
            '--overwrite',
            '--epochs',
            '2',
            *epochs,
        ],
        'distill': ['distill', run, '--overwrite', '--epochs', '1', *epochs],
        'evaluate': ['evaluate', run],
        'recommend': ['recommend', run, *ranking, '--out', lists, *epochs[2:]],
    }
    return {
        stage: [*commands[stage], *shlex.split(words)]
        for stage, words in options.items()
    }


def measure_stages(
    size: Size, folder: Path, suffix: str, options: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Seconds and peak memory of each stage, up to one that fails.

    Args:
        size: The size.
        folder: Where data and run are written.
        suffix: Format of the table.
        options: The stages with their further options.
    """
    table = write_table(size, folder, suffix, has_pairs=set(options) != {'ids'})
    rows = []
    for stage, words in stage_commands(table, folder, options).items():
        program = ['-c', _IDS] if stage == 'ids' else ['-m', 'promptmm_pyg']
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *program, *words])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        row = {'interactions': size.interactions, 'format': suffix, 'stage': stage}
        row |= {'seconds': time.perf_counter() - started}
        row |= {'cpu': usage.ru_utime + usage.ru_stime}
        row |= {'peak_mib': usage.ru_maxrss / 1024, 'status': process.returncode}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if process.returncode:
            break
    return rows


def stages_table(result: dict[str, Any]) -> str:
    """One line per stage."""
    rows = result['stages']
    formats = {'cpu': 'CPU s', 'seconds': 's', 'peak_mib': 'peak MiB', 'status': 'exit'}
    head = ['interactions', 'format', 'stage', *formats.values()]
    body = [
        [
            f'{row["interactions"]:,}',
            row['format'],
            row['stage'],
            *(f'{row[key]:,.0f}' for key in formats),
        ]
        for row in rows
    ]
    return '\n'.join(markdown(head, body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--sizes', type=integer, nargs='+', default=[10**5, 10**6, 10**7]
    )
    parser.add_argument('--features', type=int, default=256, help='of items, columns')
    parser.add_argument('--width', type=int, default=64, help='of all tables')
    parser.add_argument('--memory', default='16GiB', help='memory limit')
    parser.add_argument(
        '--batch-size', type=integer, default=65_536, help='of a student'
    )
    parser.add_argument('--ranked-users', type=integer, default=100_000, help='at most')
    parser.add_argument('--repeats', type=int, default=3, help='of a step')
    parser.add_argument('--seconds', type=float, default=300, help='limit of an epoch')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--stages', nargs='+', choices=STAGES, help='of a run')
    parser.add_argument('--formats', nargs='+', default=['parquet', 'csv'])
    parser.add_argument('--train-options', default='', help='of --stages, as one text')
    parser.add_argument('--distill-options', default='', help='likewise')
    parser.add_argument('--work', type=Path, default=Path('runs/benchmarks'))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'))
    args = parser.parse_args()
    names = ('features', 'width', 'batch_size', 'ranked_users', 'repeats', 'seconds')
    common: dict[str, Any] = {name: getattr(args, name) for name in names}
    common |= {'memory': parse_memory(args.memory), 'threads': args.threads}
    if args.stages:
        texts = {'train': args.train_options, 'distill': args.distill_options}
        options = {stage: texts.get(stage, '') for stage in args.stages}
        rows = [
            row
            for number in args.sizes
            for suffix in args.formats
            for row in measure_stages(
                Size(number, **common), args.work / 'stages', suffix, options
            )
        ]
        result = {'kind': 'stages', 'stages': rows, 'options': options}
        result |= {'threads': args.threads, 'versions': versions()}
        write_result(args.out / 'stages.json', result)
        print(stages_table(result))
        return
    result = run([Size(number, **common) for number in args.sizes], args.work)
    write_result(args.out / 'scale.json', result)
    scale_plot(result, args.out / 'scale.png')
    print(scale_table(result))


if __name__ == '__main__':
    main()
