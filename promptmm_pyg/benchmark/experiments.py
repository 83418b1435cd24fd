"""The kinds of experiments. The fields of a class are the keys of its TOML file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.benchmark.config import BenchmarkConfig, Dataset, Params, grid
from promptmm_pyg.benchmark.corruption import (
    cold_split,
    mask_content,
    merge_split,
    missing_ratio,
    positive_items,
    predict_cold_items,
    prepare_imputed,
    swap_content,
)
from promptmm_pyg.benchmark.recipes import RECIPES
from promptmm_pyg.benchmark.registry import (
    SEARCH_SPACES,
    is_trained,
    model_kind,
)
from promptmm_pyg.benchmark.result import (
    load_per_user,
    load_result,
    result_path,
    rows_by_name,
    save_per_user,
    spread,
)
from promptmm_pyg.benchmark.result import mean as spread_mean
from promptmm_pyg.benchmark.runner import (
    METRIC,
    RANDOM,
    TRUNCATED,
    TUNING_SEED,
    Arm,
    Bench,
    Entry,
    Teacher,
    Variant,
    spread_metrics,
    with_top,
)
from promptmm_pyg.benchmark.significance import compare, difference
from promptmm_pyg.benchmark.timing import serving_costs
from promptmm_pyg.data import INTERACTS, ITEM, USER, Split
from promptmm_pyg.distillation import truncate_embeddings
from promptmm_pyg.evaluation import Evaluation, evaluate
from promptmm_pyg.models import MODELS
from promptmm_pyg.targets import SoftTargets

BASELINE, STUDENT, TEACHER = 'baseline', 'student', 'PromptMM'
LIGHT_GCN, EASE = 'LightGCN', 'EASE'
EASE_L2 = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
LEVEL = 0.05  # Of significance.
SUITE_METRICS = ('Recall@10', 'Recall@20', 'Recall@50', 'NDCG@20')
_TRIALS = ({'weight': 1.0, 'l2': 0.01},)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A kind of experiment, with its options."""

    kind: ClassVar[str]
    training: Params = field(default_factory=dict)
    """Fields of ``TrainingConfig`` in place of the data set's."""

    def check(self, dataset: Dataset, out: Path) -> None:
        """Raises, before anything is trained, if an option does not fit."""

    def bench(
        self, dataset: Dataset, seeds: Sequence[int], work: Path, device: str
    ) -> Any:
        """The data set with its cache; ``None`` if nothing is trained."""
        return Bench(dataset, seeds, work, device=device)

    def entries(self, bench: Any) -> list[Entry]:
        """All that is trained, in an order that does not change."""
        raise NotImplementedError

    def run(self, bench: Any, dataset: Dataset, out: Path) -> dict[str, Any]:
        """The result without its head."""
        raise NotImplementedError

    def protocol(self, dataset: Dataset) -> dict[str, Any]:
        """All settings, for the result file."""
        return {'dataset': dataset.protocol(), **asdict(self)}

    def config(self, dataset: Dataset) -> dict[str, Any]:
        """Fields of ``TrainingConfig`` for this experiment."""
        return {**dataset.training, **self.training}


def make_experiment(config: BenchmarkConfig) -> Experiment:
    """The experiment of a configuration.

    Raises:
        ValueError: If the kind or an option is unknown.
    """
    check_choice('kind', config.kind, KINDS)
    cls = KINDS[config.kind]
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(config.options) - set(known))
    if unknown:
        raise ValueError(
            f"'{config.kind}' must have options among {sorted(known)} (got {unknown})"
        )
    options = {k: _frozen(v) for k, v in config.options.items()}
    return cls(**options)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def teacher_arm(dataset: Dataset) -> Arm:
    """PromptMM with the data set's hyper-parameters, the teacher of all experiments."""
    return Arm(TEACHER, _model(dataset, TEACHER), dataset.training)


def _model(dataset: Dataset, model: str) -> dict[str, Any]:
    if model not in dataset.models:
        raise ValueError(
            f"'dataset.{dataset.name}.models' must have {model!r} (got "
            f'{sorted(dataset.models)})'
        )
    return dict(dataset.models[model])


def _student_params(values: Params) -> dict[str, Any]:
    """The parameters of a student without those of its baseline."""
    return {k: v for k, v in values.items() if k != 'baseline_l2'}


def _student(
    bench: Bench, model: str, params: Params, training: Params, teacher: Teacher
) -> Arm:
    """A student of PromptMM's losses."""
    return Arm(
        model,
        params,
        training,
        recipe='PromptMM',
        teacher=teacher,
        candidates=bench.dataset.candidates,
    )


def _embedding_values(
    bench: Bench, key: Any, x_dicts: Sequence[Mapping[str, Tensor]]
) -> list[Evaluation]:
    return [bench.test_embeddings([key, i], x) for i, x in enumerate(x_dicts)]


def _per_user(tests: Sequence[Evaluation]) -> list[Tensor]:
    return [test.per_user[METRIC] for test in tests]


def _mean_of(values: Sequence[Tensor]) -> float:
    return sum(float(x.mean()) for x in values) / len(values)


