"""Several teachers and their ensemble into one narrow student."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.studies.distillation import LOSSES, Distillation
from benchmarks.studies.main import EASE, TEACHER, searched
from promptmm_pyg.benchmark.config import Dataset, Params, grid
from promptmm_pyg.benchmark.entries import (
    RANDOM,
    STARTED,
    TRUNCATED,
    Arm,
    Entry,
    Teacher,
    truncated,
)
from promptmm_pyg.benchmark.experiments import BASELINE, LIGHT_GCN, suite_arm
from promptmm_pyg.benchmark.registry import build, is_trained
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
    mean_epochs,
    mean_std,
    recall,
    title,
)
from promptmm_pyg.benchmark.result import load_result, rows_by_name
from promptmm_pyg.benchmark.runner import Bench, with_top
from promptmm_pyg.benchmark.stats import mean
from promptmm_pyg.data import ITEM, USER
from promptmm_pyg.distillation import (
    ensemble_targets,
    fit_ensemble_weights,
    truncate_embeddings,
)
from promptmm_pyg.distillation.start import Start
from promptmm_pyg.targets import SoftTargets

GRAPH_FILTER = 'GraphFilter'
MIN_WEIGHT = 0.005  # The smallest weight of an ensemble that is printed.


@dataclass(frozen=True, kw_only=True)
class Ensemble(Distillation):
    """Students of several teachers and of their ensemble."""

    widths: tuple[int, ...] = (32,)
    losses: tuple[str, ...] = ('PromptMM',)
    score_scales: tuple[float, ...] = (1.0, 3.0)
    """Factors of the teacher's scores; each is combined with every trial."""
    teacher_width: int = 128
    """Wider teachers are truncated to it."""
    closed_form_widths: tuple[int, ...] = (64, 128, 256)
    """Widths of closed forms as teachers, among which validation chooses."""
    suite: str | None = None
    """Result of a suite whose models are the teachers; ``{dataset}`` in it is
    replaced."""

    def check(self, dataset: Dataset, out: Path) -> None:
        super().check(dataset, out)
        if self.suite is not None:
            path = self.suite.format(dataset=dataset.name)
            name = load_result(path)['dataset']
            if name != dataset.name:
                raise ValueError(
                    f"'suite' must be a result on {dataset.name!r} (got one on "
                    f"{name!r} in '{path}')"
                )

    def teachers(self, bench: Bench) -> 'Teachers':
        """The teachers, by the option ``suite``."""
        if self.suite is None:
            return Teachers(bench, self)
        path = self.suite.format(dataset=bench.dataset.name)
        return SuiteTeachers(bench, self, load_result(path))

    def entries(self, bench: Bench) -> list[Entry]:
        teachers = self.teachers(bench)
        return [*teachers.members(), *self.rows(bench, teachers)]

    def rows(self, bench: Bench, teachers: 'Teachers') -> list[Entry]:
        """References, baselines, students and truncated teachers."""
        arm = partial(self.student_arm, bench.dataset)
        trials = tuple(
            {'score_scale': scale, **trial}
            for scale, trial in product(self.score_scales, grid(self.trials))
        )
        losses = LOSSES[self.losses[0]]
        references = {entry.name: entry for entry in teachers.references()}
        entries = list(references.values())
        for width in self.widths:
            factors = {'width': width}
            baseline_trials = grid(self.baseline_trials)
            baseline = Entry(BASELINE, arm(width), baseline_trials, factors=factors)
            entries.append(baseline)
            for name in teachers.names:
                teacher = teachers.teacher(name)
                student = Entry(
                    name,
                    arm(width, losses, RANDOM, teacher),
                    trials,
                    arm(self.widths[0], losses, RANDOM, teacher),
                    factors=factors,
                    references={BASELINE: baseline, **references},
                )
                # The best of a width contains that of a smaller one.
                cut = truncated(teacher, width)
                entries += [student, Entry(f'{name}, truncated', cut, factors=factors)]
        return entries

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        teachers = self.teachers(bench)
        return {
            'protocol': {**self.protocol(dataset), **teachers.protocol()},
            'teachers': [self._teacher_row(bench, teachers, n) for n in teachers.names],
            'rows': [self.row(bench, entry) for entry in self.rows(bench, teachers)],
        }

    def _teacher_row(
        self, bench: Bench, teachers: 'Teachers', name: str
    ) -> dict[str, Any]:
        results = [teachers.make(name, seed) for seed in bench.seeds]
        full = Teacher(['full', name], lambda seed: teachers.make(name, seed)[1])
        return {
            **self.row(bench, Entry(name, Arm('teacher', embeddings=full))),
            'width': results[0][1].x_dict[ITEM].size(1),
            'weights': [weights for weights, _, _ in results],
        }

    @classmethod
    def table(cls, result: Result) -> str:
        """The teachers with their weights, and their students."""
        teachers = []
        for row in result['teachers']:
            weights = {
                name: sum(w[name] for w in row['weights']) / len(row['weights'])
                for name in row['weights'][0]
            }
            shown = [f'{n} {w:.2f}' for n, w in weights.items() if w >= MIN_WEIGHT]
            cells = [row['name'], str(row['width']), ', '.join(shown)]
            teachers.append([*cells, mean_std(row['validation']), recall(row)])
        names = (BASELINE, LIGHT_GCN, EASE)
        students = [
            [row['name'], str(row['width']), recall(row)]
            + [interval(row.get(f'diff_vs_{name}')) for name in names]
            for row in result['rows']
        ]
        head = ['teacher', 'width', 'weights', 'validation', 'test']
        lines = [*title(result), *markdown(head, teachers), '']
        head = ['student of', 'width', 'test', *(f'vs. {n} (95 %)' for n in names)]
        return '\n'.join([*lines, *markdown(head, students)])


