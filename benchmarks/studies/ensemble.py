"""Several teachers and their ensemble into one narrow student."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.studies.distillation import LOSSES, Distillation
from benchmarks.studies.main import EASE, EASE_L2, TEACHER, model_entry
from promptmm_pyg.benchmark.config import Dataset, Params, grid
from promptmm_pyg.benchmark.entries import RANDOM, Arm, Entry, Teacher, truncated
from promptmm_pyg.benchmark.experiments import BASELINE, LIGHT_GCN, suite_arm
from promptmm_pyg.benchmark.registry import build, is_trained
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
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
from promptmm_pyg.targets import SoftTargets

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
    filter_grid: Params = field(
        default_factory=lambda: {
            'num_layers': (2, 3, 4),
            'modality_weight': (0.0, 0.1, 0.2),
        }
    )
    filter_width: int = 256
    ease_l2: tuple[float, ...] = EASE_L2
    closed_form_widths: tuple[int, ...] = (64, 128, 256)
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


class Teachers:
    """PromptMM, a graph filter, EASE, and their ensemble. All choices are made on
    validation, of equals the first.
    """

    names: tuple[str, ...] = (TEACHER, 'GraphFilter', EASE, 'ensemble')

    def __init__(self, bench: Bench, options: Ensemble) -> None:
        self.bench, self.options = bench, options
        self.num_items = int(bench.train[ITEM].num_nodes)
        self.max_width = min(self.num_items, int(bench.train[USER].num_nodes))
        self.promptmm = options.teacher(bench.dataset)
        l2 = grid({'l2': options.ease_l2})
        self.ease = Entry(EASE, Arm(EASE), l2, factors={'width': self.num_items})
        self._made: dict[tuple[str, int], tuple[Any, SoftTargets, SoftTargets]] = {}

    def members(self) -> list[Entry]:
        """The models that are trained."""
        return [self.promptmm]

    def references(self) -> list[Entry]:
        """The models that students are compared with."""
        dataset = self.bench.dataset
        return [model_entry(dataset, LIGHT_GCN, dataset.training), self.ease]

    def protocol(self) -> dict[str, Any]:
        """The best hyper-parameters."""
        return {'GraphFilter': self._filter[0], 'EASE': self._ease[0]}

    def parts(self, name: str, seed: int) -> dict[str, SoftTargets]:  # noqa: ARG002
        """The members of a teacher. Only the one of its own name has a weight, unless
        it is an ensemble.
        """
        promptmm = self.bench.x_dict(self.promptmm.arm, {}, seed)
        return {
            TEACHER: SoftTargets(promptmm, {}),
            'GraphFilter': self._filter[1],
            EASE: self._ease[1],
        }

    @cached_property
    def _filter(self) -> tuple[dict[str, Any], SoftTargets]:
        width = min(self.options.filter_width, self.max_width)
        params, targets = self._best(
            (params, self._closed_form('GraphFilter', params, width))
            for params in grid(self.options.filter_grid)
        )
        return {**params, 'width': width}, targets

    @cached_property
    def _ease(self) -> tuple[dict[str, Any], SoftTargets]:
        params = self.bench.best_params(self.ease)[0]
        width, targets = self.best_width(EASE, params)
        return {**params, 'width': width}, targets

    def _closed_form(self, model: str, params: Params, width: int) -> SoftTargets:
        output = build(model, self.bench.train, params).as_output(width)
        return SoftTargets.from_output(output)._replace(modality_x_dict={})

    def best_width(self, model: str, params: Params) -> tuple[int, SoftTargets]:
        """The width that is best on validation, of equals the narrowest."""
        limits = self.options.closed_form_widths
        widths = sorted({min(width, self.max_width) for width in limits})
        return self._best((w, self._closed_form(model, params, w)) for w in widths)

    def _best(
        self, candidates: Iterable[tuple[Any, SoftTargets]]
    ) -> tuple[Any, SoftTargets]:
        return max(candidates, key=lambda pair: self.bench.validate(pair[1].x_dict))

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
