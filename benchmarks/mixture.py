"""Several teachers into one narrow student: each alone, their mixture, no teacher.

    python -m benchmarks.mixture tiktok --data FOLDER --seeds 0 1 2 --widths 32

The teachers are PromptMM's of :mod:`benchmarks.run`, read from ``--work``, and a
graph filter, which is not trained. The filter's numbers are chosen on validation once,
how much each teacher counts is learned on validation for every seed. Students are
told the tables of wide teachers cut to width 128, and the best items of the whole. The
student is matrix factorization, trained as in :mod:`benchmarks.losses`; weight and
penalty are chosen from equally many trials on validation at the first width and seed.
Finished trials are kept under ``--work``. Writes
``benchmarks/results/mixture-<setting>.json``.
"""

import argparse
import json
from dataclasses import asdict
from functools import cache
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
from benchmarks.recipes import RECIPES
from benchmarks.run import prepare, spread
from benchmarks.settings import SETTINGS, read
from promptmm_pyg._files import replacing
from promptmm_pyg.data import INTERACTS, ITEM, modality_x_dict, num_nodes_dict
from promptmm_pyg.evaluation import evaluate, paired_bootstrap
from promptmm_pyg.models import GraphFilter
from promptmm_pyg.outputs import SoftTargets
from promptmm_pyg.target_store import rank_targets
from promptmm_pyg.training import (
    copy_tables,
    learn_mix_weights,
    mix_targets,
)

FILTER, PROMPTMM, MIXTURE = 'GraphFilter', 'PromptMM', 'mixture'
TEACHERS = (PROMPTMM, FILTER, MIXTURE)
FILTER_WIDTH = 256
TEACHER_WIDTH = 128  # Wider teachers are cut to it: a step costs what they are wide.
FILTER_GRID = tuple(product((2, 3, 4), (0.0, 0.1, 0.2)))  # Layers, modality weight.


