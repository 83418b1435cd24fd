"""The kinds of experiments. The fields of a class are the keys of its TOML file."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from promptmm_pyg._utils import check_choice, check_positive, replacing
from promptmm_pyg.benchmark.config import BenchmarkConfig, Dataset, Params, grid
from promptmm_pyg.benchmark.registry import SEARCH_SPACES, is_trained, model_kind
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
    mean_std,
    recall,
    rows_table,
    save_plot,
    seeds_of,
)
from promptmm_pyg.benchmark.result import rows_by_name
from promptmm_pyg.benchmark.runner import (
    METRIC,
    PROMPTMM,
    TRUNCATED,
    TUNING_SEED,
    Arm,
    Bench,
    Entry,
    Teacher,
    Variant,
    truncated,
)
from promptmm_pyg.benchmark.stats import compare, mean
from promptmm_pyg.data import ITEM
from promptmm_pyg.models import MODELS
from promptmm_pyg.viz.figure import new_axes

BASELINE, STUDENT, TEACHER = 'baseline', 'student', 'PromptMM'
LIGHT_GCN, EASE = 'LightGCN', 'EASE'
EASE_L2 = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A kind of experiment. A subclass has its options as fields, and :meth:`entries`;
    where the result is more than one row per entry, :meth:`run`.
    """

    metrics: ClassVar[tuple[str, ...]] = (METRIC,)
    """Test metrics of a row; empty for all."""
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
        """The rows of the result, in an order that does not change."""
        raise NotImplementedError

    def row(self, bench: Any, entry: Entry) -> dict[str, Any]:
        """The row of an entry."""
        out: dict[str, Any] = bench.row(entry, self.metrics)
        return out

    def run(self, bench: Any, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        """The result without its head; ``out`` is the folder of the results."""
        rows = [self.row(bench, entry) for entry in self.entries(bench)]
        return {'protocol': self.protocol(dataset), 'rows': rows}

    def protocol(self, dataset: Dataset) -> dict[str, Any]:
        """All settings, for the result file."""
        return {'dataset': dataset.protocol(), **asdict(self)}

    def config(self, dataset: Dataset) -> dict[str, Any]:
        """Fields of ``TrainingConfig`` for this experiment."""
        return {**dataset.training, **self.training}

    @classmethod
    def table(cls, result: Result) -> str:
        """The tables of a result, in Markdown."""
        return rows_table(result)

    @classmethod
    def plot(cls, result: Result, path: str | Path) -> None:  # noqa: ARG003
        """Writes a PNG.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no figure for the kind of result.
        """
        raise ValueError(
            f"'plot' requires a kind of result with a figure, such as 'suite' (got "
            f'{result["kind"]!r})'
        )


def hyperparameters(dataset: Dataset, model: str) -> dict[str, Any]:
    """The hyper-parameters of a model on a data set.

    Raises:
        ValueError: If the configuration has none.
    """
    if model not in dataset.models:
        raise ValueError(
            f"'dataset.{dataset.name}.models' must have {model!r} (got "
            f'{sorted(dataset.models)})'
        )
    return dict(dataset.models[model])


def model_entry(
    dataset: Dataset, model: str, training: Params, **options: Any
) -> Entry:
    """A model with its hyper-parameters on a data set."""
    params = hyperparameters(dataset, model)
    factors = {'width': params['embedding_dim']}
    return Entry(model, Arm(model, params, training), factors=factors, **options)


def student_and_baseline(
    dataset: Dataset, model: str, training: Params, teacher: Teacher
) -> tuple[Entry, Entry]:
    """A student with PromptMM's losses, and the same student without distillation."""
    params = dict(dataset.students[model])
    l2 = params.pop('baseline_l2', params['l2'])
    factors = {'width': params['embedding_dim']}
    arm = Arm(model, {**params, 'l2': l2}, training)
    baseline = Entry(f'{model} {BASELINE}', arm, factors=factors)
    arm = Arm(model, params, training, PROMPTMM, teacher, dataset.candidates)
    references = {BASELINE: baseline}
    student = Entry(f'{model} {STUDENT}', arm, factors=factors, references=references)
    return student, baseline


@dataclass(frozen=True, kw_only=True)
class Main(Experiment):
    """The teacher, its students and their baselines, LightGCN and EASE."""

    metrics = ()
    ease_l2: tuple[float, ...] = EASE_L2

    def entries(self, bench: Bench) -> list[Entry]:
        dataset, training = bench.dataset, self.config(bench.dataset)
        light_gcn = model_entry(dataset, LIGHT_GCN, training)
        teacher = model_entry(
            dataset, TEACHER, training, references={LIGHT_GCN: light_gcn}
        )
        width = {'width': int(bench.train[ITEM].num_nodes)}
        ease = Entry(EASE, Arm(EASE), grid({'l2': self.ease_l2}), factors=width)
        others = {'teacher': teacher, LIGHT_GCN: light_gcn, EASE: ease}
        students, cuts = [], {}
        for model in dataset.students:
            targets = bench.teacher(teacher.arm)
            student, baseline = student_and_baseline(dataset, model, training, targets)
            width = dict(student.factors)
            name = f'{TRUNCATED}, width {width["width"]}'
            cuts[name] = Entry(name, truncated(targets, width['width']), factors=width)
            references = {
                **student.references,
                'truncated_teacher': cuts[name],
                **others,
            }
            student = replace(student, references=references, retained_of=teacher)
            students += [student, baseline]
        return [light_gcn, teacher, *students, *cuts.values(), ease]

    def row(self, bench: Bench, entry: Entry) -> dict[str, Any]:
        size = bench.runs(entry).outcomes[0]['parameters']
        if entry.name == EASE:
            size = entry.factors['width'] ** 2
        return {**super().row(bench, entry), 'parameters': size}

    @classmethod
    def table(cls, result: Result) -> str:
        """Every model, and the differences on the same users."""
        metrics = (METRIC, 'NDCG@20')
        rows = [
            [row['name'], str(row['width']), f'{row["parameters"]:,}']
            + [mean_std(row['test'][m]) for m in metrics]
            for row in result['rows']
        ]
        gains = [
            [
                f'{row["name"]} vs. {key.removeprefix("diff_vs_").replace("_", " ")}',
                f'{gain["difference"]:+.4f}',
                f'[{gain["low"]:+.4f}, {gain["high"]:+.4f}]',
            ]
            for row in result['rows']
            for key, gain in row.items()
            if key.startswith('diff_vs_')
        ]
        lines = [f'**{result["dataset"]}**, test, {seeds_of(result)}', '']
        lines += markdown(['model', 'width', 'parameters', *metrics], rows)
        head = [f'difference in {METRIC}', 'mean', '95 % interval']
        return '\n'.join([*lines, '', *markdown(head, gains)])


@dataclass(frozen=True, kw_only=True)
class Suite(Experiment):
    """Every model tuned by equally many trials, compared with LightGCN and the best."""

    metrics = ('Recall@10', 'Recall@20', 'Recall@50', 'NDCG@20')
    models: tuple[str, ...] = tuple(SEARCH_SPACES)
    trials: int = 5
    width: int = 64

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        for model in self.models:
            check_choice('models', model, SEARCH_SPACES)
        check_positive('trials', self.trials)

    def entries(self, bench: Bench) -> list[Entry]:
        training = self.config(bench.dataset)
        return [
            Entry(
                model,
                suite_arm(model, training, self.width),
                search=(SEARCH_SPACES[model], self.trials),
            )
            for model in SEARCH_SPACES
            if model in self.models
        ]

    def protocol(self, dataset: Dataset) -> dict[str, Any]:
        return {
            'trials': self.trials,
            'training': self.config(dataset),
            'width': self.width,
            'sampler': f'TPESampler(seed={TUNING_SEED})',
        }

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:
        tests = {entry.name: bench.tests(entry) for entry in self.entries(bench)}
        rows = {e.name: self.row(bench, e) for e in self.entries(bench)}
        tables = {
            name: torch.stack([test.per_user[METRIC] for test in results])
            for name, results in tests.items()
        }
        best = max(rows, key=lambda name: mean(rows[name]['validation']))
        for reference in dict.fromkeys((LIGHT_GCN, best)):
            if reference in rows:
                for name, values in compare(tables, reference).items():
                    rows[name][f'diff_vs_{reference}'] = values
        arrays: Any = {name: table.numpy() for name, table in tables.items()}
        users = next(iter(tests.values()))[0].users.numpy()
        path = out / f'suite-{dataset.name}-per-user.npz'
        with replacing(path) as temporary, temporary.open('wb') as file:
            np.savez_compressed(file, users=users, **arrays)
        return {
            'protocol': {**self.protocol(dataset), 'device': bench.device},
            'best': best,
            'rows': list(rows.values()),
            'per_user': path.name,
        }

    def row(self, bench: Bench, entry: Entry) -> dict[str, Any]:
        runs = bench.runs(entry)
        first, outcomes = runs.outcomes[0], runs.outcomes
        # The seed of the search was trained as a trial.
        further = [
            outcome['seconds']
            for seed, outcome in zip(runs.seeds, outcomes, strict=True)
            if seed != TUNING_SEED and entry.arm.seeded
        ]
        row = super().row(bench, entry)
        row |= {
            'kind': model_kind(entry.name),
            'parameters': first['parameters'],
            'trials': runs.trials,
            'seconds': [outcome['seconds'] for outcome in outcomes],
            'seconds_total': sum(trial['seconds'] for trial in runs.trials)
            + sum(further),
            'seconds_per_epoch': [out.get('seconds_per_epoch') for out in outcomes],
            'peak_mib': [outcome['peak_mib'] for outcome in outcomes],
            'threads': [outcome['threads'] for outcome in outcomes],
        }
        if 'peak_gpu_mib' in first:
            row['peak_gpu_mib'] = [outcome['peak_gpu_mib'] for outcome in outcomes]
        return row

    @classmethod
    def table(cls, result: Result) -> str:
        """Every model with its difference to LightGCN and its costs."""
        base, minutes = suite_reference(result), suite_minutes(result)
        cost = '' if minutes is None else f'. All trainings: {minutes:.0f} minutes'
        head = (
            f'**{result["dataset"]}**, test, {seeds_of(result)}; '
            f'{result["protocol"]["trials"]} trials per model, sorted by validation. '
            'Intervals: bootstrap over users and seeds; p: permutation test over '
            'users, Holm-corrected' + cost
        )
        rows = []
        for row in by_validation(result):
            gain = row.get(f'diff_vs_{base}')
            epochs = [x for x in row['seconds_per_epoch'] if x is not None]
            rows.append(
                [
                    row['name'],
                    row['kind'],
                    f'{row["parameters"]:,}',
                    recall(row),
                    mean_std(row['test']['NDCG@20']),
                    interval(gain),
                    f'{gain["holm_p"]:.4f}' if gain else '',
                    f'{sum(epochs) / len(epochs):.2f}' if epochs else '',
                    f'{max(row["peak_mib"]):.0f}',
                ]
            )
        names = ['model', 'kind', 'parameters', METRIC, 'NDCG@20', f'vs. {base} (95 %)']
        return '\n'.join(
            [head, '', *markdown([*names, 'Holm p', 's/epoch', 'peak MiB'], rows)]
        )

    @classmethod
    def plot(cls, result: Result, path: str | Path) -> None:
        """Differences to LightGCN with their intervals, best on validation on top."""
        base = suite_reference(result)
        colors = {'closed form': 'C7', 'ids': 'C0'}
        rows = by_validation(result)[::-1]
        axes = new_axes('plot', 7.0, 1.4 + 0.3 * len(rows))
        axes.axvline(0.0, color='black', linewidth=1)
        for position, row in enumerate(rows):
            zero = {'difference': 0.0, 'low': 0.0, 'high': 0.0}
            gain = row.get(f'diff_vs_{base}', zero)
            x = gain['difference']
            ends = [[x - gain['low']], [gain['high'] - x]]
            color = colors.get(row['kind'], 'C1')
            axes.errorbar([x], [position], xerr=ends, fmt='o', color=color)
        labels = [f'{row["name"]}  {mean(row["test"][METRIC]):.4f}' for row in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xlabel(f'test {METRIC} minus that of {base}, 95 % intervals')
        axes.set_title(f'{result["dataset"]}: best on validation on top')
        save_plot(axes, path)


def suite_arm(model: str, training: Params, width: int) -> Arm:
    """How the suite trains a model."""
    if not is_trained(model):
        return Arm(model)
    return Arm(model, {'embedding_dim': width}, training)


def by_validation(result: Result) -> list[dict[str, Any]]:
    """The rows of a suite, best on validation first."""
    return sorted(result['rows'], key=lambda row: -mean(row['validation']))


def suite_reference(result: Result) -> str:
    """LightGCN; in a suite without it, the best model on validation."""
    return LIGHT_GCN if LIGHT_GCN in rows_by_name(result) else str(result['best'])


def suite_minutes(result: Result) -> float | None:
    """The minutes of all trainings, ``None`` where a result does not contain them."""
    seconds = [row.get('seconds_total') for row in result['rows']]
    return None if None in seconds else sum(seconds) / 60


@dataclass(frozen=True, kw_only=True)
class Variants(Experiment):
    """Variants of models.

    Each of ``arms`` has a ``name`` and a ``model``, and may have ``params``,
    ``training``, ``trials`` and a ``group``. The first of a group is the baseline of
    the others.
    """

    keys: ClassVar[tuple[str, ...]] = ('params', 'training', 'trials', 'group')
    """Optional keys of an arm."""
    arms: tuple[Params, ...] = ()

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        known = {'name', 'model', *self.keys}
        for arm in self.arms:
            if not {'name', 'model'} <= set(arm) <= known:
                raise ValueError(
                    f"'arms' must have 'name' and 'model', and keys among "
                    f'{sorted(known)} (got {sorted(arm)})'
                )
            check_choice('model', arm['model'], MODELS)

    def entries(self, bench: Bench) -> list[Entry]:
        return self.compared(bench)

    def compared(
        self,
        bench: Bench,
        factors: Params | None = None,
        variant: Callable[[Params], Variant | None] = lambda _: None,
    ) -> list[Entry]:
        """The entries of all arms, each compared with the first of its group.

        Args:
            bench: The data set.
            factors: Further columns of the rows. (default: none)
            variant: The training graph of an arm. (default: the prepared one)
        """
        dataset = bench.dataset
        first: dict[str, Entry] = {}
        entries = []
        for values in self.arms:
            model, group = values['model'], values.get('group', '')
            arm = Arm(
                model,
                {**dataset.models.get(model, {}), **values.get('params', {})},
                {**self.config(dataset), **values.get('training', {})},
                variant=variant(values),
            )
            entry = Entry(
                values['name'],
                arm,
                grid(values.get('trials', ({},))),
                factors={**({'group': group} if group else {}), **(factors or {})},
                references={BASELINE: first[group]} if group in first else {},
            )
            first.setdefault(group, entry)
            entries.append(entry)
        return entries

    @classmethod
    def table(cls, result: Result) -> str:
        """Every variant, with its difference to the first of its group."""
        return rows_table(result, {BASELINE: 'the first'})


KINDS: Mapping[str, type[Experiment]] = {
    'main': Main,
    'suite': Suite,
    'variants': Variants,
}


def make_experiment(config: BenchmarkConfig) -> Experiment:
    """The experiment of a configuration.

    Raises:
        ValueError: If the kind or an option is unknown.
    """
    cls = experiment_class(config.kind)
    known = sorted(f.name for f in fields(cls))
    unknown = sorted(set(config.options) - set(known))
    if unknown:
        raise ValueError(
            f"'{config.kind}' must have options among {known} (got {unknown})"
        )
    options: Any = {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.options.items()
    }
    return cls(**options)


def experiment_class(kind: str) -> type[Experiment]:
    """The class of a kind: one of ``KINDS``, or a class of yours as ``'module:Class'``.

    Raises:
        ValueError: If there is none.
    """
    if ':' not in kind:
        check_choice('kind', kind, KINDS)
        return KINDS[kind]
    try:
        cls = pkgutil.resolve_name(kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"'kind' must be one of {', '.join(KINDS)} or an importable 'module:Class' "
            f'(got {kind!r}: {error})'
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Experiment)):
        raise ValueError(f"'kind' must be a subclass of Experiment (got {kind!r})")
    return cls