@dataclass(frozen=True, kw_only=True)
class Main(Experiment):
    """The teacher, its students and their baselines, LightGCN and EASE."""

    kind = 'main'
    ease_l2: tuple[float, ...] = EASE_L2

    def named(self, bench: Bench) -> dict[str, Entry]:
        dataset, training = bench.dataset, self.config(bench.dataset)
        teacher = Arm(TEACHER, _model(dataset, TEACHER), training)
        light_gcn = Arm(LIGHT_GCN, _model(dataset, LIGHT_GCN), training)
        out = {LIGHT_GCN: Entry(light_gcn), TEACHER: Entry(teacher)}
        for model, values in dataset.students.items():
            params = _student_params(values)
            student = _student(bench, model, params, training, bench.teacher(teacher))
            l2 = values.get('baseline_l2', params['l2'])
            out[f'{model} {STUDENT}'] = Entry(student)
            out[f'{model} {BASELINE}'] = Entry(
                Arm(model, {**params, 'l2': l2}, training)
            )
        out[EASE] = Entry(Arm(EASE), grid({'l2': self.ease_l2}))
        return out

    def entries(self, bench: Bench) -> list[Entry]:
        return list(self.named(bench).values())

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        entries = self.named(bench)
        teacher = entries[TEACHER].arm
        x_dicts = [bench.x_dict(teacher, {}, seed) for seed in bench.seeds]
        num_items = int(bench.train[ITEM].num_nodes)
        values = {name: bench.per_user(entry) for name, entry in entries.items()}
        rows = {}
        for name, entry in entries.items():
            row = bench.row(name, entry)
            row['width'] = entry.arm.params.get('embedding_dim', num_items)
            row['parameters'] = bench.runs(entry).outcomes[0]['parameters']
            rows[name] = row
        rows[EASE]['parameters'] = num_items**2
        for model, params in dataset.students.items():
            width = params['embedding_dim']
            name = f'{TRUNCATED}, width {width}'
            if name not in rows:
                cut = [truncate_embeddings(x, width) for x in x_dicts]
                tests = _embedding_values(bench, name, cut)
                values[name] = _per_user(tests)
                rows[name] = {
                    'name': name,
                    'test': spread_metrics(tests),
                    'width': width,
                    'parameters': sum(x.numel() for x in cut[0].values()),
                }
            row = rows[f'{model} {STUDENT}']
            own = values[f'{model} {STUDENT}']
            row['retained_ratio'] = _mean_of(own) / _mean_of(values[TEACHER])
            for key, reference in {
                BASELINE: f'{model} {BASELINE}',
                'truncated_teacher': name,
                'teacher': TEACHER,
                LIGHT_GCN: LIGHT_GCN,
                EASE: EASE,
            }.items():
                row[f'diff_vs_{key}'] = difference(own, values[reference])
        rows[TEACHER]['diff_vs_LightGCN'] = difference(
            values[TEACHER], values[LIGHT_GCN]
        )
        rows[EASE] = rows.pop(EASE)  # Last.
        return {'protocol': self.protocol(dataset), 'rows': list(rows.values())}


@dataclass(frozen=True, kw_only=True)
class Suite(Experiment):
    """Every model tuned by equally many trials, compared with LightGCN and the best."""

    kind = 'suite'
    models: tuple[str, ...] = tuple(SEARCH_SPACES)
    trials: int = 5
    width: int = 64
    add: bool = False
    """Adds to the finished result in the output folder."""

    def check(self, dataset: Dataset, out: Path) -> None:
        for model in self.models:
            check_choice('models', model, SEARCH_SPACES)
        check_positive('trials', self.trials)
        if self.add and not result_path(out, self.kind, dataset.name).is_file():
            raise ValueError(
                f"'add' requires a result to add to (got no "
                f"'{result_path(out, self.kind, dataset.name)}'). Leave it out"
            )

    def named(self, bench: Bench) -> dict[str, Entry]:
        training = self.config(bench.dataset)
        out = {}
        for model in dict.fromkeys(self.models):
            trained = is_trained(model)
            arm = suite_arm(model, training, self.width)
            if not trained:
                arm = Arm(model)
            out[model] = Entry(arm, search=(SEARCH_SPACES[model], self.trials))
        return out

    def entries(self, bench: Bench) -> list[Entry]:
        return list(self.named(bench).values())

    def protocol(self, dataset: Dataset) -> dict[str, Any]:
        return {
            'trials': self.trials,
            'training': self.config(dataset),
            'width': self.width,
            'sampler': f'TPESampler(seed={TUNING_SEED})',
        }

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:
        protocol = {**self.protocol(dataset), 'device': bench.device}
        tables_path = out / f'{self.kind}-{dataset.name}-per-user.npz'
        rows: dict[str, dict[str, Any]] = {}
        per_user: dict[str, np.ndarray] = {}
        if self.add:
            rows, per_user = self._former(dataset, out, protocol, bench.seeds)
        users = per_user.pop('users', None)
        for name, entry in self.named(bench).items():
            rows[name] = self._row(bench, name, entry)
            tests = bench.tests(entry)
            per_user[name] = torch.stack(_per_user(tests)).numpy()
            tested = tests[0].users.numpy()
            if users is not None and not np.array_equal(users, tested):
                raise ValueError(
                    f"'add' requires models tested on the same users (got "
                    f'{len(tested)} of {name}, {len(users)} before, or others). Run '
                    f'the suite without it'
                )
            users = tested
        names = sorted(rows, key=list(SEARCH_SPACES).index)
        rows = {name: rows[name] for name in names}
        best = max(names, key=lambda name: spread_mean(rows[name]['validation']))
        tables = {name: torch.from_numpy(per_user[name]) for name in names}
        for reference in dict.fromkeys((LIGHT_GCN, best)):
            if reference in rows:
                for name, values in compare(tables, reference).items():
                    rows[name][f'diff_vs_{reference}'] = values
        assert users is not None
        save_per_user(tables_path, users, {name: per_user[name] for name in names})
        return {
            'protocol': protocol,
            'best': best,
            'rows': list(rows.values()),
            'per_user': tables_path.name,
        }

    def _row(self, bench: Bench, name: str, entry: Entry) -> dict[str, Any]:
        runs, row = bench.runs(entry), bench.row(name, entry)
        first, outcomes = runs.outcomes[0], runs.outcomes
        # The seed of the search was trained as a trial.
        further = [
            out['seconds']
            for seed, out in zip(runs.seeds, outcomes, strict=True)
            if seed != TUNING_SEED
        ]
        row['test'] = {k: v for k, v in row['test'].items() if k in SUITE_METRICS}
        row |= {
            'kind': model_kind(name),
            'parameters': first['parameters'],
            'trials': runs.trials,
            'seconds': [out['seconds'] for out in outcomes],
            'seconds_total': sum(trial['seconds'] for trial in runs.trials)
            + (sum(further) if entry.arm.trained else 0.0),
            'seconds_per_epoch': [out.get('seconds_per_epoch') for out in outcomes],
            'peak_mib': [out['peak_mib'] for out in outcomes],
            'threads': [out['threads'] for out in outcomes],
        }
        if 'peak_gpu_mib' in first:
            row['peak_gpu_mib'] = [out['peak_gpu_mib'] for out in outcomes]
        return row

    def _former(
        self,
        dataset: Dataset,
        out: Path,
        protocol: dict[str, Any],
        seeds: tuple[int, ...],
    ) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
        """Rows and per-user values of the other models in the finished result."""
        path = result_path(out, self.kind, dataset.name)
        result = load_result(path)
        now = json.loads(json.dumps({**protocol, 'seeds': seeds}))
        before = {**result['protocol'], 'seeds': result['seeds']}
        for key, value in now.items():
            if before.get(key) != value:
                raise ValueError(
                    f"'add' requires a result of the same protocol (got {key!r} "
                    f"{before.get(key)} in '{path}', {value} now)"
                )
        rows = {
            name: {k: v for k, v in row.items() if not k.startswith('diff_vs_')}
            for name, row in rows_by_name(result).items()
            if name not in self.models
        }
        return rows, load_per_user(out / result['per_user'], self.models)


