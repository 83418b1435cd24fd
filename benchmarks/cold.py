"""Items that nobody has taken yet: who ranks them best, from their features alone.

    python -m benchmarks.cold synthetic --seeds 0 1 2
    python -m benchmarks.cold tiktok --data FOLDER

The data is split anew by strict cold items: those of validation, and others of test,
have no training interaction at all and are known by their features only. Training
draws negatives among warm items only and stops by interactions with warm items that are
held out of training; the penalty is
chosen by the cold items of validation, with the first seed and for all; the cold items
of test are read once per model and seed. Tables without features get the rows of cold
items from the feature path of serving. Finished trainings are kept under ``--work``.
Writes ``benchmarks/results/cold-<dataset>.json``.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks import cold_models
from benchmarks.cold_data import mask_of, unsplit
from benchmarks.cold_models import (
    CONTROL,
    METRIC,
    POPULARITY,
    RANDOM,
    STUDENT,
    TRAINED,
    Bench,
)
from benchmarks.command_line import command_line
from benchmarks.paired import difference
from benchmarks.result_file import versions, write_result
from benchmarks.run import spread
from benchmarks.settings import SETTINGS, read
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.evaluation import evaluate

METRICS = (METRIC, 'NDCG@20')
SIZES = (2000, 1000)  # Users and items of the synthetic data.
NOTE = (
    'cold items have no training interaction; they are known by features only. '
    'Negatives and candidates of training are drawn among warm items, and the id rows '
    'of cold items, which nothing trains, are zero. Training sees the features of cold '
    'items (it is transductive): columns are standardized over all items, and the '
    "prompt's principal components and the sums of features that it recalls are those "
    'of all items. The feature path that gives students rows of cold items is fitted '
    'on warm items alone. Popularity and random order cold items by chance. A cold '
    'item without any modality gets the mean row of the warm items.'
)


def rows(bench: Bench, seeds: list[int]) -> list[dict[str, Any]]:
    """Every model among cold items and among all, students beside their control."""
    out: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, Tensor]]] = {}
    for name in (RANDOM, POPULARITY, *TRAINED):
        l2 = bench.choose(name) if name in TRAINED else 0.0
        tables = [bench.tables(name, l2, seed) for seed in seeds]
        cold = [bench.among_cold(x, 'test') for x in tables]
        everywhere = [evaluate(x, bench.split.test, ks=(20,)).per_user for x in tables]
        found[name] = cold
        row: dict[str, Any] = {'model': name, 'l2': l2}
        for key, runs in (('cold', cold), ('all', everywhere)):
            row[key] = {
                metric: spread([float(run[metric].mean()) for run in runs])
                for metric in METRICS
            }
        if name.endswith(STUDENT):
            control = found[f'{name.split()[0]} {CONTROL}']
            row['over_control'] = difference(
                [run[METRIC] for run in cold], [run[METRIC] for run in control]
            )
        out.append(row)
        print(name, l2, row['cold'][METRIC]['mean'], flush=True)
    return out


def main() -> None:
    args = command_line(__doc__).parse_args()
    setting = SETTINGS[args.setting]
    if args.setting == 'synthetic':
        data = make_synthetic_dataset(*SIZES, seed=0)
    else:
        data = unsplit(read(setting.dataset, args.data))
    bench = Bench(setting, data, args.work, args.seeds[0])
    result = {
        'setting': setting.as_dict(),
        'note': NOTE,
        'schedule': cold_models.SCHEDULE._asdict(),
        'l2': cold_models.L2,
        'seeds': args.seeds,
        'cold_items': {
            part: int(mask_of(bench.warm.numel(), getattr(bench.split, part)).sum())
            for part in ('val', 'test')
        },
        'cold': rows(bench, args.seeds),
        'threads': torch.get_num_threads(),
        'versions': versions(),
    }
    if args.setting == 'synthetic':
        result['sizes'] = SIZES
    path = args.out / f'cold-{args.setting}.json'
    write_result(path, result)


if __name__ == '__main__':
    main()