@dataclass(frozen=True, kw_only=True)
class Starts(Ensemble):
    """Starts of several students of an ensemble of closed forms, beside its untrained
    truncation and the baselines.
    """

    students: tuple[str, ...] = ('MatrixFactorization', 'LightGCN')
    starts: tuple[Start, ...] = (RANDOM, STARTED)
    params: Mapping[str, Params] = field(default_factory=dict)
    """Hyper-parameters of each student."""

    def teachers(self, bench: Bench) -> 'Teachers':
        return ClosedFormTeachers(bench, self)

    def rows(self, bench: Bench, teachers: 'Teachers') -> list[Entry]:
        name, losses = teachers.names[0], LOSSES[self.losses[0]]
        teacher, (width,) = teachers.teacher(name), self.widths
        factors = {'student': '', 'width': width}
        arm = Arm('teacher', embeddings=teacher)
        full = Entry(name, arm, factors={**factors, 'width': self.teacher_width})
        cut = Entry(
            f'{name}, {TRUNCATED}',
            truncated(teacher, width),
            factors=factors,
            retained_of=full,
        )
        entries = [*teachers.references(), full, cut]
        for student in self.students:
            options = replace(
                self, student=student, student_params=self.params[student]
            )
            arm_of = partial(options.student_arm, bench.dataset, width)
            factors = {'student': student, 'width': width}
            baseline = Entry(
                BASELINE, arm_of(), grid(self.baseline_trials), factors=factors
            )
            entries.append(baseline)
            references = {BASELINE: baseline, 'truncated_teacher': cut}
            entries += [
                Entry(
                    name,
                    arm_of(losses, start, teacher),
                    grid(self.trials),
                    factors={**factors, 'start': start},
                    references=references,
                    retained_of=full,
                )
                for start in self.starts
            ]
        return entries

    @classmethod
    def table(cls, result: Result) -> str:
        """The rows with their share of the teacher and their differences."""
        rows = [
            [
                row['name'],
                row.get('student', ''),
                row.get('start', ''),
                mean_std(row['validation']),
                mean_epochs(row),
                recall(row),
                f'{row["retained_ratio"]:.0%}' if 'retained_ratio' in row else '',
                interval(row.get(f'diff_vs_{BASELINE}')),
                interval(row.get('diff_vs_truncated_teacher')),
            ]
            for row in result['rows']
        ]
        head = ['distillation', 'student', 'start', 'validation', 'epochs', 'test']
        head += ['of teacher', f'vs. {BASELINE} (95 %)', 'vs. truncated teacher']
        return '\n'.join([*title(result), *markdown(head, rows)])


