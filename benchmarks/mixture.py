"""Several teachers into one narrow student: each alone, their mixture, no teacher.

    python -m benchmarks.mixture tiktok --data FOLDER --seeds 0 1 2 --widths 32

The teachers are PromptMM's of :mod:`benchmarks.run`, read from ``--work``, and two that
are in closed form, a graph filter and EASE. Their numbers are chosen on validation
once, how much each teacher counts is learned on validation for every seed. Students are
told the tables of wide teachers cut to width 128, and the best items of the whole. The
student is matrix factorization, trained as in :mod:`benchmarks.losses`; weight and
penalty are chosen from equally many trials on validation at the first width and seed,
those of the student without a teacher at every width, from more. Beside them stand EASE
itself and LightGCN as in :mod:`benchmarks.run`, trained here with the same seeds.
Finished trials are kept under ``--work``. Writes
``benchmarks/results/mixture-<setting>.json``.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.kept import kept
from benchmarks.losses import (
    CONTROL,
    LEARNING_RATE,
    METRIC,
    SCHEDULE,
    TRIALS,
    Bench,
    Trial,
    choose,
)
from benchmarks.mix_teachers import (
    EASE_WIDTHS,
    FILTER_GRID,
    RIVALS,
    TEACHERS,
    MixTeachers,
)
from benchmarks.paired import difference
from benchmarks.recipes import RECIPES
from benchmarks.result_file import write_result
from benchmarks.run import EASE_L2, EASE_ROW, prepare, spread
from benchmarks.settings import SETTINGS, read
from promptmm_pyg.data import ITEM, num_nodes_dict
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.training import copy_tables


class MixBench:
    """The bench of the losses, with more teachers than one."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.teachers = MixTeachers(bench)

    def outcome(self, name: str, trial: Trial, width: int, seed: int) -> dict[str, Any]:
        """Validation value, epoch and per-user test values of one student, trained
        now or before.
        """
        *chosen, learning_rate = trial
        key = [
            self.bench.setting.digest(),
            [name, chosen, width, seed, self.teachers.numbers()],
            learning_rate,
            SCHEDULE,
        ]

        def taught() -> dict[str, Any]:
            targets = self.teachers.of_seed(name, seed).told
            student = self.bench.student(width, seed)
            return self.bench.teach(student, targets, RECIPES['PromptMM'], trial, seed)

        return kept(self.bench.work / 'mixture', key, taught, f'{self.bench.name}-')

    def choose(self, name: str, width: int, seed: int) -> Trial:
        """The best trial on validation; of equals, the first."""
        return max(
            TRIALS,
            key=lambda t: float(self.outcome(name, t, width, seed)['validation']),
        )

    def test(self, x_dict: dict[str, torch.Tensor]) -> float:
        return evaluate(x_dict, self.bench.split.test, ks=(20,)).metrics[METRIC]


def summarize(mix: MixBench, widths: list[int], seeds: list[int]) -> dict[str, Any]:
    """The result file: teachers, models beside, students and the control."""
    bench = mix.bench
    rivals = {name: [mix.teachers.rival(name, s) for s in seeds] for name in RIVALS}
    beside = {
        EASE_ROW: num_nodes_dict(bench.train)[ITEM],
        RIVALS[0]: bench.setting.light_gcn['embedding_dim'],
    }
    students = [
        {'name': name, 'width': beside[name], 'test': _spread(values)}
        for name, values in rivals.items()
    ]
    chosen = {name: mix.choose(name, widths[0], seeds[0]) for name in TEACHERS}
    for width in widths:
        trial = choose(bench, CONTROL, width, seeds[0])
        runs = [bench.outcome(CONTROL, trial, width, seed) for seed in seeds]
        against = {'over_control': _per_user(runs)}
        against |= {f'over_{name}': values for name, values in rivals.items()}
        students.append(_row('no teacher', width, runs, trial))
        for name in TEACHERS:
            runs = [mix.outcome(name, chosen[name], width, seed) for seed in seeds]
            gains = {
                key: difference(_per_user(runs), other)
                for key, other in against.items()
            }
            students.append(_row(name, width, runs, chosen[name]) | gains)
            cut = [
                mix.test(copy_tables(mix.teachers.of_seed(name, s).said.x_dict, width))
                for s in seeds
            ]
            students.append(
                {'name': f'{name}, cut', 'width': width, 'test': spread(cut)}
            )
    return {
        'setting': bench.setting.as_dict(),
        'learning_rate': LEARNING_RATE,
        'schedule': SCHEDULE._asdict(),
        'trials': [t._asdict() for t in TRIALS],
        **mix.teachers.numbers(),
        'filter_grid': FILTER_GRID,
        'ease_grid': [EASE_L2, EASE_WIDTHS],
        'seeds': seeds,
        'teachers': _teacher_rows(mix, seeds),
        'students': students,
    }


def _teacher_rows(mix: MixBench, seeds: list[int]) -> list[dict[str, Any]]:
    rows = []
    for name in TEACHERS:
        said = [mix.teachers.of_seed(name, seed) for seed in seeds]
        rows.append(
            {
                'name': name,
                'width': said[0].said.x_dict[ITEM].size(1),
                'weights': [teacher.weights for teacher in said],
                'val': spread([mix.teachers.validation(t.said) for t in said]),
                'test': spread([mix.test(t.said.x_dict) for t in said]),
            }
        )
    return rows


def _per_user(runs: list[dict[str, Any]]) -> list[torch.Tensor]:
    return [run['test'][METRIC] for run in runs]


def _spread(values: list[torch.Tensor]) -> dict[str, Any]:
    return spread([float(x.mean()) for x in values])


def _row(name: str, width: int, runs: list[Any], trial: Trial) -> dict[str, Any]:
    return {
        'name': name,
        'width': width,
        'trial': trial._asdict(),
        'validation': [run['validation'] for run in runs],
        'epochs': [run['epoch'] for run in runs],
        'test': _spread(_per_user(runs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('setting', choices=sorted(SETTINGS), help='what to run')
    parser.add_argument('--data', type=Path, help='folder of the data set')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--widths', type=int, nargs='+', default=[32])
    parser.add_argument('--work', type=Path, default=Path('runs/benchmarks'))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'))
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    split = read(setting.dataset, args.data)
    train = prepare(split.train, setting)
    mix = MixBench(Bench(args.setting, setting, split, train, args.work))
    print(mix.teachers.numbers(), flush=True)
    for seed, name in product(args.seeds, TEACHERS):
        trial = mix.choose(name, args.widths[0], args.seeds[0])
        for width in args.widths:
            out = mix.outcome(name, trial, width, seed)
            print(name, trial, width, seed, round(out['validation'], 4), flush=True)
    result = summarize(mix, args.widths, args.seeds)
    write_result(args.out / f'mixture-{args.setting}.json', result)


if __name__ == '__main__':
    main()