def suite_arm(model: str, training: Params, width: int) -> Arm:
    """How the suite trains a model."""
    if not is_trained(model):
        return Arm(model)
    return Arm(model, {'embedding_dim': width}, training)


@dataclass(frozen=True, kw_only=True)
class Distillation(Experiment):
    """Losses of distillation at several widths and starts, and the baseline."""

    kind = 'distillation'
    student: str = 'MatrixFactorization'
    student_params: Params = field(default_factory=dict)
    losses: tuple[str, ...] = tuple(RECIPES)
    widths: tuple[int, ...] = (16, 32)
    starts: tuple[str, ...] = (RANDOM,)
    tuned_width: int | None = None
    """Width of the trials of each loss. (default: the first)"""
    trials: Any = _TRIALS
    """Hyper-parameters of a student with a teacher, chosen from a random start."""
    baseline_trials: Any = ({'l2': 0.01},)
    """Those of the baseline, chosen at every width."""
    candidates: Params = field(default_factory=dict)
    shuffled: bool = False
    """Whether a teacher with shuffled nodes teaches, too."""
    cost_repeats: int = 0
    """Repeats of the times of refreshing and serving; 0 measures none."""

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        for loss in self.losses:
            check_choice('losses', loss, RECIPES)
        for start in self.starts:
            check_choice('starts', start, (RANDOM, TRUNCATED))
        width = _model(dataset, TEACHER)['embedding_dim']
        if max(self.widths) > width:
            raise ValueError(
                f"'widths' must be at most {width}, the teacher's own (got "
                f'{max(self.widths)}). There is no truncated teacher of a larger width'
            )

    def teacher(self, bench: Bench) -> Teacher:
        return bench.teacher(teacher_arm(bench.dataset))

    def student_arm(
        self,
        bench: Bench,
        recipe: str | None,
        width: int,
        start: str = RANDOM,
        teacher: Teacher | None = None,
    ) -> Arm:
        """A student; without a ``recipe`` it is the baseline."""
        needs_teacher = recipe is not None or start == TRUNCATED
        return Arm(
            self.student,
            {**self.student_params, 'embedding_dim': width},
            self.config(bench.dataset),
            recipe=recipe,
            teacher=(teacher or self.teacher(bench)) if needs_teacher else None,
            candidates=self.candidates if recipe is not None else {},
            start=start,
        )

    def named(self, bench: Bench) -> dict[tuple[int, str, str], Entry]:
        """Entries by width, start and name."""
        arm = partial(self.student_arm, bench)
        tuned_width = self.tuned_width or self.widths[0]
        trials, baseline_trials = grid(self.trials), grid(self.baseline_trials)
        recipes: dict[str, tuple[str, Teacher | None]] = {
            name: (name, None) for name in self.losses
        }
        if self.shuffled:
            recipes['PromptMM, shuffled teacher'] = ('PromptMM', self._shuffled(bench))
        out = {}
        for width, start in product(self.widths, self.starts):
            out[width, start, BASELINE] = Entry(
                arm(None, width, start), baseline_trials, arm(None, width)
            )
            for name, (recipe, teacher) in recipes.items():
                out[width, start, name] = Entry(
                    arm(recipe, width, start, teacher),
                    trials,
                    arm(recipe, tuned_width, RANDOM, teacher),
                )
        return out

    def entries(self, bench: Bench) -> list[Entry]:
        return list(self.named(bench).values())

    def _shuffled(self, bench: Bench) -> Teacher:
        teacher = self.teacher(bench)

        def targets(seed: int) -> SoftTargets:
            return shuffled(teacher.targets(seed), bench.train, seed)

        return Teacher(['shuffled', teacher.key], targets)

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        entries = self.named(bench)
        x_dicts = [self.teacher(bench).targets(seed).x_dict for seed in bench.seeds]
        full = _embedding_values(bench, TEACHER, x_dicts)
        of_teacher = _mean_of(_per_user(full))
        rows = []
        for width in self.widths:
            cut_x = [truncate_embeddings(x, width) for x in x_dicts]
            cut = _embedding_values(bench, [TRUNCATED, width], cut_x)
            baseline: list[Tensor] = []
            for start in self.starts:
                baseline = bench.per_user(entries[width, start, BASELINE])
                for (w, s, name), entry in entries.items():
                    if (w, s) == (width, start):
                        values = bench.per_user(entry)
                        row = bench.row(name, entry, width=width, start=start)
                        row['test'] = {METRIC: row['test'][METRIC]}
                        row['retained_ratio'] = _mean_of(values) / of_teacher
                        if name != BASELINE:
                            row['diff_vs_baseline'] = difference(values, baseline)
                        row['diff_vs_truncated_teacher'] = difference(
                            values, _per_user(cut)
                        )
                        rows.append(row)
            rows.append(
                {
                    'name': TRUNCATED,
                    'width': width,
                    'start': TRUNCATED,
                    'validation': spread([bench.validate(x) for x in cut_x]),
                    'test': spread_metrics(cut, [METRIC]),
                    'retained_ratio': _mean_of(_per_user(cut)) / of_teacher,
                    'diff_vs_baseline': difference(_per_user(cut), baseline),
                }
            )
        result = {
            'protocol': self.protocol(dataset),
            'teachers': [
                {
                    'name': TEACHER,
                    'width': x_dicts[0][ITEM].size(1),
                    'test': spread_metrics(full, [METRIC]),
                }
            ],
            'rows': rows,
        }
        if self.cost_repeats:
            result['costs'] = serving_costs(
                bench, self.student, TEACHER, self.widths, self.cost_repeats
            )
        return result


