"""A recommender of a million users and 100,000 items: what a call and a load cost.

    python -m benchmarks.speed.serving

Users, items, vectors and 20 interactions per user are random, ids are integers or text
in random order. All numbers are times of the processor, so that other programs on the
machine matter little; calls take turns. Batches are compared with
``implicit.cpu.topk`` on the same tables, where it is installed: it gets row numbers and
returns row numbers, a recommender gets and returns raw ids. Writes
``benchmarks/results/serving.json``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed import Runs
from promptmm_pyg._utils import counted
from promptmm_pyg.benchmark.report import markdown
from promptmm_pyg.benchmark.result import versions, write_result
from promptmm_pyg.serving import Recommender

K = 20
BATCH = 1024
WIDTH = 32
PER_USER = 20
_MIB = 2**20


def random_recommender(num_users: int, num_items: int, ids: str) -> Recommender:
    """The same at every call.

    Args:
        num_users: The number of users.
        num_items: The number of items.
        ids: ``'integer'`` or ``'text'``.
    """
    g = torch.Generator().manual_seed(0)
    user = torch.arange(num_users).repeat_interleave(PER_USER)
    popular = torch.rand(user.numel(), generator=g).square_().mul_(num_items).long()
    names: list[Any] = []
    for kind, number in (('user', num_users), ('item', num_items)):
        raw = torch.randperm(10 * number, generator=g)[:number].tolist()
        names.append([f'{kind}-{x:08}' for x in raw] if ids == 'text' else raw)
    return Recommender(
        torch.randn(num_users, WIDTH, generator=g),
        torch.randn(num_items, WIDTH, generator=g),
        user_ids=names[0],
        item_ids=names[1],
        seen=torch.stack([user, popular]),
    )


def cpu_ms(runs: Runs, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of the processor of each run; runs take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            if turn:  # The first turn warms up.
                times[name].append(1e3 * (time.process_time() - started))
    return times


def single_runs(recommender: Recommender) -> Runs:
    """Calls for one user, another one each time."""
    users = _cycle(recommender.users[:: max(1, recommender.num_users // 5000)])
    items = _cycle(recommender.items[:: max(1, recommender.num_items // 500)])
    deny = recommender.items[1:1001]
    recommend = recommender.recommend
    return {
        'recommend': lambda: recommend(next(users), K),
        'deny=, 100 items': lambda: recommend(next(users), K, deny=deny[:100]),
        'deny=, 1,000 items': lambda: recommend(next(users), K, deny=deny),
        'recommend_from_history, 20 items': lambda: recommender.recommend_from_history(
            [next(items) for _ in range(20)], K
        ),
        'similar_items': lambda: recommender.similar_items(next(items), K),
    }


def unknown_runs(recommender: Recommender) -> Runs:
    """Ids that are refused: nothing resembles them, or many do."""
    known = str(recommender.users[0])
    variants = ('nobody', known[:-1], known[1:], f'{known}0', known.upper() + '?')
    unknown = [raw for raw in variants if raw not in recommender.users]
    return {raw: _refused(recommender, raw) for raw in unknown}


def batch_runs(recommender: Recommender) -> Runs:
    """1,024 users at once, with and without what they have seen."""
    users = recommender.users[5 : 5 + BATCH]
    recommend = recommender.recommend
    return {
        'seen items left out': lambda: recommend(users, K),
        'all items': lambda: recommend(users, K, exclude_seen=False),
    }


def implicit_runs(recommender: Recommender) -> Runs:
    """Implicit's lists of the same users; none where it is not installed."""
    try:
        topk = import_module('implicit.cpu.topk').topk
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits
    except ImportError:
        return {}
    rows = slice(5, 5 + BATCH)
    user_x, item_x = recommender.user_x[rows].numpy(), recommender.item_x.numpy()
    seen = recommender.seen
    parts = (np.ones(seen.col.numel(), np.float32), seen.col.int(), seen.rowptr.int())
    shape = (recommender.num_users, recommender.num_items)
    filtered = csr_matrix(parts, shape=shape)[rows]

    def rank(query_items: Any) -> Any:
        with threadpool_limits(1, 'blas'):  # As implicit's documentation recommends.
            return topk(
                item_x,
                user_x,
                K,
                filter_query_items=query_items,
                num_threads=torch.get_num_threads(),
            )

    return {
        'seen items left out': lambda: rank(filtered),
        'all items': lambda: rank(None),
    }


def load_cost(folder: str) -> dict[str, float]:
    """Seconds and memory of a load, in a process of its own."""
    tiny = torch.eye(2)
    Recommender(tiny, tiny, user_ids=[0, 1], item_ids=[0, 1], seen=None).recommend(0, 1)
    before = _resident('VmRSS')
    started = time.process_time()
    recommender = Recommender.load(folder)
    seconds = time.process_time() - started
    size = sum(file.stat().st_size for file in Path(folder).iterdir()) / _MIB
    return {
        'seconds': seconds,
        'artifact_mib': size,
        'memory_ratio': (_resident('VmHWM') - before) / size,
        'users': recommender.num_users,
    }


def streaming_cost(recommender: Recommender, most: int) -> dict[str, float]:
    """The memory that lists of all users add, in batches that are not stored."""
    started, before = time.process_time(), _resident('VmRSS')
    number = min(most, recommender.num_users)
    peak = 0.0
    for start in range(0, number, BATCH):
        users = recommender.users[start : min(start + BATCH, number)]
        recommender.recommend(users, K)
        peak = max(peak, _resident('VmRSS') - before)
    seconds = time.process_time() - started
    return {'users': number, 'seconds': seconds, 'added_mib': peak}