class Teachers:
    """PromptMM, a graph filter, EASE, and their ensemble. All choices are made on
    validation, of equals the first.
    """

    names: tuple[str, ...] = (TEACHER, GRAPH_FILTER, EASE, 'ensemble')

    def __init__(self, bench: Bench, options: Ensemble) -> None:
        self.bench, self.options = bench, options
        self.num_items = int(bench.train[ITEM].num_nodes)
        self.max_width = min(self.num_items, int(bench.train[USER].num_nodes))
        self.searched = {
            model: searched(
                model,
                bench.dataset.training,
                options.search_trials,
                options.search_width,
            )
            for model in (TEACHER, GRAPH_FILTER, EASE, LIGHT_GCN)
        }
        width = {'width': self.num_items}
        self.searched[EASE] = replace(self.searched[EASE], factors=width)
        self._closed: dict[str, tuple[dict[str, Any], SoftTargets]] = {}
        self._made: dict[tuple[str, int], tuple[Any, SoftTargets, SoftTargets]] = {}

    def members(self) -> list[Entry]:
        """The models that are trained."""
        return [self.searched[TEACHER]]

    def references(self) -> list[Entry]:
        """The models that students are compared with."""
        return [self.searched[LIGHT_GCN], self.searched[EASE]]

    def protocol(self) -> dict[str, Any]:
        """The best hyper-parameters of the closed forms."""
        return {name: self.closed_form(name)[0] for name in (GRAPH_FILTER, EASE)}

    def parts(self, name: str, seed: int) -> dict[str, SoftTargets]:  # noqa: ARG002
        """The members of a teacher. Only the one of its own name has a weight, unless
        it is an ensemble.
        """
        entry = self.searched[TEACHER]
        params = self.bench.best_params(entry)[0]
        return {
            TEACHER: SoftTargets(self.bench.x_dict(entry.arm, params, seed), {}),
            **{name: self.closed_form(name)[1] for name in (GRAPH_FILTER, EASE)},
        }

    def closed_form(self, model: str) -> tuple[dict[str, Any], SoftTargets]:
        """The best hyper-parameters and width of a closed form, and its targets."""
        if model not in self._closed:
            params = self.bench.best_params(self.searched[model])[0]
            width, targets = self.best_width(model, params)
            self._closed[model] = {**params, 'width': width}, targets
        return self._closed[model]

    def _of_width(self, model: str, params: Params, width: int) -> SoftTargets:
        output = build(model, self.bench.train, params).as_output(width)
        return SoftTargets.from_output(output)._replace(modality_x_dict={})

    def best_width(self, model: str, params: Params) -> tuple[int, SoftTargets]:
        """The width that is best on validation, of equals the narrowest."""
        limits = self.options.closed_form_widths
        widths = sorted({min(width, self.max_width) for width in limits})
        options = ((w, self._of_width(model, params, w)) for w in widths)
        return max(options, key=lambda pair: self.bench.validate(pair[1].x_dict))

    def make(
        self, name: str, seed: int
    ) -> tuple[dict[str, float], SoftTargets, SoftTargets]:
        """Weights of the members, the teacher, and the teacher that students have: its
        best items, and its embeddings truncated.
        """
        key = name, self.seed_of(name, seed)
        if key not in self._made:
            train, val = self.bench.train, self.bench.split.val
            parts = self.parts(*key)
            if name.startswith('ensemble'):
                weights = fit_ensemble_weights(parts, train, val)
            else:
                weights = {part: float(part == name) for part in parts}
            full = ensemble_targets(parts, weights)
            x_dict, limit = full.x_dict, self.options.teacher_width
            if x_dict[ITEM].size(1) > limit:
                x_dict = truncate_embeddings(x_dict, limit)
            top = with_top(full, train).top
            self._made[key] = weights, full, SoftTargets(x_dict, {}, top=top)
        return self._made[key]

    def seed_of(self, name: str, seed: int) -> int:  # noqa: ARG002
        """The seed of the members of a teacher."""
        return seed

    def teacher(self, name: str) -> Teacher:
        """The teacher that students have."""
        key = ['ensemble', name, self.protocol(), self.options.teacher_width]
        return Teacher(key, lambda seed: self.make(name, seed)[2])