def shuffled(targets: SoftTargets, train: HeteroData, seed: int) -> SoftTargets:
    """The same embeddings, each of another user or item: a teacher that knows nothing
    about its nodes.
    """
    generator = torch.Generator().manual_seed(seed)
    x_dict = {
        key: x[torch.randperm(x.size(0), generator=generator)]
        for key, x in targets.x_dict.items()
    }
    return with_top(SoftTargets(x_dict, {}), train)


@dataclass(frozen=True, kw_only=True)
class Ensemble(Distillation):
    """Students of several teachers and of their ensemble."""

    kind = 'ensemble'
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
    """Result of a suite whose models teach; ``{dataset}`` in it is replaced."""

    def check(self, dataset: Dataset, out: Path) -> None:
        super().check(dataset, out)
        if self.suite is not None:
            path = self.suite.format(dataset=dataset.name)
            found = load_result(path)['dataset']
            if found != dataset.name:
                raise ValueError(
                    f"'suite' requires a result on {dataset.name!r} (got one on "
                    f'{found!r} in {path})'
                )

    def teachers(self, bench: Bench) -> 'EnsembleTeachers':
        if self.suite is None:
            return EnsembleTeachers(bench, self)
        path = Path(self.suite.format(dataset=bench.dataset.name))
        return SuiteTeachers(bench, self, path)

    def named_students(
        self, bench: Bench, teachers: 'EnsembleTeachers'
    ) -> dict[tuple[int, str], Entry]:
        """Entries by width and name."""
        arm = partial(self.student_arm, bench)
        trials = tuple(
            {'score_scale': scale, **trial}
            for scale, trial in product(self.score_scales, grid(self.trials))
        )
        (recipe,) = self.losses
        out = {}
        for width in self.widths:
            out[width, BASELINE] = Entry(arm(None, width), grid(self.baseline_trials))
            for name in teachers.names:
                teacher = teachers.teacher(name)
                out[width, name] = Entry(
                    arm(recipe, width, RANDOM, teacher),
                    trials,
                    arm(recipe, self.widths[0], RANDOM, teacher),
                )
        return out

    def entries(self, bench: Bench) -> list[Entry]:
        teachers = self.teachers(bench)
        return [
            *teachers.entries(),
            *self.named_students(bench, teachers).values(),
        ]

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        teachers = self.teachers(bench)
        references = teachers.references()
        entries = self.named_students(bench, teachers)
        rows: list[dict[str, Any]] = [
            {'name': name, 'width': width, 'test': _spread_of(values)}
            for name, (width, values) in references.items()
        ]
        for (width, name), entry in entries.items():
            row, values = bench.row(name, entry, width=width), bench.per_user(entry)
            row['test'] = {METRIC: row['test'][METRIC]}
            rows.append(row)
            if name == BASELINE:
                baseline = values
                continue
            row['diff_vs_baseline'] = difference(values, baseline)
            for key, (_, other) in references.items():
                row[f'diff_vs_{key}'] = difference(values, other)
            # The best of a width contains that of a smaller one.
            cut = _embedding_values(
                bench,
                [name, TRUNCATED, width],
                [
                    truncate_embeddings(teachers.taught(name, seed).x_dict, width)
                    for seed in bench.seeds
                ],
            )
            rows.append(
                {
                    'name': f'{name}, truncated',
                    'width': width,
                    'test': spread_metrics(cut, [METRIC]),
                }
            )
        return {
            'protocol': {**self.protocol(dataset), **teachers.protocol()},
            'teachers': [teachers.row(name) for name in teachers.names],
            'rows': rows,
        }


def _spread_of(values: Sequence[Tensor]) -> dict[str, Any]:
    return {METRIC: spread([float(x.mean()) for x in values])}


