"""The parts of PromptMM, and the options of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.studies.main import TEACHER, hyperparameters
from promptmm_pyg._utils import check_choice
from promptmm_pyg.benchmark.config import Dataset, Params, grid
from promptmm_pyg.benchmark.entries import (
    RANDOM,
    STARTED,
    TRUNCATED,
    Arm,
    Entry,
    Losses,
    Teacher,
    truncated,
)
from promptmm_pyg.benchmark.experiments import BASELINE, Experiment
from promptmm_pyg.benchmark.registry import check_params
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
    mean_epochs,
    recall,
    title,
)
from promptmm_pyg.benchmark.runner import METRIC, Bench
from promptmm_pyg.benchmark.stats import mean, spread
from promptmm_pyg.distillation import promptmm_losses
from promptmm_pyg.distillation.start import Start


@dataclass(frozen=True, kw_only=True)
class Ablation(Experiment):
    """The options of a model: each alone, all together, and all but each."""

    model: str = 'PromptMMPlus'
    options: Mapping[str, Any] = field(default_factory=dict)
    """Trials per option."""
    l2_factors: tuple[float, ...] = (1.0, 3.0)
    """Trials of the plain model's penalty, times the data set's."""

    def check(self, dataset: Dataset, out: Any) -> None:  # noqa: ARG002
        hyperparameters(dataset, TEACHER)
        for trials in ({}, *self.options.values()):
            for trial in grid(trials):
                check_params('model', self.model, trial)

    def entries(self, bench: Bench) -> list[Entry]:
        params = hyperparameters(bench.dataset, TEACHER)
        l2 = params.pop('l2')
        arm = Arm(self.model, params, self.config(bench.dataset))
        penalties = grid({'l2': [factor * l2 for factor in self.l2_factors]})
        best = bench.best_params(Entry('plain', arm, penalties))[0]
        tuned = {
            name: self._tuned(bench, arm, best, trials)
            for name, trials in self.options.items()
        }
        every = {k: v for part in tuned.values() for k, v in part.items()}
        plain = Entry('plain', arm, (best,))
        without = Arm(self.model, {**params, 'prompt': False}, arm.training)
        compared = partial(Entry, references={'baseline': plain})
        full = compared('all options', arm, ({**every, **best},))
        return [
            plain,
            compared('plain without prompt', without, (best,)),
            *(compared(k, arm, ({**own, **best},)) for k, own in tuned.items()),
            full,
            *(
                Entry(
                    f'all but {name}',
                    arm,
                    ({**{k: v for k, v in every.items() if k not in own}, **best},),
                    references={'baseline': plain, 'all_options': full},
                )
                for name, own in tuned.items()
            ),
        ]

    def _tuned(
        self, bench: Bench, arm: Arm, best: Mapping[str, Any], trials: Any
    ) -> dict[str, Any]:
        """The best trial of an option."""
        rows = tuple({**trial, **best} for trial in grid(trials))
        params = bench.best_params(Entry('option', arm, rows))[0]
        return {k: v for k, v in params.items() if k not in best}

    @classmethod
    def table(cls, result: Result) -> str:
        """Every variant beside the plain model and, without one option, beside all."""
        rows = [
            [
                row['name'],
                ', '.join(
                    f'{name} {value:g}'
                    for name, value in row['best_params'].items()
                    if not isinstance(value, bool) and name != 'l2'
                ),
                mean_epochs(row),
                recall(row),
                interval(row.get('diff_vs_baseline')),
                interval(row.get('diff_vs_all_options')),
            ]
            for row in result['rows']
        ]
        head = [result['protocol'].get('model', 'PromptMMPlus'), 'strengths', 'epochs']
        head += [METRIC, 'vs. plain (95 %)', 'vs. all options (95 %)']
        return '\n'.join([*title(result), *markdown(head, rows)])


class Part(NamedTuple):
    """How a row differs from the paper's distillation."""

    losses: Params = {}  # noqa: RUF012
    """Arguments of ``promptmm_losses``; weights are factors."""
    prompt: str = 'frozen'
    """Of ``distill``; ``'none'`` for a teacher without prompt."""
    start: Start = RANDOM


FULL = 'PromptMM'
# The paper's sum: decoupled list-wise and embedding losses per modality.
PAPER: Params = {'list_views': 'modalities', 'embedding_views': 'modalities'}
PARTS: dict[str, Part] = {
    FULL: Part(),
    'without prompt': Part(prompt='none'),
    'without pair-wise': Part({'pairwise_weight': 0.0}),
    'without list-wise': Part({'listwise_weight': 0.0}),
    'without embedding': Part({'embedding_weight': 0.0}),
    'coupled list-wise': Part({'listwise': 'kl'}),
    'fused view': Part({'list_views': 'fused', 'embedding_views': 'fused'}),
    'all views': Part({'list_views': 'all', 'embedding_views': 'all'}),
    'joint prompt': Part(prompt='joint'),
    'truncated start': Part(start=STARTED),
    'fused view, truncated start': Part(
        {'list_views': 'fused', 'embedding_views': 'fused'}, start=STARTED
    ),
}


def part_losses(options: Params) -> Losses:
    """The losses of a row of :class:`Parts`."""
    options = {**PAPER, **options}
    weights = {
        name: options.pop(name, 1.0)
        for name in ('pairwise_weight', 'listwise_weight', 'embedding_weight')
    }

    def make(_: Any, __: int, weight: float) -> Any:
        scaled = {name: weight * factor for name, factor in weights.items()}
        return [x for x in promptmm_losses(**scaled, **options) if x.weight]

    return Losses(f'{FULL} {sorted({**weights, **options}.items())}', make)


