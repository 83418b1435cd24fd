"""New interactions: no update, ``promptmm update`` and a full retraining, on the
interactions that follow.

    python -m benchmarks.updates ml100k FOLDER
    python -m benchmarks.updates office FOLDER

The first 80 % of the interactions in time are known, the next 5 % are new, and the
models are tested on the rest: users with an interaction in the first 85 %, all items
except those that the user has. Teacher and student are trained on the known part, with
a tenth per user for validation, and refit on all of it. Then: *no update* (new users
by fold-in, without training), *update*, and *full retraining*, a refit on 85 % with
the same settings and epochs. Times are of the CPU; that of the retraining does not
include the validation that chose its epochs. ``office`` has the order of its parts
only: the first two are known, of which a random 5 % of all are new, and test is the
last.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg import Recommender, evaluate
from promptmm_pyg.benchmark.result import versions, write_result
from promptmm_pyg.benchmark.stats import difference, spread
from promptmm_pyg.data import INTERACTS, build_graph
from promptmm_pyg.data.load import resolve
from promptmm_pyg.runs import distill_run, train_run

RESULTS = Path(__file__).parent / 'results'
REFERENCE = 'retraining'
METRICS = ('Recall@20', 'NDCG@20')
SEEDS = (0, 1, 2, 3, 4)
TRAIN = {'learning_rate': 1e-2, 'batch_size': 2048, 'epochs': 100, 'patience': 5}
L2 = {'teacher': 1e-2, 'student': 1e-3}
Rows = list[tuple[str, str]]


def read_ml100k(folder: Path) -> tuple[dict[str, Rows], dict[str, str], list[str]]:
    """The parts in time, the feature files, and the items in their order."""
    rows = np.loadtxt(folder / 'ml100k.inter', skiprows=1)
    rows = rows[np.argsort(rows[:, 3], kind='stable')]
    pairs = [(f'u{int(row[0])}', f'i{int(row[1])}') for row in rows]
    first, second = (int(share * len(pairs)) for share in (0.8, 0.85))
    parts = {
        'old': pairs[:first],
        'new': pairs[first:second],
        'later': pairs[second:],
    }
    items = [f'i{number}' for number in range(1682)]
    return parts, {'text': 'text_feat.npy'}, items


def read_office(folder: Path) -> tuple[dict[str, Rows], dict[str, str], list[str]]:
    """As :func:`read_ml100k`."""
    parts: dict[str, Rows] = {'train': [], 'val': [], 'test': []}
    with (folder / 'interactions.csv').open(encoding='utf-8') as file:
        for row in csv.DictReader(file):
            parts[row['part']].append((row['user_id'], row['item_id']))
    with (folder / 'items.csv').open(encoding='utf-8') as file:
        items = [row['item_id'] for row in csv.DictReader(file)]
    order = np.random.default_rng(0).permutation(len(parts['val']))
    size = sum(len(pairs) for pairs in parts.values()) // 20
    val = [parts['val'][number] for number in order]
    split = {
        'old': parts['train'] + val[size:],
        'new': val[:size],
        'later': parts['test'],
    }
    names = ('title', 'description')
    return split, {name: f'{name}_minilm_384.npy' for name in names}, items


READERS = {'ml100k': read_ml100k, 'office': read_office}


def write_data(source: Path, name: str, out: Path) -> tuple[dict[str, Rows], Any]:
    """Writes the tables and the features of known items; returns the parts, and ids
    and features of the new items.
    """
    parts, files, items = READERS[name](source)
    for part, pairs in parts.items():
        text = '\n'.join(f'{user},{item}' for user, item in pairs)
        (out / f'{part}.csv').write_text(f'user_id,item_id\n{text}\n')
    known = {item for _, item in parts['old']}
    rows = np.array([number for number, item in enumerate(items) if item in known])
    new_ids = sorted({item for _, item in parts['new']} - known)
    new_rows = np.array([items.index(item) for item in new_ids], dtype=int)
    (out / 'items.txt').write_text('\n'.join(items[row] for row in rows))
    features = {}
    for modality, file in files.items():
        x = np.load(source / file).astype(np.float32)
        np.save(out / f'{modality}.npy', x[rows])
        features[modality] = x[new_rows]
    return parts, (new_ids, features)


def config(out: Path, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of teacher and student."""
    options = {**TRAIN, 'seed': seed}
    features = {x.stem: str(x) for x in out.glob('*.npy')}
    columns = {'user': 'user_id', 'item': 'item_id', 'features': features}
    data = resolve(
        out / 'old.csv',
        'table',
        {**columns, 'item_ids': str(out / 'items.txt')},
        {'val_ratio': 0.1, 'test_ratio': 0.0, 'seed': 0},
    )
    data['path'] = str(data['path'])
    teacher = {'data': data, 'train': options, 'loss_weights': {'l2': L2['teacher']}}
    student = {
        'embedding_dim': 32,
        'train': options,
        'loss_weights': {'l2': L2['student']},
        'distill': {'baseline': False},
    }
    return teacher, student