class EnsembleTeachers:
    """PromptMM, a graph filter, EASE, and their ensemble. All choices are made on
    validation, of equals the first.
    """

    names: tuple[str, ...] = (TEACHER, 'GraphFilter', EASE, 'ensemble')

    def __init__(self, bench: Bench, options: Ensemble) -> None:
        self.bench, self.options = bench, options
        self._made: dict[tuple[str, int], tuple[Any, SoftTargets, SoftTargets]] = {}
        self.num_items = int(bench.train[ITEM].num_nodes)
        self.size = min(self.num_items, int(bench.train[USER].num_nodes))

    def entries(self) -> list[Entry]:
        """The models that are trained."""
        dataset = self.bench.dataset
        light_gcn = Arm(LIGHT_GCN, _model(dataset, LIGHT_GCN), dataset.training)
        return [Entry(teacher_arm(dataset)), Entry(light_gcn)]

    def references(self) -> dict[str, tuple[int, list[Tensor]]]:
        """Width and per-user test values of what students are compared with."""
        light_gcn = self.entries()[1]
        width = light_gcn.arm.params['embedding_dim']
        ease = Entry(Arm(EASE), grid({'l2': self.options.ease_l2}))
        return {
            LIGHT_GCN: (width, self.bench.per_user(light_gcn)),
            EASE: (self.num_items, self.bench.per_user(ease)),
        }

    def protocol(self) -> dict[str, Any]:
        """The hyper-parameters that were chosen."""
        return {'GraphFilter': self._filter[0], 'EASE': self._ease[0]}

    def parts(self, name: str, seed: int) -> dict[str, SoftTargets]:
        """The members of a teacher. Its own name is the only one with a weight, unless
        it is an ensemble.
        """
        del name
        promptmm = self.bench.x_dict(teacher_arm(self.bench.dataset), {}, seed)
        return {
            TEACHER: SoftTargets(promptmm, {}),
            'GraphFilter': self._filter[1],
            EASE: self._ease[1],
        }

    @cached_property
    def _filter(self) -> tuple[dict[str, Any], SoftTargets]:
        width = min(self.options.filter_width, self.size)
        found = [
            (params, self.closed_form('GraphFilter', params, width))
            for params in grid(self.options.filter_grid)
        ]
        params, targets = self._best(found)
        return {**params, 'width': width}, targets

    @cached_property
    def _ease(self) -> tuple[dict[str, Any], SoftTargets]:
        entry = Entry(Arm(EASE), grid({'l2': self.options.ease_l2}))
        params = self.bench.best_params(entry)[0]
        width, targets = self.best_width(EASE, params)
        return {**params, 'width': width}, targets

    def closed_form(self, model: str, params: Params, width: int) -> SoftTargets:
        """The embeddings of a model in closed form."""
        from promptmm_pyg.benchmark.registry import build

        output = build(model, self.bench.train, params).as_output(width)
        return SoftTargets.from_output(output)._replace(modality_x_dict={})

    def best_width(self, model: str, params: Params) -> tuple[int, SoftTargets]:
        """The width that is best on validation, of equals the narrowest."""
        widths = sorted({min(w, self.size) for w in self.options.closed_form_widths})
        found = [(w, self.closed_form(model, params, w)) for w in widths]
        return self._best(found)

    def _best(self, found: list[tuple[Any, SoftTargets]]) -> tuple[Any, SoftTargets]:
        return max(found, key=lambda pair: self.bench.validate(pair[1].x_dict))

    def made(
        self, name: str, seed: int
    ) -> tuple[dict[str, float], SoftTargets, SoftTargets]:
        """Weights of the members, the teacher, and the teacher that students have: its
        best items, and its embeddings truncated.
        """
        from promptmm_pyg.distillation import ensemble_targets, fit_ensemble_weights

        key = name, self.seed_of(name, seed)
        if key not in self._made:
            train, val = self.bench.train, self.bench.split.val
            parts = self.parts(*key)
            if name.startswith('ensemble'):
                weights = fit_ensemble_weights(parts, train, val)
            else:
                weights = {part: float(part == name) for part in parts}
            whole = ensemble_targets(parts, weights)
            x_dict, limit = whole.x_dict, self.options.teacher_width
            if x_dict[ITEM].size(1) > limit:
                x_dict = truncate_embeddings(x_dict, limit)
            top = with_top(whole, train).top
            self._made[key] = weights, whole, SoftTargets(x_dict, {}, top=top)
        return self._made[key]

    def seed_of(self, name: str, seed: int) -> int:  # noqa: ARG002
        """The seed of the members of a teacher."""
        return seed

    def taught(self, name: str, seed: int) -> SoftTargets:
        return self.made(name, seed)[2]

    def teacher(self, name: str) -> Teacher:
        key = ['ensemble', name, self.protocol(), self.options.teacher_width]
        return Teacher(key, partial(self.taught, name))

    def row(self, name: str) -> dict[str, Any]:
        """The row of a teacher in the result."""
        made = [self.made(name, seed) for seed in self.bench.seeds]
        x_dicts = [whole.x_dict for _, whole, _ in made]
        tests = _embedding_values(self.bench, ['teacher', name], x_dicts)
        return {
            'name': name,
            'width': x_dicts[0][ITEM].size(1),
            'weights': [weights for weights, _, _ in made],
            'validation': spread([self.bench.validate(x) for x in x_dicts]),
            'test': spread_metrics(tests, [METRIC]),
        }