class ClosedFormTeachers(Teachers):
    """The ensemble of a graph filter and EASE."""

    names = ('ensemble',)

    def members(self) -> list[Entry]:
        return []

    def references(self) -> list[Entry]:
        return [self.searched[EASE]]

    def parts(self, name: str, seed: int) -> dict[str, SoftTargets]:  # noqa: ARG002
        return {name: self.closed_form(name)[1] for name in (GRAPH_FILTER, EASE)}

    def seed_of(self, name: str, seed: int) -> int:  # noqa: ARG002
        return 0


class SuiteTeachers(Teachers):
    """The best model of a finished suite, all of its models together, and these with
    the seeds of each model as one.
    """

    ALL_SEEDS = 'ensemble of all seeds'

    def __init__(self, bench: Bench, options: Ensemble, result: Result) -> None:
        super().__init__(bench, options)
        self.suite, self.seeds = result['protocol'], result['seeds']
        rows = rows_by_name(result)
        self.params = {name: row['best_params'] for name, row in rows.items()}
        # Popularity has the same scores for everybody.
        self.params.pop('Popularity', None)
        best = max(self.params, key=lambda name: mean(rows[name]['validation']))
        self.names = (best, 'ensemble', self.ALL_SEEDS)
        self._targets: dict[tuple[str, int], SoftTargets] = {}

    def _entry(self, model: str, width: int) -> Entry:
        arm = suite_arm(model, self.suite['training'], self.suite['width'])
        return Entry(model, arm, (self.params[model],), factors={'width': width})

    def members(self) -> list[Entry]:
        models = [name for name in self.params if is_trained(name)]
        return [self._entry(model, self.suite['width']) for model in models]

    def references(self) -> list[Entry]:
        widths = {LIGHT_GCN: self.suite['width'], EASE: self.num_items}
        return [self._entry(k, v) for k, v in widths.items() if k in self.params]

    def protocol(self) -> dict[str, Any]:
        return {'suite_protocol': self.suite, 'suite_params': self.params}

    def seed_of(self, name: str, seed: int) -> int:
        return self.seeds[0] if name == self.ALL_SEEDS else seed

    def parts(self, name: str, seed: int) -> dict[str, SoftTargets]:
        if name == self.ALL_SEEDS:
            return {model: self._every_seed(model) for model in self.params}
        models = self.params if name == 'ensemble' else [name]
        return {model: self._of_model(model, seed) for model in models}

    def _of_model(self, model: str, seed: int) -> SoftTargets:
        seed = seed if is_trained(model) else self.seeds[0]
        if (model, seed) not in self._targets:
            params = self.params[model]
            if is_trained(model):
                arm = self._entry(model, 0).arm
                targets = SoftTargets(self.bench.x_dict(arm, params, seed), {})
            else:
                _, targets = self.best_width(model, params)
            self._targets[model, seed] = targets
        return self._targets[model, seed]

    def _every_seed(self, model: str) -> SoftTargets:
        if not is_trained(model):
            return self._of_model(model, self.seeds[0])
        parts = {str(seed): self._of_model(model, seed) for seed in self.seeds}
        return ensemble_targets(parts, dict.fromkeys(parts, 1.0))