class MixBench:
    """The bench of the losses, with more teachers than one."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.filter = cache(self._filter)
        self.teacher = cache(self._teacher)

    def _filter(self) -> tuple[dict[str, Any], SoftTargets]:
        """The filter that is best on validation; of equals, the first."""
        train, val = self.bench.train, self.bench.split.val
        best: tuple[float, dict[str, Any], SoftTargets] | None = None
        for num_layers, weight in FILTER_GRID:
            numbers = {'num_layers': num_layers, 'modality_weight': weight}
            model = GraphFilter(
                num_nodes_dict(train),
                INTERACTS,
                modality_x_dict(train),
                num_layers=num_layers,
                modality_weight=weight,
            ).fit(train[INTERACTS].edge_index)
            sizes = num_nodes_dict(train).values()
            targets = SoftTargets.from_output(
                model.as_output(min(FILTER_WIDTH, *sizes))
            )
            value = evaluate(targets.x_dict, val, ks=(20,)).metrics[METRIC]
            if best is None or value > best[0]:
                best = value, numbers, targets
        assert best is not None
        return best[1], best[2]._replace(modality_x_dict={})

    def _teacher(
        self, name: str, seed: int
    ) -> tuple[dict[str, float], SoftTargets, SoftTargets]:
        """How much of a teacher is whose, what it says, and what of it a student is
        told.
        """
        train = self.bench.train
        promptmm = self.bench.targets(seed)._replace(modality_x_dict={}, top=None)
        parts = {PROMPTMM: promptmm, FILTER: self.filter()[1]}
        if name == MIXTURE:
            weights = learn_mix_weights(parts, train, self.bench.split.val)
        else:
            weights = {key: float(key == name) for key in parts}
        mixed = mix_targets(parts, weights)
        # Its best items are those before the cut.
        cut = SoftTargets(
            copy_tables(mixed.x_dict, TEACHER_WIDTH)
            if mixed.x_dict[ITEM].size(1) > TEACHER_WIDTH
            else mixed.x_dict,
            {},
            top=rank_targets(mixed, train, 100),
        )
        return weights, mixed, cut

    def outcome(self, name: str, trial: Trial, width: int, seed: int) -> dict[str, Any]:
        """Validation value, epoch and per-user test values of one student, trained
        now or before.
        """
        *chosen, learning_rate = trial
        numbers = self.filter()[0], FILTER_WIDTH, TEACHER_WIDTH
        key = [
            self.bench.setting.digest(),
            [name, chosen, width, seed, *numbers],
            learning_rate,
            SCHEDULE,
        ]

        def taught() -> dict[str, Any]:
            targets = self.teacher(name, seed)[2]
            student = self.bench.student(width, seed)
            return self.bench.teach(student, targets, RECIPES['PromptMM'], trial, seed)

        return kept(self.bench.work / 'mixture', key, taught, f'{self.bench.name}-')

    def choose(self, name: str, width: int, seed: int) -> Trial:
        """The best trial on validation; of equals, the first."""
        values = [self.outcome(name, t, width, seed)['validation'] for t in TRIALS]
        return TRIALS[values.index(max(values))]


def summarize(mix: MixBench, widths: list[int], seeds: list[int]) -> dict[str, Any]:
    """The result file: teachers, students and the control."""
    bench = mix.bench
    teachers = []
    for name in TEACHERS:
        said = [mix.teacher(name, seed) for seed in seeds]
        row = {
            'name': name,
            'width': said[0][1].x_dict[ITEM].size(1),
            'weights': [weights for weights, *_ in said],
        }
        for part in ('val', 'test'):
            graph = getattr(bench.split, part)
            values = [
                evaluate(t.x_dict, graph, ks=(20,)).metrics[METRIC] for _, t, _ in said
            ]
            row[part] = spread(values)
        teachers.append(row)
    students = []
    control_trial = choose(bench, CONTROL, widths[0], seeds[0])
    chosen = {name: mix.choose(name, widths[0], seeds[0]) for name in TEACHERS}
    for width in widths:
        runs = [bench.outcome(CONTROL, control_trial, width, seed) for seed in seeds]
        control = _per_user(runs)
        students.append(_row('no teacher', width, runs, control_trial))
        for name in TEACHERS:
            runs = [mix.outcome(name, chosen[name], width, seed) for seed in seeds]
            interval = paired_bootstrap(
                _per_user(runs), control, resample_seeds=len(seeds) > 1
            )
            students.append(
                _row(name, width, runs, chosen[name])
                | {'over_control': asdict(interval)}
            )
            cut = [
                evaluate(
                    copy_tables(mix.teacher(name, seed)[1].x_dict, width),
                    bench.split.test,
                    ks=(20,),
                ).metrics[METRIC]
                for seed in seeds
            ]
            students.append(
                {'name': f'{name}, cut', 'width': width, 'test': spread(cut)}
            )
    return {
        'setting': bench.setting.as_dict(),
        'learning_rate': LEARNING_RATE,
        'schedule': SCHEDULE._asdict(),
        'trials': [t._asdict() for t in TRIALS],
        'filter': mix.filter()[0] | {'width': FILTER_WIDTH},
        'filter_grid': FILTER_GRID,
        'teacher_width': TEACHER_WIDTH,
        'seeds': seeds,
        'teachers': teachers,
        'students': students,
    }


def _per_user(runs: list[dict[str, Any]]) -> list[torch.Tensor]:
    return [run['test'][METRIC] for run in runs]


def _row(name: str, width: int, runs: list[Any], trial: Trial) -> dict[str, Any]:
    return {
        'name': name,
        'width': width,
        'trial': trial._asdict(),
        'validation': [run['validation'] for run in runs],
        'epochs': [run['epoch'] for run in runs],
        'test': spread([float(run['test'][METRIC].mean()) for run in runs]),
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
    print('filter:', mix.filter()[0], flush=True)
    for seed, name in product(args.seeds, TEACHERS):
        trial = mix.choose(name, args.widths[0], args.seeds[0])
        for width in args.widths:
            out = mix.outcome(name, trial, width, seed)
            print(name, trial, width, seed, round(out['validation'], 4), flush=True)
    with replacing(args.out / f'mixture-{args.setting}.json') as path:
        text = json.dumps(summarize(mix, args.widths, args.seeds), indent=1)
        path.write_text(text + '\n')


if __name__ == '__main__':
    main()