class SuiteTeachers(EnsembleTeachers):
    """The best model of a finished suite, all of its models together, and these with
    the seeds of each model as one.
    """

    ALL_SEEDS = 'ensemble of all seeds'

    def __init__(self, bench: Bench, options: Ensemble, path: Path) -> None:
        super().__init__(bench, options)
        self.result = load_result(path)
        self.rows = rows_by_name(self.result)
        self.tables = load_per_user(path.parent / self.result['per_user'])
        self.seeds: list[int] = self.result['seeds']
        # Popularity has the same scores for everybody.
        self.models = [name for name in self.rows if name != 'Popularity']
        best = max(
            self.models, key=lambda name: spread_mean(self.rows[name]['validation'])
        )
        self.names = (best, 'ensemble', self.ALL_SEEDS)
        self._targets: dict[tuple[str, int], SoftTargets] = {}

    def entries(self) -> list[Entry]:
        return [
            Entry(self._arm(name), (self.rows[name]['best_params'],))
            for name in self.models
            if is_trained(name)
        ]

    def _arm(self, model: str) -> Arm:
        protocol = self.result['protocol']
        return suite_arm(model, protocol['training'], protocol['width'])

    def references(self) -> dict[str, tuple[int, list[Tensor]]]:
        width, seeds = self.result['protocol']['width'], self.seeds
        out = {}
        for name, columns in ((LIGHT_GCN, width), (EASE, self.num_items)):
            if name not in self.tables:
                continue
            values = torch.from_numpy(self.tables[name])
            rows = [
                values[seeds.index(seed) if len(values) > 1 else 0]
                for seed in self.bench.seeds
            ]
            out[name] = (columns, rows)
        return out

    def protocol(self) -> dict[str, Any]:
        return {
            'suite_protocol': self.result['protocol'],
            'suite_params': {
                name: self.rows[name]['best_params'] for name in self.models
            },
        }

    def seed_of(self, name: str, seed: int) -> int:
        return self.seeds[0] if name == self.ALL_SEEDS else seed

    def parts(self, name: str, seed: int) -> dict[str, SoftTargets]:
        if name == self.ALL_SEEDS:
            return {model: self._every_seed(model) for model in self.models}
        if name == 'ensemble':
            return {model: self._of_model(model, seed) for model in self.models}
        return {name: self._of_model(name, seed)}

    def _of_model(self, model: str, seed: int) -> SoftTargets:
        seed = seed if is_trained(model) else self.seeds[0]
        if (model, seed) not in self._targets:
            params = self.rows[model]['best_params']
            if is_trained(model):
                x_dict = self.bench.x_dict(self._arm(model), params, seed)
                targets = SoftTargets(x_dict, {})
            else:
                _, targets = self.best_width(model, params)
            self._targets[model, seed] = targets
        return self._targets[model, seed]

    def _every_seed(self, model: str) -> SoftTargets:
        from promptmm_pyg.distillation import ensemble_targets

        if not is_trained(model):
            return self._of_model(model, self.seeds[0])
        parts = {str(seed): self._of_model(model, seed) for seed in self.seeds}
        return ensemble_targets(parts, dict.fromkeys(parts, 1.0))


@dataclass(frozen=True, kw_only=True)
class Ablation(Experiment):
    """The options of a model: each alone, all together, and all but each."""

    kind = 'ablation'
    model: str = 'PromptMMPlus'
    options: Mapping[str, Any] = field(default_factory=dict)
    """Trials per option."""
    l2_factors: tuple[float, ...] = (1.0, 3.0)
    """Trials of the plain model's penalty, times the data set's."""

    def named(self, bench: Bench) -> dict[str, Entry]:
        params = _model(bench.dataset, TEACHER)
        l2 = params.pop('l2')
        training = self.config(bench.dataset)

        def arm(**own: Any) -> Arm:
            return Arm(self.model, {**params, **own}, training)

        penalties = grid({'l2': [factor * l2 for factor in self.l2_factors]})
        best = bench.best_params(Entry(arm(), penalties))[0]
        chosen = {}
        for option, trials in self.options.items():
            entry = Entry(arm(), tuple({**trial, **best} for trial in grid(trials)))
            tuned = bench.best_params(entry)[0]
            chosen[option] = {k: v for k, v in tuned.items() if k not in best}
        every = {k: v for part in chosen.values() for k, v in part.items()}
        out = {'plain': {}, **chosen, 'all options': every}
        for option, part in chosen.items():
            rest = {k: v for k, v in every.items() if k not in part}
            out[f'all but {option}'] = rest
        entries = {k: Entry(arm(), ({**own, **best},)) for k, own in out.items()}
        without = Entry(arm(prompt=False), (best,))
        names = ['plain', 'plain without prompt', *list(out)[1:]]
        return {name: entries.get(name, without) for name in names}

    def entries(self, bench: Bench) -> list[Entry]:
        return list(self.named(bench).values())

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        entries = self.named(bench)
        values = {name: bench.per_user(entry) for name, entry in entries.items()}
        rows = []
        for name, entry in entries.items():
            row = bench.row(name, entry)
            row['test'] = {METRIC: row['test'][METRIC]}
            if name != 'plain':
                row['diff_vs_baseline'] = difference(values[name], values['plain'])
            if name.startswith('all but '):
                row['diff_vs_all_options'] = difference(
                    values[name], values['all options']
                )
            rows.append(row)
        return {'protocol': self.protocol(dataset), 'rows': rows}


