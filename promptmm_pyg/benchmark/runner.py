"""Trains, tunes and tests the entries of a benchmark; finished trainings are cached."""

import hashlib
import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.benchmark.config import Dataset, Params
from promptmm_pyg.benchmark.entries import (
    RANDOM,
    Arm,
    Entry,
    Teacher,
    Variant,
)
from promptmm_pyg.benchmark.registry import build
from promptmm_pyg.benchmark.stats import difference, spread
from promptmm_pyg.data import INTERACTS, ITEM, Split, fingerprint, modality_x_dict
from promptmm_pyg.distillation import (
    CandidateSampling,
    distill,
    start_student,
)
from promptmm_pyg.evaluation import Evaluation, evaluate
from promptmm_pyg.evaluation.metrics import ACCURACY
from promptmm_pyg.models._resolve import short_name
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.search_space import SearchSpace
from promptmm_pyg.targets import SoftTargets, soft_targets, topk_targets
from promptmm_pyg.training import TrainingConfig, load_state, save_state, train
from promptmm_pyg.tuning import Study, split_params

METRIC = 'Recall@20'
KS = (10, 20, 50)
TUNING_SEED = 0  # Of the search; trials are compared at the first training seed.
# Columns of a row beside its name, hyper-parameters and values.
FACTORS = ('group', 'student', 'width', 'start', 'share', 'condition')
TOP_K = 100  # Items per user that a teacher ranks once.


