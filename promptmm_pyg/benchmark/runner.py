"""Trains, tunes and tests the entries of a benchmark; finished trainings are cached."""

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm import tqdm

from promptmm_pyg.benchmark.config import BenchmarkConfig, Dataset
from promptmm_pyg.benchmark.recipes import RECIPES
from promptmm_pyg.benchmark.registry import (
    SearchSpace,
    build,
    is_trained,
    split_params,
)
from promptmm_pyg.benchmark.result import (
    result_path,
    spread,
    versions,
    write_result,
)
from promptmm_pyg.data import INTERACTS, ITEM, Split, fingerprint, modality_x_dict
from promptmm_pyg.distillation import CandidateSampling, distill, truncate_embeddings
from promptmm_pyg.evaluation import Evaluation, evaluate
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import SoftTargets, topk_targets
from promptmm_pyg.training import TrainingConfig, load_state, save_state, train

METRIC = 'Recall@20'
KS = (10, 20, 50)
TUNING_SEED = 0  # Of the search; trials are judged with the first training seed.
TOP_K = 100  # Items per user that a teacher ranks once.
RANDOM, TRUNCATED = 'random', 'truncated teacher'
Params = Mapping[str, Any]


class Teacher(NamedTuple):
    """A teacher: its targets per seed, and what they depend on."""

    key: Any
    targets: Callable[[int], SoftTargets]


class Variant(NamedTuple):
    """Another training graph than the prepared one, and what it depends on."""

    key: Any
    make: Callable[[Split], HeteroData]


@dataclass(frozen=True)
class Arm:
    """A way to train a model: all but the tuned hyper-parameters and the seed.

    With a ``recipe`` the model is a student, whose hyper-parameters also contain
    ``weight`` (of the distillation losses) and ``score_scale`` (of the teacher).
    """

    model: str
    params: Params = field(default_factory=dict)
    training: Params = field(default_factory=dict)
    recipe: str | None = None
    teacher: Teacher | None = None
    candidates: Params = field(default_factory=dict)
    start: str = RANDOM
    variant: Variant | None = None

    @property
    def key(self) -> list[Any]:
        """What a training depends on, for the cache."""
        return [
            self.model,
            dict(self.params),
            dict(self.training),
            self.recipe,
            self.teacher and self.teacher.key,
            dict(self.candidates),
            self.start,
            self.variant and self.variant.key,
        ]

    @property
    def trained(self) -> bool:
        return is_trained(self.model)


@dataclass(frozen=True)
class Entry:
    """An arm with the trials among which validation chooses."""

    arm: Arm
    trials: tuple[Params, ...] = ({},)
    tuned_as: Arm | None = None
    """The arm whose trials decide, such as one of another width. (default: ``arm``)"""
    search: tuple[SearchSpace, int] | None = None
    """A search space and the number of trials, in place of ``trials``."""


class Runs(NamedTuple):
    """An entry with its chosen hyper-parameters, trained with every seed."""

    best_params: dict[str, Any]
    seeds: tuple[int, ...]
    outcomes: list[dict[str, Any]]
    trials: list[dict[str, Any]]