@dataclass(frozen=True, kw_only=True)
class Variants(Experiment):
    """Variants of models, at several shares of items with corrupted content.

    Each of ``arms`` has a ``name`` and a ``model``, and may have ``params``,
    ``training``, ``trials``, a ``group`` and ``impute``. The first of a group is the
    baseline of the others.
    """

    kind = 'variants'
    arms: tuple[Params, ...] = ()
    corruption: str | None = None
    """``'missing'`` or ``'noise'``."""
    shares: tuple[float, ...] = (0.0,)
    pattern: str = 'items'
    corruption_seed: int = 0

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        known = {'name', 'model', 'params', 'training', 'trials', 'group', 'impute'}
        for arm in self.arms:
            if not {'name', 'model'} <= set(arm) <= known:
                raise ValueError(
                    f"'arms' must have 'name' and 'model', and keys among "
                    f'{sorted(known)} (got {sorted(arm)})'
                )
            check_choice('model', arm['model'], MODELS)
        check_choice('corruption', self.corruption, (None, 'missing', 'noise'))
        check_choice('pattern', self.pattern, ('items', 'modalities'))

    def corrupted(self, data: HeteroData, share: float) -> HeteroData:
        """The training graph with the content of a share of the items corrupted."""
        if self.corruption == 'noise':
            return swap_content(data, share, self.corruption_seed)
        pattern: Any = self.pattern
        return mask_content(data, share, self.corruption_seed, pattern)

    def _variant(self, dataset: Dataset, arm: Params, share: float) -> Variant | None:
        if self.corruption is None or not MODELS[arm['model']].reads_features:
            return None
        impute = arm.get('impute', False)
        key = [self.corruption, share, self.pattern, self.corruption_seed, impute]

        def make(split: Split) -> HeteroData:
            train = self.corrupted(split.train, share)
            if impute:
                return prepare_imputed(train, dataset.prompt_channels)
            return dataset.prepare(train)

        return Variant(key, make)

    def named(self, bench: Bench) -> dict[tuple[float, str, str], Entry]:
        """Entries by share, group and name."""
        dataset, out = bench.dataset, {}
        for share, values in product(self.shares, self.arms):
            arm = Arm(
                values['model'],
                {**dataset.models.get(values['model'], {}), **values.get('params', {})},
                {**self.config(dataset), **values.get('training', {})},
                variant=self._variant(dataset, values, share),
            )
            trials = grid(values.get('trials', ({},)))
            out[share, values.get('group', ''), values['name']] = Entry(arm, trials)
        return out

    def entries(self, bench: Bench) -> list[Entry]:
        return list(self.named(bench).values())

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        rows = []
        baselines: dict[tuple[float, str], list[Tensor]] = {}
        ratios = {}
        if self.corruption == 'missing':
            graphs = {s: self.corrupted(bench.split.train, s) for s in self.shares}
            ratios = {share: missing_ratio(graph) for share, graph in graphs.items()}
        for (share, group, name), entry in self.named(bench).items():
            row, values = bench.row(name, entry), bench.per_user(entry)
            row['test'] = {METRIC: row['test'][METRIC]}
            if group:
                row['group'] = group
            if self.corruption is not None:
                row['share'] = share
            if share in ratios:
                row['missing_ratio'] = ratios[share]
            if (share, group) in baselines:
                row['diff_vs_baseline'] = difference(values, baselines[share, group])
            baselines.setdefault((share, group), values)
            rows.append(row)
        return {'protocol': self.protocol(dataset), 'rows': rows}