@dataclass(frozen=True, kw_only=True)
class Parts(Experiment):
    """The parts of PromptMM: all of them, all but each, and each replaced, for several
    students. Every row is tuned by equally many trials.
    """

    students: tuple[str, ...] = ('MatrixFactorization', 'LightGCN')
    width: int = 32
    parts: tuple[str, ...] = tuple(PARTS)
    teacher_l2: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    """Trials of the teachers' penalty, times the data set's."""
    weights: tuple[float, ...] = (1.0, 10.0)
    """Trials of the weight of the losses of distillation."""
    l2: tuple[float, ...] = (0.1, 1.0)
    """Trials of the student's penalty, times the data set's."""
    start_learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    """Trials of a student that starts from its teacher, in place of ``l2``."""
    baseline_l2: tuple[float, ...] = (0.1, 1.0, 3.0, 10.0)

    def check(self, dataset: Dataset, out: Any) -> None:  # noqa: ARG002
        for name in self.parts:
            check_choice('parts', name, PARTS)
        for name in self.students:
            check_choice('students', name, dataset.students)

    def entries(self, bench: Bench) -> list[Entry]:
        teacher = self._teacher(bench, 'teacher', {})
        bare = self._teacher(bench, 'teacher without prompt', {'prompt': False})
        rows = [replace(teacher, references={'teacher_without_prompt': bare}), bare]
        sources = {
            name: bench.teacher_module(entry.arm, bench.best_params(entry)[0])
            for name, entry in (('frozen', teacher), ('none', bare))
        }
        sources['joint'] = sources['frozen']
        factors = {'student': '', 'width': self.width}
        cut = Entry(TRUNCATED, truncated(sources['frozen'], self.width))
        rows.append(replace(cut, factors=factors, retained_of=teacher))
        for student in self.students:
            rows += self._students(bench, student, sources, cut, teacher)
        return rows

    def _teacher(self, bench: Bench, name: str, more: Params) -> Entry:
        params = hyperparameters(bench.dataset, TEACHER)
        l2 = params.pop('l2')
        arm = Arm(TEACHER, {**params, **more}, self.config(bench.dataset))
        trials = grid({'l2': [factor * l2 for factor in self.teacher_l2]})
        factors = {'student': '', 'width': params['embedding_dim']}
        return Entry(name, arm, trials, factors=factors)

    def _students(
        self,
        bench: Bench,
        student: str,
        sources: Mapping[str, Teacher],
        cut: Entry,
        teacher: Entry,
    ) -> list[Entry]:
        dataset = bench.dataset
        params = {**dataset.students[student], 'embedding_dim': self.width}
        l2, l2_baseline = params.pop('l2'), params.pop('baseline_l2', None)
        l2_baseline = l2_baseline or l2
        factors = {'student': student, 'width': self.width}
        plain = Arm(student, params, self.config(dataset))
        grids = {
            RANDOM: grid(
                {'weight': self.weights, 'l2': [factor * l2 for factor in self.l2]}
            ),
            STARTED: grid(
                {'weight': self.weights, 'learning_rate': self.start_learning_rates}
            ),
        }
        baseline = Entry(
            BASELINE,
            plain,
            grid({'l2': [factor * l2_baseline for factor in self.baseline_l2]}),
            factors=factors,
            retained_of=teacher,
        )
        rows = [baseline]
        references = {BASELINE: baseline, 'truncated_teacher': cut}
        for name in self.parts:
            part = PARTS[name]
            joint = part.prompt == 'joint'
            arm = replace(
                plain,
                losses=part_losses(part.losses),
                teacher=sources[part.prompt],
                candidates=dataset.candidates,
                prompt='joint' if joint else 'frozen',
                start=part.start,
            )
            trials = grids[part.start]
            if part.start == STARTED:
                trials = tuple({**trial, 'l2': l2} for trial in trials)
            row = Entry(
                name,
                arm,
                trials,
                factors=factors,
                references=references,
                retained_of=teacher,
            )
            rows.append(row)
            if name == FULL:
                references = {**references, 'full': row}
        return rows

    def row(self, bench: Bench, entry: Entry) -> dict[str, Any]:
        out = super().row(bench, entry)
        outcomes = bench.runs(entry).outcomes
        if 'teacher_validation' in outcomes[0]:
            out['teacher_validation'] = spread(
                [outcome['teacher_validation'] for outcome in outcomes]
            )
        return out

    @classmethod
    def table(cls, result: Result) -> str:
        """Every row with its differences from all parts, the baseline and the truncated
        teacher.
        """
        rows = [
            [
                row['student'] or 'none',
                row['name'],
                f'{mean(row["validation"]):.4f}',
                mean_epochs(row),
                recall(row),
                interval(row.get('diff_vs_full')),
                interval(row.get('diff_vs_baseline')),
                interval(row.get('diff_vs_truncated_teacher')),
                interval(row.get('diff_vs_teacher_without_prompt')),
            ]
            for row in result['rows']
        ]
        head = ['student', 'distillation', 'validation', 'epochs', METRIC]
        head += [f'vs. {FULL} (95 %)', 'vs. baseline', 'vs. truncated teacher']
        head.append('vs. teacher without prompt')
        return '\n'.join([*title(result), *markdown(head, rows)])
