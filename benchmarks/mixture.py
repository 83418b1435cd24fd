"""Several teachers into one narrow student: each alone, their mixture, no teacher.

    python -m benchmarks.mixture tiktok --data FOLDER --seeds 0 1 2 --widths 32

The teachers are PromptMM's of :mod:`benchmarks.run`, read from ``--work``, and two that
are in closed form, a graph filter and EASE. Their numbers are chosen on validation
once, how much each teacher counts is learned on validation for every seed. Students are
told the tables of wide teachers cut to width 128, and the best items of the whole. The
student is matrix factorization, trained as in :mod:`benchmarks.losses`; weight and
penalty, and how sharp its teacher's scores are, in units of their spread, are chosen
from equally many trials on validation at the first width and seed, those of the student
without a teacher at every width, from more. Beside them stand EASE itself and LightGCN
as in :mod:`benchmarks.run`, trained here with the same seeds.

Finished trials are kept under ``--work``. Writes
``benchmarks/results/mixture-<setting>.json``.

With ``--suite FILE``, a result of :mod:`benchmarks.suite`, the teachers are the best
model of it, all of its models together, seed by seed, and these with every model's
seeds together; LightGCN and EASE are those of the suite. Writes
``mixture-suite-<setting>.json``.
"""

from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.command_line import command_line
from benchmarks.losses import (
    CONTROL,
    LEARNING_RATE,
    METRIC,
    SCHEDULE,
    Bench,
    choose,
)
from benchmarks.mix_bench import MIX_TRIALS, MixBench
from benchmarks.mix_teachers import MixTeachers, recall
from benchmarks.paired import difference
from benchmarks.result_file import write_result
from benchmarks.run import spread
from benchmarks.settings import SETTINGS, read
from benchmarks.suite_teachers import SuiteTeachers
from promptmm_pyg.data import ITEM
from promptmm_pyg.distillation import truncate_embeddings


def summarize(mix: MixBench, widths: list[int], seeds: list[int]) -> dict[str, Any]:
    """The result file: teachers, models beside, students and the control."""
    bench, teachers = mix.bench, mix.teachers
    rivals = {
        name: [teachers.rival(name, seed) for seed in seeds] for name in teachers.rivals
    }
    students = [
        {'name': name, 'width': teachers.rivals[name], 'test': _spread(values)}
        for name, values in rivals.items()
    ]
    chosen = {name: mix.choose(name, widths[0], seeds[0]) for name in teachers.names}
    for width in widths:
        trial = choose(bench, CONTROL, width, seeds[0])
        runs = [bench.outcome(CONTROL, trial, width, seed) for seed in seeds]
        against = {'over_control': _per_user(runs)}
        against |= {f'over_{name}': values for name, values in rivals.items()}
        students.append(_row('no teacher', width, runs, trial._asdict()))
        for name in teachers.names:
            runs = [mix.outcome(name, chosen[name], width, seed) for seed in seeds]
            gains = {
                key: difference(_per_user(runs), other)
                for key, other in against.items()
            }
            row = _row(name, width, runs, chosen[name].as_dict())
            students.append(row | gains)
            # What is cut twice is cut once: the best of a width holds that of a lesser.
            cut = [
                mix.test(
                    truncate_embeddings(teachers.of_seed(name, s).told.x_dict, width)
                )
                for s in seeds
            ]
            students.append(
                {'name': f'{name}, cut', 'width': width, 'test': spread(cut)}
            )
    return {
        'setting': bench.setting.as_dict(),
        'learning_rate': LEARNING_RATE,
        'schedule': SCHEDULE._asdict(),
        'trials': [trial.as_dict() for trial in MIX_TRIALS],
        **teachers.numbers(),
        **teachers.searched,
        'seeds': seeds,
        'teachers': _teacher_rows(mix, seeds),
        'students': students,
    }


def _teacher_rows(mix: MixBench, seeds: list[int]) -> list[dict[str, Any]]:
    rows = []
    for name in mix.teachers.names:
        said = [mix.teachers.of_seed(name, seed) for seed in seeds]
        rows.append(
            {
                'name': name,
                'width': said[0].said.x_dict[ITEM].size(1),
                'weights': [teacher.weights for teacher in said],
                'val': spread([recall(t.said, mix.bench.split.val) for t in said]),
                'test': spread([mix.test(t.said.x_dict) for t in said]),
            }
        )
    return rows


def _per_user(runs: list[dict[str, Any]]) -> list[torch.Tensor]:
    return [run['test'][METRIC] for run in runs]


def _spread(values: list[torch.Tensor]) -> dict[str, Any]:
    return spread([float(x.mean()) for x in values])


def _row(
    name: str, width: int, runs: list[Any], trial: dict[str, float]
) -> dict[str, Any]:
    return {
        'name': name,
        'width': width,
        'trial': trial,
        'validation': [run['validation'] for run in runs],
        'epochs': [run['epoch'] for run in runs],
        'test': _spread(_per_user(runs)),
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument('--widths', type=int, nargs='+', default=[32])
    parser.add_argument(
        '--suite',
        type=Path,
        help='JSON of benchmarks.suite, whose models teach in place of the three',
    )
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    bench = Bench(setting, read(setting.dataset, args.data), args.work)
    teachers: MixTeachers | SuiteTeachers = MixTeachers(bench)
    if args.suite is not None:
        teachers = SuiteTeachers(bench, args.suite, args.data, args.work)
    mix = MixBench(bench, teachers)
    print(teachers.numbers(), flush=True)
    for seed, name in product(args.seeds, teachers.names):
        trial = mix.choose(name, args.widths[0], args.seeds[0])
        for width in args.widths:
            out = mix.outcome(name, trial, width, seed)
            value = round(out['validation'], 4)
            print(name, trial.as_dict(), width, seed, value, flush=True)
    result = summarize(mix, args.widths, args.seeds)
    kind = 'mixture' if args.suite is None else 'mixture-suite'
    write_result(args.out / f'{kind}-{args.setting}.json', result)


if __name__ == '__main__':
    main()