class ColdBench(Bench):
    """A data set split by items without training interactions.

    Models stop by held-out interactions of warm items; trials are chosen by the cold
    items of validation.
    """

    def __init__(
        self, dataset: Dataset, data: HeteroData, seeds: Sequence[int], **options: Any
    ) -> None:
        self.outer, inner = cold_split(data)
        num_items = int(data[ITEM].num_nodes)
        edges = self.outer.train[INTERACTS].edge_index
        self.degree = torch.bincount(edges[1], minlength=num_items)
        split = Split(inner.train, inner.val, self.outer.test)
        super().__init__(dataset, seeds, split=split, warm=self.degree > 0, **options)
        self.score = self._cold_score

    def _cold_score(self, arm: Arm, params: Params, seed: int) -> float:
        x_dict = self.ranked(arm, self.x_dict(arm, params, seed))
        cold = positive_items(self.outer.val)
        found = evaluate(x_dict, self.outer.val, ks=(20,), candidates=cold)
        return float(found.per_user[METRIC].mean())

    def ranked(self, arm: Arm, x_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """The embeddings with cold items predicted, for models without features."""
        if MODELS[arm.model].reads_features:
            return x_dict
        assert self.warm is not None
        item_x = predict_cold_items(x_dict, self.split.train, self.warm)
        return {**x_dict, ITEM: item_x}

    def _arm_targets(self, arm: Arm, params: Params, seed: int) -> SoftTargets:
        # Without its best items, which would contain cold ones.
        return SoftTargets(self.x_dict(arm, params, seed), {})


@dataclass(frozen=True, kw_only=True)
class Cold(Experiment):
    """Items without training interactions: teacher, students, baselines and others."""

    kind = 'cold'
    models: tuple[str, ...] = ('VBPR', 'CLCRec')
    trials: Any = field(default_factory=lambda: {'l2': (1e-3, 1e-2, 0.1)})
    note: ClassVar[str] = (
        'Cold items have no training interaction; they are known by features only. '
        'Negatives and candidates are drawn among warm items, and the ids of cold '
        'items, which nothing trains, are zero. Training reads the features of cold '
        'items (it is transductive): columns are standardized over all items, and the '
        "prompt's principal components and sums of features are those of all items. "
        'The feature mapper that predicts cold items for students is fitted on warm '
        'items alone. Popularity and random order cold items by chance. A cold item '
        'without any modality gets the mean of the warm items.'
    )

    def bench(
        self, dataset: Dataset, seeds: Sequence[int], work: Path, device: str
    ) -> ColdBench:
        synthetic = dataset.synthetic is not None
        data = dataset.read_graph() if synthetic else merge_split(dataset.read())
        return ColdBench(dataset, data, seeds, work=work, device=device)

    def named(self, bench: ColdBench) -> dict[str, Entry]:
        dataset, training = bench.dataset, self.config(bench.dataset)
        params = _model(dataset, TEACHER)
        width, trials = params['embedding_dim'], grid(self.trials)
        out = {
            model: Entry(Arm(model, {'embedding_dim': width}, training), trials)
            for model in self.models
        }
        out[TEACHER] = teacher = Entry(Arm(TEACHER, params, training), trials)
        best = bench.best_params(teacher)[0]
        for model, values in dataset.students.items():
            own = _student_params(values)
            taught_by = bench.teacher(teacher.arm, best)
            student = _student(bench, model, own, training, taught_by)
            out[f'{model} {BASELINE}'] = Entry(Arm(model, own, training), trials)
            out[f'{model} {STUDENT}'] = Entry(student, trials)
        return out

    def entries(self, bench: ColdBench) -> list[Entry]:
        return list(self.named(bench).values())

    def run(self, bench: ColdBench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        tables: dict[str, list[dict[str, Tensor]]] = {
            'random': [self._by_chance(bench, seed, 0.0) for seed in bench.seeds],
            'popularity': [self._by_chance(bench, seed, 1.0) for seed in bench.seeds],
        }
        chosen: dict[str, dict[str, Any]] = {}
        for name, entry in self.named(bench).items():
            arm, params = entry.arm, bench.best_params(entry)[0]
            chosen[name] = params
            tables[name] = [
                bench.ranked(arm, bench.x_dict(arm, params, seed))
                for seed in bench.seeds
            ]
        cold_mask = positive_items(bench.outer.test)
        rows, values = [], {}
        for name, x_dicts in tables.items():
            keys = [json.dumps([name, seed]) for seed in bench.seeds]
            cold, everywhere = (
                [
                    bench.read_test(f'{key} {part}', x, **options)
                    for key, x in zip(keys, x_dicts, strict=True)
                ]
                for part, options in (
                    ('cold', {'candidates': cold_mask}),
                    ('all', {}),
                )
            )
            values[name] = _per_user(cold)
            row: dict[str, Any] = {
                'name': name,
                'best_params': chosen.get(name, {}),
                'test_cold': spread_metrics(cold, (METRIC, 'NDCG@20')),
                'test': spread_metrics(everywhere, (METRIC, 'NDCG@20')),
            }
            if name.endswith(STUDENT):
                baseline = values[name.replace(STUDENT, BASELINE)]
                row['diff_vs_baseline'] = difference(values[name], baseline)
            rows.append(row)
        return {
            'protocol': {**self.protocol(dataset), 'note': self.note},
            'cold_items': {
                part: int(positive_items(getattr(bench.outer, part)).sum())
                for part in ('val', 'test')
            },
            'rows': rows,
        }

    def _by_chance(
        self, bench: ColdBench, seed: int, popularity: float
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        chance = torch.rand(bench.degree.numel(), 1, generator=generator)
        users = torch.ones(int(bench.train[USER].num_nodes), 1)
        return {USER: users, ITEM: chance + popularity * bench.degree[:, None]}


@dataclass(frozen=True, kw_only=True)
class Budget(Experiment):
    """A suite on a smaller budget beside the one in the output folder; no training."""

    kind = 'budget'
    small: str = ''
    """Folder of the suite's results on the smaller budget."""
    level: float = LEVEL

    def check(self, dataset: Dataset, out: Path) -> None:
        for folder in (Path(self.small), out):
            if not result_path(folder, Suite.kind, dataset.name).is_file():
                raise ValueError(
                    f"'small' requires results of the suite, each also in '{out}' (got "
                    f"no '{result_path(folder, Suite.kind, dataset.name)}')"
                )

    def bench(self, *args: Any) -> None:
        """Nothing is trained."""

    def run(self, bench: None, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        from scipy.stats import spearmanr

        parts = {
            size: load_result(result_path(folder, Suite.kind, dataset.name))
            for size, folder in (('small', Path(self.small)), ('large', out))
        }
        found = {size: rows_by_name(result) for size, result in parts.items()}
        names = [name for name in found['large'] if name in found['small']]
        if len(names) < 2:
            raise ValueError(
                f"'small' and the large budget must have two models in common (got "
                f'{names}). Run the suite with the same models'
            )
        test = {
            size: [spread_mean(rows[name]['test'][METRIC]) for name in names]
            for size, rows in found.items()
        }
        return {
            'protocol': asdict(self),
            'spearman': float(spearmanr(test['small'], test['large']).statistic),
            **{size: self._summary(result) for size, result in parts.items()},
            'rows': [
                {
                    'name': name,
                    **{
                        size: {
                            'validation': rows[name]['validation'],
                            'test': rows[name]['test'][METRIC],
                        }
                        for size, rows in found.items()
                        if name in rows
                    },
                }
                for name in dict.fromkeys([*found['large'], *found['small']])
            ],
        }

    def _summary(self, result: Mapping[str, Any]) -> dict[str, Any]:
        reference = suite_reference(result)
        key = f'diff_vs_{reference}'
        return {
            'protocol': {**result['protocol'], 'seeds': result['seeds']},
            'best': result['best'],
            'reference': reference,
            'above': [
                row['name']
                for row in result['rows']
                if key in row
                and row[key]['difference'] > 0
                and row[key]['holm_p'] < self.level
            ],
            'minutes': suite_minutes(result),
        }


def suite_reference(result: Mapping[str, Any]) -> str:
    """LightGCN; in a suite without it, the best model on validation."""
    return LIGHT_GCN if LIGHT_GCN in rows_by_name(result) else str(result['best'])


def suite_minutes(result: Mapping[str, Any]) -> float | None:
    """The minutes of all trainings, ``None`` where a result does not contain them."""
    seconds = [row.get('seconds_total') for row in result['rows']]
    return None if None in seconds else sum(seconds) / 60


KINDS: dict[str, type[Experiment]] = {
    cls.kind: cls
    for cls in (Main, Suite, Distillation, Ensemble, Ablation, Variants, Cold, Budget)
}