def measure(args: argparse.Namespace, ids: str) -> dict[str, Any]:
    """All costs with one kind of ids."""
    recommender = random_recommender(args.users, args.items, ids)
    with tempfile.TemporaryDirectory() as folder:
        recommender.save(folder)
        loads = [_in_process(folder) for _ in range(args.loads)]
        recommender = Recommender.load(folder)
    result: dict[str, Any] = {
        'load': {key: statistics.median(x[key] for x in loads) for key in loads[0]}
    }
    for threads in args.threads:
        torch.set_num_threads(threads)
        singles = cpu_ms(single_runs(recommender), args.repeats)
        unknown = cpu_ms(unknown_runs(recommender), args.repeats // 10 + 1)
        ours, theirs = batch_runs(recommender), implicit_runs(recommender)
        runs = {f'{name}, ours': run for name, run in ours.items()}
        runs |= {f'{name}, implicit': run for name, run in theirs.items()}
        batches = cpu_ms(runs, args.batches)
        result[f'threads {threads}'] = {
            'single': {name: _summary(x) for name, x in singles.items()},
            'unknown': _summary([x for values in unknown.values() for x in values]),
            'batches': {name: _summary(x) for name, x in batches.items()},
        }
    torch.set_num_threads(1)
    result['streaming'] = streaming_cost(recommender, args.streamed_users)
    return result


def serving_table(result: dict[str, Any]) -> str:
    """Times of the processor, beside the plain call and beside implicit."""
    setting = result['setting']
    threads = setting['threads']
    head = ['what', 'ids']
    for number in threads:
        head += [f'{counted(number, "thread")}, ms', 'p99', 'ratio']
    body = []
    for ids, values in result['ids'].items():
        columns = [_cells(values[f'threads {number}']) for number in threads]
        body += [
            [name, ids, *(x for column in columns for x in column[name])]
            for name in columns[0]
        ]
    lines = [
        f'{setting["users"]:,} users, {setting["items"]:,} items, width {WIDTH}, '
        f'{PER_USER} interactions per user, k={K}; medians of the time of the '
        'processor. Ratios are those to the plain call, and of implicit to ours.',
        '',
        *markdown(head, body),
    ]
    if not any(', implicit' in row[0] for row in body):
        lines += ['', 'implicit is not installed: its rows are left out.']
    for ids, values in result['ids'].items():
        load, stream = values['load'], values['streaming']
        lines += [
            '',
            f'With {ids} ids, a load is {load["seconds"]:.2f} s, and its memory at the '
            f'peak {load["memory_ratio"]:.2f} times the {load["artifact_mib"]:.0f} MiB '
            f'of the folder. Lists of {stream["users"]:,} users in batches of {BATCH} '
            f'add {stream["added_mib"]:.0f} MiB, with {stream["seconds"]:.0f} s on one '
            'thread.',
        ]
    return '\n'.join(lines)


def _cells(costs: dict[str, Any]) -> dict[str, list[str]]:
    """Median, 99th percentile and ratio by name."""
    rows = {**costs['single'], 'unknown id': costs['unknown']}
    plain = dict.fromkeys(costs['single'], 'recommend')
    for name, value in costs['batches'].items():
        rows[f'batch of {BATCH:,}, {name}'] = value
        kind = name.rpartition(',')[0]
        plain[f'batch of {BATCH:,}, {name}'] = f'batch of {BATCH:,}, {kind}, ours'
    cells = {}
    for name, value in rows.items():
        ratio = ''
        if name in plain:
            ratio = f'{value["median_ms"] / rows[plain[name]]["median_ms"]:.2f}'
        cells[name] = [f'{value["median_ms"]:.2f}', f'{value["p99_ms"]:.2f}', ratio]
    return cells


def _summary(values: list[float]) -> dict[str, float]:
    return {
        'median_ms': statistics.median(values),
        'p99_ms': float(np.quantile(values, 0.99)),
        'max_ms': max(values),
    }


def _cycle(values: list[Any]) -> Iterator[Any]:
    while True:
        yield from values


def _refused(recommender: Recommender, raw: str) -> Callable[[], None]:
    def run() -> None:
        try:
            recommender.recommend(raw, K)
        except ValueError:
            return
        raise AssertionError(f'{raw!r} is known')

    return run


def _in_process(folder: str) -> dict[str, float]:
    code = (
        'import json\nfrom benchmarks.speed.serving import load_cost\n'
        f'print(json.dumps(load_cost({folder!r})))'
    )
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    output = subprocess.run(
        [sys.executable, '-c', code],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout
    cost: dict[str, float] = json.loads(output)
    return cost


def _resident(name: str) -> float:
    """Memory of this process in MiB: ``'VmRSS'``, or ``'VmHWM'`` at the peak."""
    with Path('/proc/self/status').open() as file:
        return next(int(x.split()[1]) / 1024 for x in file if x.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1_000_000)
    parser.add_argument('--items', type=int, default=100_000)
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--repeats', type=int, default=300, help='of single calls')
    parser.add_argument('--batches', type=int, default=9)
    parser.add_argument('--loads', type=int, default=3)
    parser.add_argument('--streamed-users', type=int, default=200_000)
    parser.add_argument(
        '--out', type=Path, default=Path('benchmarks/results/serving.json')
    )
    args = parser.parse_args()
    result = {
        'kind': 'serving',
        'setting': {
            'users': args.users,
            'items': args.items,
            'threads': args.threads,
        },
        'ids': {ids: measure(args, ids) for ids in ('integer', 'text')},
        'versions': versions(),
    }
    write_result(args.out, result)
    print(serving_table(result))


if __name__ == '__main__':
    main()
