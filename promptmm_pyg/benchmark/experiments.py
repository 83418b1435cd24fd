"""The kinds of experiments. The fields of a class are the keys of its TOML file."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.benchmark.config import BenchmarkConfig, Dataset, Params, grid
from promptmm_pyg.benchmark.entries import PROMPTMM, Arm, Entry, Variant
from promptmm_pyg.benchmark.registry import (
    check_keys,
    check_params,
    is_trained,
    known_params,
    model_kind,
)
from promptmm_pyg.benchmark.report import (
    Result,
    convergence,
    interval,
    markdown,
    mean_epochs,
    mean_std,
    recall,
    rows_table,
    save_plot,
    seeds_of,
)
from promptmm_pyg.benchmark.result import rows_by_name
from promptmm_pyg.benchmark.runner import METRIC, TUNING_SEED, Bench
from promptmm_pyg.benchmark.stats import compare, mean
from promptmm_pyg.evaluation import ALL_METRICS
from promptmm_pyg.models import MODELS, get_model
from promptmm_pyg.models._resolve import file_hash, short_name
from promptmm_pyg.tuning.tune import TRAINING, search_space
from promptmm_pyg.viz.figure import new_axes

BASELINE, LIGHT_GCN = 'baseline', 'LightGCN'


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A kind of experiment. A subclass has its options as fields, and :meth:`entries`;
    where the result is more than one row per entry, :meth:`run`.
    """

    metrics: ClassVar[tuple[str, ...]] = (METRIC,)
    """Test metrics of a row; empty for all."""
    training: Params = field(default_factory=dict)
    """Fields of ``TrainingConfig`` in place of the data set's."""
    list_metrics: tuple[str, ...] = ()  # Further test metrics, such as 'Coverage'.

    def check(self, dataset: Dataset, out: Path) -> None:
        """Raises, before anything is trained, if an option does not fit."""

    def bench(
        self, dataset: Dataset, seeds: Sequence[int], work: Path, device: str
    ) -> Any:
        """The data set with its cache; ``None`` if nothing is trained."""
        metrics = self.list_metrics
        return Bench(dataset, seeds, work, device=device, list_metrics=metrics)

    def entries(self, bench: Any) -> list[Entry]:
        """The rows of the result, in an order that does not change."""
        raise NotImplementedError

    def row(self, bench: Any, entry: Entry) -> dict[str, Any]:
        """The row of an entry."""
        more = tuple(f'{name}@20' for name in self.list_metrics)
        metrics = (*self.metrics, *more) if self.metrics else ()
        out: dict[str, Any] = bench.row(entry, metrics)
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
    def report(cls, result: Result) -> str:
        """The tables, and the rows that may not have converged."""
        return '\n'.join([cls.table(result), *convergence(result)])

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


@dataclass(frozen=True, kw_only=True)
class Suite(Experiment):
    """Every model tuned by equally many trials, compared with LightGCN and the best."""

    metrics = ('Recall@10', 'Recall@20', 'Recall@50', 'NDCG@20')
    models: tuple[str, ...] = tuple(MODELS)
    trials: int = 5
    width: int = 64

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        for model in self.models:
            get_model(model, option='models')
        names = [short_name(model) for model in self.models]
        if len(names) > len(set(names)):
            raise ValueError(
                f"'models' must have different names (got {sorted(names)}). Rename the "
                f'class of a file'
            )
        check_positive('trials', self.trials)

    def entries(self, bench: Bench) -> list[Entry]:
        training = self.config(bench.dataset)
        own = [model for model in self.models if model not in MODELS]
        return [
            Entry(
                short_name(model),
                suite_arm(model, training, self.width),
                search=(search_space(model), self.trials),
            )
            for model in (*(x for x in MODELS if x in self.models), *own)
        ]

    def protocol(self, dataset: Dataset) -> dict[str, Any]:
        return {
            'trials': self.trials,
            'training': self.config(dataset),
            'width': self.width,
            'sampler': f'TPESampler(seed={TUNING_SEED})',
        }

    def run(self, bench: Bench, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        rows = {e.name: self.row(bench, e) for e in self.entries(bench)}
        tables = {name: bench.values[name] for name in rows}
        best = max(rows, key=lambda name: mean(rows[name]['validation']))
        for reference in dict.fromkeys((LIGHT_GCN, best)):
            if reference in rows:
                for name, values in compare(tables, reference).items():
                    rows[name][f'diff_vs_{reference}'] = values
        return {
            'protocol': {**self.protocol(dataset), 'device': bench.device},
            'best': best,
            'rows': list(rows.values()),
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
            'kind': model_kind(entry.arm.model),
            **file_hash(entry.arm.model),
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
            'Intervals and p (Holm-corrected): over users and seeds' + cost
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
                    mean_epochs(row),
                    f'{sum(epochs) / len(epochs):.2f}' if epochs else '',
                    f'{max(row["peak_mib"]):.0f}',
                ]
            )
        names = ['model', 'kind', 'parameters', METRIC, 'NDCG@20', f'vs. {base} (95 %)']
        names += ['Holm p', 'epochs', 's/epoch', 'peak MiB']
        return '\n'.join([head, '', *markdown(names, rows)])

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
    params: dict[str, Any] = {'embedding_dim': width}
    if 'embedding_dim' not in known_params(model):  # One of a file may lack it.
        params = {}
    if model == 'PromptMM':
        params['isolated_features'] = False  # As in the paper.
    return Arm(model, params, training)


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
    ``training``, ``trials``, a ``teacher`` and a ``group``. The first of a group is the
    baseline of the others. With the name of an earlier arm as ``teacher``, an arm is
    its student, by PromptMM's losses.
    """

    keys: ClassVar[tuple[str, ...]] = (
        *('params', 'training', 'trials', 'teacher', 'group'),
    )
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
            check_params('model', arm['model'], arm.get('params', ()))
            for trial in grid(arm.get('trials', ({},))):
                check_params('model', arm['model'], trial, ('weight', 'score_scale'))
            check_keys('training', arm.get('training', ()), TRAINING)
        names = [arm['name'] for arm in self.arms]
        for number, arm in enumerate(self.arms):
            if 'teacher' in arm:
                check_choice('teacher', arm['teacher'], names[:number])

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
        entries: list[Entry] = []
        names = [arm['name'] for arm in self.arms]
        for values in self.arms:
            model, group = values['model'], values.get('group', '')
            arm = Arm(
                model,
                {**dataset.models.get(model, {}), **values.get('params', {})},
                {**self.config(dataset), **values.get('training', {})},
                variant=variant(values),
            )
            if 'teacher' in values:
                teacher = entries[names.index(values['teacher'])]
                targets = bench.teacher(teacher.arm, bench.best_params(teacher)[0])
                candidates = dataset.candidates
                arm = replace(
                    arm, losses=PROMPTMM, teacher=targets, candidates=candidates
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
    check_keys(config.kind, config.options, known)
    check_keys('training', config.options.get('training', ()), TRAINING)
    options: Any = {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.options.items()
    }
    experiment = cls(**options)
    for name in experiment.list_metrics:
        check_choice('list_metrics', name, ALL_METRICS)
    return experiment


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
