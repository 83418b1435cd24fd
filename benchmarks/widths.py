"""What is gained by distillation, and what a student costs: start x loss x width.

    python -m benchmarks.widths tiktok --data FOLDER --seeds 0 1 2

The student is matrix factorization as in :mod:`benchmarks.losses`, with the same
numbers, and its finished trials are read from the same ``--work``. It starts from
random tables or from the teacher's, cut to its width (:func:`~promptmm_pyg.training.
truncate_embeddings`), and learns from interactions alone (the control) or from a loss of
distillation as well. Weight and penalty are chosen on validation for random starts at
one width (``--chosen-at``) and the first seed, and kept for all, but for the control's,
which are chosen at every width: a copied start is not tuned again. Teachers are those
of :mod:`benchmarks.run`.

Times are medians over turns that all take in one process. The teacher that is timed is
not a trained one, which takes no less time. Writes
``benchmarks/results/widths-<setting>.json``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.command_line import command_line
from benchmarks.losses import (
    CONTROL,
    COPY,
    LEARNING_RATE,
    METRIC,
    RANDOM,
    SCHEDULE,
    Bench,
    Trial,
    choose,
)
from benchmarks.paired import difference
from benchmarks.recipes import RECIPES
from benchmarks.result_file import versions, write_result
from benchmarks.run import build_teacher, spread
from benchmarks.settings import SETTINGS, read
from benchmarks.speed import interleaved
from promptmm_pyg.data import INTERACTS, ITEM, USER, num_nodes_dict
from promptmm_pyg.distillation import truncate_embeddings
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import get_embeddings, normalized_adj_dict

DISTILLATIONS = ('PairwiseKDLoss', 'ListwiseKDLoss', 'ScaledCosineLoss', 'PromptMM')
UNTRAINED = 'untrained'
STUDENT, CACHED = 'MatrixFactorization', 'teacher, cut and cached'
SERVED = (1, 1024)  # Users asked for at once.


def cells(
    bench: Bench, chosen: dict[str, Trial], widths: list[int], seeds: list[int]
) -> list[dict[str, Any]]:
    """Every start with every loss at every width, trained now or before."""
    teachers = [bench.targets(seed).x_dict for seed in seeds]
    of_teacher = _mean([_values(bench, x_dict, 'test') for x_dict in teachers])
    rows: list[dict[str, Any]] = []
    for width in widths:
        cut = [truncate_embeddings(x_dict, width) for x_dict in teachers]
        copied = [_values(bench, x_dict, 'test') for x_dict in cut]
        validation = [_mean([_values(bench, x_dict, 'val')]) for x_dict in cut]
        trials = {CONTROL: choose(bench, CONTROL, width, seeds[0]), **chosen}
        for init in (RANDOM, COPY):
            runs = {
                name: [bench.outcome(name, trial, width, s, init) for s in seeds]
                for name, trial in trials.items()
            }
            values = {
                name: [out['test'][METRIC] for out in outs]
                for name, outs in runs.items()
            }
            for name, outs in runs.items():
                row = _row(init, name, width, values[name], of_teacher)
                row |= {
                    'trial': trials[name]._asdict(),
                    'validation': [out['validation'] for out in outs],
                    'epochs': [out['epoch'] for out in outs],
                    'over_copy': difference(values[name], copied),
                }
                if name != CONTROL:
                    row['over_control'] = difference(values[name], values[CONTROL])
                rows.append(row)
            if init == COPY:
                row = _row(init, UNTRAINED, width, copied, of_teacher)
                row |= {
                    'validation': validation,
                    'over_control': difference(copied, values[CONTROL]),
                }
                rows.append(row)
    return rows


def _values(bench: Bench, x_dict: dict[str, Tensor], part: str) -> Tensor:
    data = getattr(bench.split, part)
    return evaluate(x_dict, data, ks=(20,)).per_user[METRIC]


def _mean(values: list[Tensor]) -> float:
    return sum(float(x.mean()) for x in values) / len(values)


def _row(
    init: str, name: str, width: int, values: list[Tensor], of_teacher: float
) -> dict[str, Any]:
    return {
        'init': init,
        'distillation': name,
        'width': width,
        'test': spread([float(x.mean()) for x in values]),
        'share_of_teacher': _mean(values) / of_teacher,
    }


class Served(NamedTuple):
    """Tables that can be served, and how they are made anew."""

    how: str
    width: int
    parameters: int  # Trainable.
    refresh: Callable[[], dict[str, Tensor]]


def costs(bench: Bench, widths: list[int], repeats: int) -> list[dict[str, Any]]:
    """Sizes, and times of a refresh of the tables and of serving them, at every width:
    of the student, and of the teacher's tables cut to that width.
    """
    inputs = (normalized_adj_dict(bench.train),)
    teacher = build_teacher(bench.train, bench.setting)
    served = {}
    for width in widths:
        student = MatrixFactorization(num_nodes_dict(bench.train), width)
        served[f'{STUDENT} {width}'] = Served(
            STUDENT, width, _count(student), partial(get_embeddings, student, ())
        )
        served[f'{CACHED} {width}'] = Served(
            CACHED, width, _count(teacher), partial(_cut, teacher, inputs, width)
        )
    tables = {key: one.refresh() for key, one in served.items()}
    times = {'refresh': interleaved({k: s.refresh for k, s in served.items()}, repeats)}
    for num_users in SERVED:
        runs = {key: _asking(bench, x, num_users) for key, x in tables.items()}
        times[f'serve_{num_users}'] = interleaved(runs, repeats)
    return [
        {
            'how': one.how,
            'width': one.width,
            'parameters': one.parameters,
            'bytes': sum(x.numel() * x.element_size() for x in tables[key].values()),
            **{name: values[key] for name, values in times.items()},
        }
        for key, one in served.items()
    ]


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _cut(
    teacher: torch.nn.Module, inputs: tuple[Any, ...], width: int
) -> dict[str, Tensor]:
    return truncate_embeddings(get_embeddings(teacher, inputs), width)


def _asking(
    bench: Bench, x_dict: dict[str, Tensor], num_users: int
) -> Callable[[], object]:
    sizes = num_nodes_dict(bench.train)
    recommender = Recommender(
        x_dict[USER],
        x_dict[ITEM],
        user_ids=list(range(sizes[USER])),
        item_ids=list(range(sizes[ITEM])),
        seen=bench.train[INTERACTS].edge_index,
    )
    users = list(range(min(num_users, sizes[USER])))
    return partial(recommender.recommend, users, k=20)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument('--widths', type=int, nargs='+', default=[8, 16, 32, 64])
    parser.add_argument(
        '--chosen-at',
        type=int,
        default=16,
        help='width of the trials on validation; 16 is that of benchmarks.losses',
    )
    parser.add_argument(
        '--losses', nargs='+', choices=list(RECIPES), default=list(DISTILLATIONS)
    )
    parser.add_argument('--repeats', type=int, default=21, help='of every timing')
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    teacher_width = setting.teacher['embedding_dim']
    if max(args.widths) > teacher_width:
        raise SystemExit(
            f"'--widths' must be at most {teacher_width}, the teacher's own (got "
            f'{max(args.widths)}). A wider student has no copy to start from'
        )
    bench = Bench(setting, read(setting.dataset, args.data), args.work)
    chosen = {
        name: choose(bench, name, args.chosen_at, args.seeds[0]) for name in args.losses
    }
    teachers = [bench.targets(seed).x_dict for seed in args.seeds]
    result = {
        'setting': setting.as_dict(),
        'learning_rate': LEARNING_RATE,
        'schedule': SCHEDULE._asdict(),
        'chosen_at': args.chosen_at,
        'seeds': args.seeds,
        'teacher': spread([_mean([_values(bench, x, 'test')]) for x in teachers]),
        'teacher_width': teacher_width,
        'cells': cells(bench, chosen, args.widths, args.seeds),
        'costs': costs(bench, args.widths, args.repeats),
        'threads': torch.get_num_threads(),
        'versions': versions(),
    }
    path = args.out / f'widths-{args.setting}.json'
    write_result(path, result)


if __name__ == '__main__':
    main()