class Bench:
    """A data set with everything that is trained on it.

    Args:
        dataset: The data set and its settings.
        seeds: Training seeds.
        work: Folder of the cache.
        split: Its split. (default: read from ``dataset``)
        warm: The items ``[num_items]``, bool, from which negatives and candidates are
            drawn; the ids of all others start at zero. (default: every item)
        device: Where models are trained.
    """

    def __init__(
        self,
        dataset: Dataset,
        seeds: Sequence[int],
        work: Path,
        *,
        split: Split | None = None,
        warm: Tensor | None = None,
        device: str = 'cpu',
    ) -> None:
        self.dataset, self.seeds = dataset, tuple(seeds)
        self.work, self.device, self.warm = Path(work), device, warm
        self.split = dataset.read() if split is None else split
        self.score: Callable[[Arm, Params, int], float] | None = None
        """In place of the validation value, what chooses among trials."""
        self._graphs: dict[str, HeteroData] = {}
        self._tests: dict[str, Evaluation] = {}
        self._targets: dict[str, SoftTargets] = {}
        self.test_reads: dict[str, int] = {}

    @cached_property
    def digest(self) -> str:
        """A short name of interactions, features and validation."""
        train = self.split.train
        digest = hashlib.sha256(fingerprint(train).encode())
        for name, x_dict in sorted(modality_x_dict(train).items()):
            for node_type, x in sorted(x_dict.items()):
                digest.update(f'{name} {node_type} {list(x.size())}'.encode())
                digest.update(x.contiguous().numpy().tobytes())
        digest.update(self.split.val[INTERACTS].edge_label_index.numpy().tobytes())
        if self.warm is not None:
            digest.update(self.warm.numpy().tobytes())
        return digest.hexdigest()

    @property
    def train(self) -> HeteroData:
        """The prepared training graph."""
        return self.graph(None)

    def graph(self, variant: Variant | None) -> HeteroData:
        """The prepared training graph of a variant."""
        key = json.dumps(variant and variant.key)
        if key not in self._graphs:
            make = variant.make if variant else lambda s: self.dataset.prepare(s.train)
            self._graphs = {key: make(self.split)}  # Others are made again: large.
        return self._graphs[key]

    def path(self, arm: Arm, params: Params, seed: int) -> Path:
        """The cache file of a training, named after everything it depends on."""
        key = [self.dataset.name, self.digest, self.dataset.prompt_channels]
        key += [arm.key, dict(params), seed]
        # Models in closed form stay on the CPU.
        if self.device != 'cpu' and arm.trained:
            key.append(self.device)
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        name = f'{self.dataset.name}-{arm.model}-{seed}-{digest}.safetensors'
        return self.work / name

    def outcome(self, arm: Arm, params: Params, seed: int) -> dict[str, Any]:
        """Validation value, costs and, for trained models, the embeddings of the best
        state; trained now or read from the cache. The test positives are not read.
        """
        path = self.path(arm, params, seed)
        if not path.is_file():
            targets = arm.teacher.targets(seed) if arm.teacher else None
            torch.manual_seed(seed)
            _reset_peak()
            if self.device != 'cpu':
                torch.cuda.reset_peak_memory_stats(self.device)
            started = time.perf_counter()
            run = self._train if arm.trained else self._fit
            state = run(arm, {**arm.params, **params}, seed, targets)
            state['seconds'] = time.perf_counter() - started
            state |= {'threads': torch.get_num_threads(), 'peak_mib': _peak_mib()}
            if self.device != 'cpu':
                peak = torch.cuda.max_memory_allocated(self.device)
                state['peak_gpu_mib'] = peak / 2**20
            save_state(path, state)
        return load_state(path)

    def _fit(
        self,
        arm: Arm,
        params: Params,
        seed: int,  # noqa: ARG002
        targets: SoftTargets | None,  # noqa: ARG002
    ) -> dict[str, Any]:
        model = build(arm.model, self.graph(arm.variant), params)
        metrics = evaluate(model.scores, self.split.val, ks=(20,)).metrics
        return {'validation': metrics[METRIC], 'parameters': 0}

    def _train(
        self, arm: Arm, params: Params, seed: int, targets: SoftTargets | None
    ) -> dict[str, Any]:
        params = dict(params)
        weight, scale = params.pop('weight', 1.0), params.pop('score_scale', 1.0)
        arguments, loss_weights, training = split_params(arm.model, params)
        graph = self.graph(arm.variant)
        model = build(arm.model, graph, arguments)
        if arm.start == TRUNCATED:
            assert targets is not None
            width = model.embeddings.embedding_dim
            model.embeddings.load_tables(truncate_embeddings(targets.x_dict, width))
        if self.warm is not None:
            # Nothing trains them, and the noise of their start would stay.
            with torch.no_grad():
                model.get_parameter(f'embeddings.tables.{ITEM}')[~self.warm] = 0.0
        model, graph = model.to(self.device), graph.clone().to(self.device)
        config = TrainingConfig(
            **{**arm.training, **training}, seed=seed, progress=False
        )
        inputs = (normalized_adj_dict(graph),)
        common: dict[str, Any] = {
            'config': config,
            'loss_weights': loss_weights,
            'inputs': inputs,
        }
        if self.warm is not None:
            common['negative_items'] = self.warm.nonzero().view(-1)
        data = self.split._replace(train=graph)
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        try:
            if arm.recipe is None:
                history = train(model, data, **common)
            else:
                assert targets is not None
                width = model.embeddings.embedding_dim
                targets = scale_scores(targets, scale).to(self.device)
                history = distill(
                    model,
                    targets,
                    data,
                    losses=RECIPES[arm.recipe](targets, width, weight),
                    candidates=CandidateSampling(**arm.candidates),
                    baseline=False,
                    **common,
                ).history
        except FloatingPointError as error:
            # A diverging trial is a trial like another, and the worst.
            return {'validation': 0.0, 'parameters': size, 'error': str(error)}
        times = [record['seconds'] for record in history.records]
        x_dict = get_embeddings(model, inputs)
        return {
            'validation': history.best_value,
            'parameters': size,
            'epoch': history.best_epoch,
            'seconds_per_epoch': sum(times) / len(times),
            'x_dict': {key: x.float().cpu() for key, x in x_dict.items()},
        }

    def x_dict(self, arm: Arm, params: Params, seed: int) -> dict[str, Tensor]:
        """The embeddings of a trained model.

        Raises:
            RuntimeError: If the training diverged.
        """
        state = self.outcome(arm, params, seed)
        if 'error' in state:
            raise RuntimeError(
                f'{arm.model} with {dict(params)} and seed {seed} has no state to '
                f'test: {state["error"]}'
            )
        out: dict[str, Tensor] = state['x_dict']
        return out

    def test(self, arm: Arm, params: Params, seed: int) -> Evaluation:
        """The test metrics of the state that was best on validation; read once."""
        key = json.dumps([arm.key, dict(params), seed if arm.trained else 0])
        if key not in self._tests:
            scores: Any
            if arm.trained:
                scores = self.x_dict(arm, params, seed)
            else:
                params = {**arm.params, **params}
                scores = build(arm.model, self.graph(arm.variant), params).scores
            self._tests[key] = self.read_test(key, scores)
        return self._tests[key]

    def read_test(self, key: str, scores: Any, **options: Any) -> Evaluation:
        """Evaluates on the test positives, and counts it."""
        self.test_reads[key] = self.test_reads.get(key, 0) + 1
        num_items = int(self.split.test[ITEM].num_nodes)
        ks = sorted({min(k, num_items) for k in KS})
        return evaluate(scores, self.split.test, ks=ks, **options)

    def test_embeddings(self, key: Any, x_dict: Mapping[str, Tensor]) -> Evaluation:
        """The test metrics of embeddings that were not trained here; read once."""
        name = json.dumps(key)
        if name not in self._tests:
            self._tests[name] = self.read_test(name, x_dict)
        return self._tests[name]

    def validate(self, x_dict: Mapping[str, Tensor]) -> float:
        """The validation value of embeddings."""
        return evaluate(x_dict, self.split.val, ks=(20,)).metrics[METRIC]

    def best_params(self, entry: Entry) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The trial that is best on validation, of equals the first; and all trials."""
        arm = entry.tuned_as or entry.arm
        if entry.search is not None:
            rows = self.search(arm, *entry.search)
        elif len(entry.trials) == 1:
            return dict(entry.trials[0]), []
        else:
            score = self.score or self._validation
            rows = [
                {'params': dict(trial), 'validation': score(arm, trial, self.seeds[0])}
                for trial in entry.trials
            ]
        return max(rows, key=lambda row: row['validation'])['params'], rows

    def _validation(self, arm: Arm, params: Params, seed: int) -> float:
        return float(self.outcome(arm, params, seed)['validation'])

    def search(self, arm: Arm, space: SearchSpace, trials: int) -> list[dict[str, Any]]:
        """Trials of Optuna's TPE in order: the defaults, these with a strong penalty,
        then the sampler's (whose first ten are random).

        Trials from the cache are reported to the study as if they had just run, so the
        next ones are those of an uninterrupted study.
        """
        try:
            import optuna
        except ImportError as error:
            raise ImportError(
                "'search' requires 'optuna'. Install it with 'pip install "
                "promptmm_pyg[dev]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=TUNING_SEED)
        study = optuna.create_study(direction='maximize', sampler=sampler)
        for params in space.first_trials(trained=arm.trained):
            study.enqueue_trial(params)
        rows = []
        for _ in range(trials):
            trial = study.ask()
            params = space.suggest(trial)
            outcome = self.outcome(arm, params, TUNING_SEED)
            study.tell(trial, outcome['validation'])
            names = ('validation', 'seconds', 'error')
            costs = {k: outcome[k] for k in names if k in outcome}
            rows.append({'params': params, **costs})
        return rows

    def runs(self, entry: Entry) -> Runs:
        """An entry tuned and trained with every seed; the closed forms have one."""
        params, trials = self.best_params(entry)
        seeds = self.seeds if entry.arm.trained else self.seeds[:1]
        outcomes = [self.outcome(entry.arm, params, seed) for seed in seeds]
        return Runs(params, seeds, outcomes, trials)

    def tests(self, entry: Entry) -> list[Evaluation]:
        """The test metrics per seed."""
        runs = self.runs(entry)
        return [self.test(entry.arm, runs.best_params, seed) for seed in runs.seeds]

    def per_user(self, entry: Entry) -> list[Tensor]:
        """The test value of every user per seed; that of a closed form for each."""
        values = [test.per_user[METRIC] for test in self.tests(entry)]
        return values if entry.arm.trained else values * len(self.seeds)

    def row(self, name: str, entry: Entry, **factors: Any) -> dict[str, Any]:
        """The row of an entry in the result."""
        runs = self.runs(entry)
        tests = self.tests(entry)
        row = {'name': name, **factors}
        row |= {
            'best_params': runs.best_params,
            'validation': spread([out['validation'] for out in runs.outcomes]),
            'test': spread_metrics(tests),
        }
        if entry.arm.trained:
            row['epochs'] = [out['epoch'] for out in runs.outcomes]
        return row

    def teacher(self, arm: Arm, params: Params | None = None) -> Teacher:
        """A trained model as a teacher, by its final embeddings."""
        fixed = dict(params or {})
        return Teacher([arm.key, fixed], partial(self._arm_targets, arm, fixed))

    def _arm_targets(self, arm: Arm, params: Params, seed: int) -> SoftTargets:
        key = json.dumps([arm.key, dict(params), seed])
        if key not in self._targets:
            targets = SoftTargets(self.x_dict(arm, params, seed), {})
            self._targets[key] = with_top(targets, self.train)
        return self._targets[key]


def spread_metrics(
    tests: Sequence[Evaluation], metrics: Sequence[str] = ()
) -> dict[str, Any]:
    """The spread over seeds of every metric."""
    names = metrics or tests[0].metrics
    return {name: spread([test.metrics[name] for test in tests]) for name in names}


def with_top(targets: SoftTargets, train: HeteroData) -> SoftTargets:
    """The targets with their best items per user."""
    depth = min(TOP_K, int(train[ITEM].num_nodes))
    return targets._replace(top=topk_targets(targets, train, depth))


def scale_scores(targets: SoftTargets, factor: float) -> SoftTargets:
    """The teacher with its scores multiplied, which sharpens its softmax and leaves its
    ranking.
    """
    if factor == 1:
        return targets
    x_dict = {key: factor**0.5 * x for key, x in targets.x_dict.items()}
    return targets._replace(x_dict=x_dict)


def run_benchmark(
    config: BenchmarkConfig,
    *,
    out: str | Path = 'benchmarks/results',
    work: str | Path = 'runs/benchmarks',
    jobs: int = 1,
    device: str = 'cpu',
) -> list[Path]:
    """Runs a benchmark on each of its data sets and writes a result file for each.

    Args:
        config: From :func:`~promptmm_pyg.benchmark.load_config`.
        out: Folder of the results.
        work: Folder of the cache: an interrupted benchmark continues from it, and
            benchmarks share it.
        jobs: Entries trained side by side, each in a process of its own; with 0 all run
            in this process, whose peak memory then includes earlier models.
        device: Where models are trained.

    Raises:
        ValueError: If an option of the kind is unknown or does not fit.
    """
    from promptmm_pyg.benchmark.experiments import make_experiment

    out, work = Path(out), Path(work)
    experiment = make_experiment(config)
    for dataset in config.datasets:
        experiment.check(dataset, out)
    paths = []
    for dataset in config.datasets:
        bench = experiment.bench(dataset, config.seeds, work, device)
        if jobs > 0 and bench is not None:
            _train_entries(config, dataset, bench, work, jobs, device)
        result = experiment.run(bench, dataset, out)
        result = {
            'kind': config.kind,
            'name': config.name,
            'dataset': dataset.name,
            'seeds': list(config.seeds),
            **result,
        }
        if bench is not None:
            result['test_reads'] = max(bench.test_reads.values(), default=0)
            result['threads'] = torch.get_num_threads()
        result['versions'] = versions()
        path = result_path(out, config.name, dataset.name)
        write_result(path, result)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class _Job:
    """One entry, trained in a process of its own, into the cache."""

    config: BenchmarkConfig
    dataset: Dataset
    index: int
    work: Path
    device: str
    threads: int | None

    def __call__(self) -> None:
        from promptmm_pyg.benchmark.experiments import make_experiment

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        experiment = make_experiment(self.config)
        bench = experiment.bench(
            self.dataset, self.config.seeds, self.work, self.device
        )
        bench.runs(experiment.entries(bench)[self.index])


def _train_entries(
    config: BenchmarkConfig,
    dataset: Dataset,
    bench: Bench,
    work: Path,
    jobs: int,
    device: str,
) -> None:
    """Fills the cache, teachers before their students."""
    from promptmm_pyg.benchmark.experiments import make_experiment

    entries = make_experiment(config).entries(bench)
    # Several processes of several threads each would compete for the cores.
    threads = 1 if jobs > 1 else None
    teachers = [i for i, entry in enumerate(entries) if entry.arm.teacher is None]
    students = [i for i, entry in enumerate(entries) if entry.arm.teacher is not None]
    for stage in (teachers, students):
        tasks = [_Job(config, dataset, i, work, device, threads) for i in stage]
        with ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context('spawn'),
            initializer=end_with_parent,
            max_tasks_per_child=1,
        ) as pool:
            done = pool.map(_call, tasks)
            list(tqdm(done, total=len(tasks), unit='model', disable=None))


def _call(job: _Job) -> None:
    job()


def end_with_parent() -> None:
    """Ends this process when the one that started it is killed: workers of a pool would
    continue for hours.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def _reset_peak() -> None:
    """Resets the peak memory of this process, where the system can."""
    with suppress(OSError):
        _CLEAR.write_text('5')


def _peak_mib() -> float:
    """The peak memory of this process since the reset, interpreter and data included;
    where the system cannot reset, since its start.
    """
    if _STATUS.exists():
        # Unlike `ru_maxrss`, does not include the process that started this one.
        for line in _STATUS.read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