class Runs(NamedTuple):
    """An entry with its best hyper-parameters, trained with every seed."""

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
        device: Where models are trained.
        list_metrics: Further test metrics. (default: none)
    """

    def __init__(
        self,
        dataset: Dataset,
        seeds: Sequence[int],
        work: Path,
        *,
        split: Split | None = None,
        device: str = 'cpu',
        list_metrics: Sequence[str] = (),
    ) -> None:
        self.dataset, self.seeds = dataset, tuple(seeds)
        self.work, self.device = Path(work), device
        self.test_metrics = tuple(dict.fromkeys((*ACCURACY, *list_metrics)))
        self.split = dataset.read() if split is None else split
        self.test_items: dict[str, Tensor | None] = {'test': None}
        """The ranked items per test of a row, all of them with ``None``. Entries are
        compared by the first."""
        self.test_reads: Counter[str] = Counter()
        self.users = torch.empty(0)
        """The test users of ``values``."""
        self.values: dict[str, Tensor] = {}
        """Test values ``[num_seeds, N]`` by name of the row; a closed form has one."""
        self._graphs: dict[str, HeteroData] = {}
        self._tests: dict[str, Evaluation] = {}
        self._targets: dict[str, SoftTargets] = {}
        self._given: dict[str, dict[str, Any]] = {}

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
        key += [type(self).__name__, arm.key, dict(params), seed]
        # Closed forms stay on the CPU.
        if self.device != 'cpu' and arm.seeded:
            key.append(self.device)
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        model = short_name(arm.model)
        name = f'{self.dataset.name}-{model}-{seed}-{digest}.safetensors'
        return self.work / name

    def outcome(self, arm: Arm, params: Params, seed: int) -> dict[str, Any]:
        """Validation value, costs and, except for closed forms, the embeddings of the
        best state; trained now or read from the cache. The test positives are not read.
        """
        if arm.embeddings is not None:
            return self._outcome_of_embeddings(arm, arm.embeddings, seed)
        path = self.path(arm, params, seed)
        if not path.is_file():
            targets = arm.teacher.targets(seed) if arm.teacher else None
            params = {**arm.params, **params}
            torch.manual_seed(seed)
            _reset_peak()
            if self.device != 'cpu':
                torch.cuda.reset_peak_memory_stats(self.device)
            started = time.perf_counter()
            if arm.seeded:
                state = self._train(arm, params, seed, targets)
            else:
                model = build(arm.model, self.graph(arm.variant), params)
                state = {'validation': self.validate(model.scores), 'parameters': 0}
            state['seconds'] = time.perf_counter() - started
            state |= {'threads': torch.get_num_threads(), 'peak_mib': _peak_mib()}
            if self.device != 'cpu':
                peak = torch.cuda.max_memory_allocated(self.device)
                state['peak_gpu_mib'] = peak / 2**20
            save_state(path, state)
        return load_state(path)

    def _outcome_of_embeddings(
        self, arm: Arm, teacher: Teacher, seed: int
    ) -> dict[str, Any]:
        key = json.dumps([arm.key, seed])
        if key not in self._given:
            x_dict = teacher.targets(seed).x_dict
            self._given[key] = {
                'validation': self.validate(x_dict),
                'parameters': sum(x.numel() for x in x_dict.values()),
                'x_dict': x_dict,
            }
        return self._given[key]

    def model(self, arm: Arm, arguments: Params, targets: SoftTargets | None) -> Any:
        """A model before its training."""
        model = build(arm.model, self.graph(arm.variant), arguments)
        if arm.losses is None and arm.start != RANDOM:
            assert targets is not None
            inputs = (normalized_adj_dict(self.graph(arm.variant)),)
            start_student(model, targets, start=arm.start, inputs=inputs)
        return model

    def train_options(self) -> dict[str, Any]:
        """Further arguments of ``train`` and ``distill``. Negatives are drawn from the
        whole catalogue, as in the released code of the compared models.
        """
        return {'negative_items': torch.arange(int(self.split.train[ITEM].num_nodes))}

    def _train(
        self, arm: Arm, params: Params, seed: int, targets: SoftTargets | None
    ) -> dict[str, Any]:
        params = dict(params)
        weight, scale = params.pop('weight', 1.0), params.pop('score_scale', 1.0)
        start = params.pop('start', arm.start)
        arguments, loss_weights, training = split_params(arm.model, params)
        model = self.model(arm, arguments, targets).to(self.device)
        graph = self.graph(arm.variant).clone().to(self.device)
        config = TrainingConfig(
            **{**arm.training, **training}, seed=seed, progress=False
        )
        inputs = (normalized_adj_dict(graph),)
        options: dict[str, Any] = {
            'config': config,
            'loss_weights': loss_weights,
            'inputs': inputs,
            **self.train_options(),
        }
        data = self.split._replace(train=graph)
        more: dict[str, Any] = {}
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        try:
            if arm.losses is None:
                history = train(model, data, **options)
            else:
                assert targets is not None
                assert arm.teacher is not None
                width = model.embeddings.embedding_dim
                targets = scale_scores(targets, scale).to(self.device)
                teacher: SoftTargets | torch.nn.Module = targets
                if arm.prompt == 'joint':
                    assert arm.teacher.module is not None
                    teacher = arm.teacher.module(seed).to(self.device)
                result = distill(
                    model,
                    teacher,
                    data,
                    start=start,
                    losses=arm.losses.make(targets, width, weight),
                    prompt='joint' if arm.prompt == 'joint' else 'frozen',
                    candidates=CandidateSampling(**arm.candidates),
                    baseline=False,
                    **options,
                )
                history = result.history
                if arm.prompt == 'joint':
                    more['teacher_validation'] = self.validate(result.targets.x_dict)
        except FloatingPointError as error:
            # A diverging trial is a trial like another, and the worst.
            return {'validation': 0.0, 'parameters': size, 'error': str(error)}
        times = [record['seconds'] for record in history.records]
        x_dict = get_embeddings(model, inputs)
        if getattr(model, 'reads_prompt', False):
            more['state'] = {
                name: p.detach().cpu() for name, p in model.named_parameters()
            }
        return {
            **more,
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

    def validate(self, scores: Any) -> float:
        """The validation value of embeddings or of a function that scores users."""
        return evaluate(scores, self.split.val, ks=(20,)).metrics[METRIC]

    def test(
        self, arm: Arm, params: Params, seed: int, name: str = 'test'
    ) -> Evaluation:
        """The test metrics of the state that was best on validation; read once.

        Args:
            arm: The arm.
            params: Its tuned hyper-parameters.
            seed: Training seed.
            name: One of ``test_items``. (default: ``'test'``)
        """
        key = json.dumps([name, arm.key, dict(params), seed if arm.seeded else 0])
        if key not in self._tests:
            scores: Any
            if arm.seeded:
                scores = self.x_dict(arm, params, seed)
            else:
                params = {**arm.params, **params}
                scores = build(arm.model, self.graph(arm.variant), params).scores
            num_items = int(self.split.test[ITEM].num_nodes)
            ks = sorted({min(k, num_items) for k in KS})
            self.test_reads[key] += 1
            self._tests[key] = evaluate(
                scores,
                self.split.test,
                ks=ks,
                metrics=self.test_metrics,
                candidates=self.test_items[name],
            )
        return self._tests[key]

    def trial_value(self, arm: Arm, params: Params, seed: int) -> float:
        """The value by which a trial is chosen."""
        return float(self.outcome(arm, params, seed)['validation'])

    def best_params(self, entry: Entry) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The trial that is best on validation, of equals the first; and all trials."""
        arm = entry.tuned_as or entry.arm
        if entry.search is None and len(entry.trials) == 1:
            return dict(entry.trials[0]), []
        rows = [] if entry.search is None else self.search(arm, *entry.search)
        rows += [
            {
                'params': dict(trial),
                'validation': self.trial_value(arm, trial, self.seeds[0]),
            }
            for trial in entry.trials
            if trial or entry.search is None
        ]
        return max(rows, key=lambda row: row['validation'])['params'], rows

    def search(self, arm: Arm, space: SearchSpace, trials: int) -> list[dict[str, Any]]:
        """The trials of a :class:`~promptmm_pyg.tuning.Study` in order. Those from the
        cache are reported to it as if they had just run, so the next ones are those of
        an uninterrupted study.
        """
        num_interactions = self.train[INTERACTS].edge_index.size(1)
        config = TrainingConfig(**arm.training).resolve(
            num_interactions, is_started=arm.start != RANDOM
        )
        space = space.with_learning_rate(float(config.learning_rate))
        study, rows = Study(space, seed=TUNING_SEED), []
        while (trial := study.ask(limit=trials)) is not None:
            outcome = self.outcome(arm, trial.params, TUNING_SEED)
            study.tell(trial, outcome['validation'])
            names = ('validation', 'seconds', 'error')
            costs = {k: outcome[k] for k in names if k in outcome}
            rows.append({'params': trial.params, **costs})
        return rows

    def runs(self, entry: Entry) -> Runs:
        """An entry tuned and trained with every seed; closed forms have one."""
        params, trials = self.best_params(entry)
        seeds = self.seeds if entry.arm.seeded else self.seeds[:1]
        outcomes = [self.outcome(entry.arm, params, seed) for seed in seeds]
        return Runs(params, seeds, outcomes, trials)

    def tests(self, entry: Entry, name: str | None = None) -> list[Evaluation]:
        """The test metrics per seed."""
        name = name or next(iter(self.test_items))
        runs = self.runs(entry)
        return [self.test(entry.arm, runs.best_params, s, name) for s in runs.seeds]

    def per_user(self, entry: Entry) -> list[Tensor]:
        """The test value of every user per seed; that of a closed form for each."""
        values = [test.per_user[METRIC] for test in self.tests(entry)]
        return values if entry.arm.seeded else values * len(self.seeds)

    def row(self, entry: Entry, metrics: Sequence[str] = ()) -> dict[str, Any]:
        """The row of an entry in the result.

        Args:
            entry: The entry.
            metrics: Metrics of its tests. (default: all)
        """
        params, _, outcomes, trials = self.runs(entry)
        row: dict[str, Any] = {
            'name': entry.name,
            **entry.factors,
            'best_params': params,
            'num_trials': max(len(trials), 1),
            'validation': spread([outcome['validation'] for outcome in outcomes]),
        }
        for name in self.test_items:
            tests = self.tests(entry, name)
            row[name] = {
                metric: spread([test.metrics[metric] for test in tests])
                for metric in metrics or tests[0].metrics
            }
        if 'epoch' in outcomes[0]:
            row['epochs'] = [outcome['epoch'] for outcome in outcomes]
            training = split_params(
                entry.arm.model, {**entry.arm.params, **params}
            ).training
            config = TrainingConfig(**{**entry.arm.training, **training})
            row['max_epochs'] = config.epochs
        tests = self.tests(entry)
        self.users = tests[0].users
        own = torch.stack([test.per_user[METRIC] for test in tests])
        self.values[row_name(row)] = own
        values = self.per_user(entry)
        if entry.retained_of is not None:
            full = self.per_user(entry.retained_of)
            row['retained_ratio'] = _mean_of(values) / _mean_of(full)
        for key, reference in entry.references.items():
            row[f'diff_vs_{key}'] = difference(values, self.per_user(reference))
        return row

    def teacher(self, arm: Arm, params: Params | None = None) -> Teacher:
        """A trained model as a teacher, by its final embeddings."""
        params = dict(params or {})
        return Teacher([arm.key, params], partial(self._targets_of, arm, params))

    def teacher_module(self, arm: Arm, params: Params | None = None) -> Teacher:
        """A trained model with a prompt as a teacher, with its modalities."""
        params = dict(params or {})
        module = partial(self._module_of, arm, params)

        key = ['module', arm.key, params]

        def targets(seed: int) -> SoftTargets:
            adj = normalized_adj_dict(self.train)
            return self._once([*key, seed], lambda: soft_targets(module(seed), adj))

        return Teacher(key, targets, module)

    def _module_of(self, arm: Arm, params: Params, seed: int) -> torch.nn.Module:
        state = self.outcome(arm, params, seed)['state']
        arguments = split_params(arm.model, {**arm.params, **params}).arguments
        model: torch.nn.Module = build(arm.model, self.graph(arm.variant), arguments)
        model.load_state_dict(state, strict=False)
        return model

    def _targets_of(self, arm: Arm, params: Params, seed: int) -> SoftTargets:
        key = [arm.key, dict(params), seed]
        return self._once(key, lambda: SoftTargets(self.x_dict(arm, params, seed), {}))

    def _once(self, key: Any, make: Callable[[], SoftTargets]) -> SoftTargets:
        """The targets of a teacher with their best items, made on first use."""
        text = json.dumps(key)
        if text not in self._targets:
            self._targets[text] = with_top(make(), self.train)
        return self._targets[text]


def row_name(row: Mapping[str, Any]) -> str:
    """The name of a row with its factors."""
    factors = [f'{key} {row[key]}' for key in FACTORS if row.get(key) is not None]
    return ', '.join([row['name'], *factors])


def _mean_of(values: Sequence[Tensor]) -> float:
    return sum(float(x.mean()) for x in values) / len(values)


def with_top(targets: SoftTargets, train: HeteroData) -> SoftTargets:
    """The targets with their best items per user."""
    top_k = min(TOP_K, int(train[ITEM].num_nodes))
    return targets._replace(top=topk_targets(targets, train, top_k))


def scale_scores(targets: SoftTargets, factor: float) -> SoftTargets:
    """The teacher with its scores multiplied, which sharpens its softmax and keeps its
    ranking.
    """
    if factor == 1:
        return targets
    x_dict = {key: factor**0.5 * x for key, x in targets.x_dict.items()}
    return targets._replace(x_dict=x_dict)


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