class Task:
    """The later interactions of users with a history, by row numbers."""

    def __init__(self, parts: dict[str, Rows]) -> None:
        known = parts['old'] + parts['new']
        self.users = {raw: row for row, raw in enumerate(sorted({u for u, _ in known}))}
        self.items = {raw: row for row, raw in enumerate(sorted({i for _, i in known}))}
        seen = self._edges(known)
        self.graph = build_graph(
            seen,
            num_users=len(self.users),
            num_items=len(self.items),
            duplicates='first',
        )
        self.graph[INTERACTS].edge_label_index = self._edges(parts['later'])

    def _edges(self, pairs: Rows) -> Tensor:
        rows = {
            (self.users[user], self.items[item])
            for user, item in pairs
            if user in self.users and item in self.items
        }
        return torch.tensor(sorted(rows)).t()

    def evaluate(self, recommender: Recommender, extra: dict[str, Tensor]) -> Any:
        """Metrics per user; ``extra`` holds vectors of users that are not in it."""
        width = recommender.item_x.size(1)
        user_x = torch.zeros(len(self.users), width)
        for raw, x in zip(recommender.user_ids, recommender.user_x, strict=True):
            user_x[self.users[str(raw)]] = x
        for raw, x in extra.items():
            user_x[self.users[raw]] = x
        item_x = torch.zeros(len(self.items), width)
        unknown = torch.ones(len(self.items), dtype=torch.bool)
        for raw, x in zip(recommender.item_ids, recommender.item_x, strict=True):
            row = self.items.get(str(raw))
            if row is not None:
                item_x[row], unknown[row] = x, False

        def scores(users: Tensor) -> Tensor:
            return (user_x[users] @ item_x.t()).masked_fill(unknown, -1e9)

        return evaluate(scores, self.graph, ks=(20,))


def fold_in_new(recommender: Recommender, new: Rows) -> dict[str, Tensor]:
    """Vectors of the new users by their new interactions, without training."""
    known = {str(raw) for raw in recommender.user_ids}
    histories: dict[str, list[str]] = {}
    for user, item in new:
        if user not in known:
            histories.setdefault(user, []).append(item)
    item_ids = {str(raw) for raw in recommender.item_ids}
    some = {u: items for u, items in histories.items() if item_ids & set(items)}
    if not some:
        return {}
    x = recommender.fold_in(list(some.values()), unknown='ignore')
    return dict(zip(some, x, strict=True))


def measure(name: str, source: Path, seeds: tuple[int, ...]) -> dict[str, Any]:
    """All rows of the result."""
    results: dict[str, list[Any]] = {'no update': [], 'update': [], 'retraining': []}
    seconds: dict[str, list[float]] = {key: [] for key in results}
    epochs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            parts, (new_ids, features) = write_data(source, name, out)
            task = Task(parts)
            teacher, student = config(out, seed)
            run = train_run(out / 'run', teacher, progress=False)
            distill_run(run, student, progress=False)
            run.refit(progress=False)
            epochs.append(run.final['epochs'])

            options = {'item_ids': new_ids, 'features': features} if new_ids else {}
            steps: dict[str, Callable[[], Any]] = {
                'no update': partial(fold_in_new, run.recommender(), parts['new']),
                'update': partial(run.update, out / 'new.csv', **options),
                'retraining': partial(run.refit, progress=False),
            }
            for key, step in steps.items():
                started = time.process_time()
                done = step()
                seconds[key].append(time.process_time() - started)
                extra = done if key == 'no update' else {}
                results[key].append(task.evaluate(run.recommender(), extra))
                values = results[key][-1].metrics
                shown = {x: round(values[x], 4) for x in METRICS}
                print(seed, key, shown, f'{seconds[key][-1]:.2f} s')
    return {
        'kind': 'updates',
        'name': 'updates',
        'dataset': name,
        'seeds': list(seeds),
        'protocol': {
            'train': TRAIN,
            'l2': L2,
            'interactions': {part: len(pairs) for part, pairs in parts.items()},
            'test_users': int(results['update'][0].users.numel()),
            'epochs': epochs,
        },
        'rows': [
            {
                'name': key,
                'test': {
                    x: spread([r.metrics[x] for r in results[key]]) for x in METRICS
                },
                'seconds': spread(seconds[key]),
                **{
                    f'diff_vs_{REFERENCE} {x}': difference(
                        *([r.per_user[x] for r in results[k]] for k in (key, REFERENCE))
                    )
                    for x in METRICS
                },
            }
            for key in results
        ],
        'data_sha256': run.config['data_sha256'],  # Of the old part.
        'test_reads': 1,
        'threads': torch.get_num_threads(),
        'versions': versions(),
    }


def updates_table(result: dict[str, Any]) -> str:
    """The table of a result: metrics, their differences from retraining, and times."""
    head = ['', *METRICS, *(f'{x} - {REFERENCE}' for x in METRICS), 'CPU seconds']
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for row in result['rows']:
        cells = [row['name']]
        for metric in METRICS:
            value = row['test'][metric]
            cells.append(f'{value["mean"]:.4f} ± {value["std"]:.4f}')
        for metric in METRICS:
            x = row[f'diff_vs_{REFERENCE} {metric}']
            text = f'{x["difference"]:+.4f} [{x["low"]:+.4f}, {x["high"]:+.4f}]'
            cells.append('' if row['name'] == REFERENCE else text)
        cells.append(f'{row["seconds"]["mean"]:.2f}')
        lines.append(f'| {" | ".join(cells)} |')
    protocol = result['protocol']
    counts = ', '.join(f'{n:,} {part}' for part, n in protocol['interactions'].items())
    return (
        f'**{result["dataset"]}**, {counts} interactions, {protocol["test_users"]} '
        f'test users, mean ± standard deviation of {len(result["seeds"])} seeds\n\n'
        + '\n'.join(lines)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dataset', choices=tuple(READERS))
    parser.add_argument('folder', type=Path)
    parser.add_argument('--seeds', type=int, nargs='+', default=list(SEEDS))
    args = parser.parse_args()
    result = measure(args.dataset, args.folder, tuple(args.seeds))
    write_result(RESULTS / f'updates-{args.dataset}.json', result)


if __name__ == '__main__':
    main()
