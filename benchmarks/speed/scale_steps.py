"""Synthetic interactions of any number, and the memory that a size takes."""

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.speed.common import interleaved
from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER
from promptmm_pyg.distillation import CandidateSampling, promptmm_losses
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.distillation.objective import Objective
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.loader import (
    CandidateLists,
    TripletNeighborLoader,
    Triplets,
    triplets_of,
)
from promptmm_pyg.models import MatrixFactorization, PromptMM
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets, load_targets, save_targets
from promptmm_pyg.training import TrainingConfig, bpr_losses
from promptmm_pyg.training.config import OptimizerKind
from promptmm_pyg.training.loop import StepOutput, amortized, step_output, train_step
from promptmm_pyg.training.neighborhood import seed_rows
from promptmm_pyg.training.optim import make_optimizer
from promptmm_pyg.training.train import BPR_WEIGHTS, triplet_loader
from promptmm_pyg.transforms import AddBipartiteNorm

GIB = 2**30
PROGRAM = 2**29  # Bytes of the interpreter and of what it imports.
USERS_EACH = 10  # Interactions a user, on average.
ITEMS_EACH = 5  # Users an item.
FEWEST_ITEMS = 100  # A smaller catalogue would be seen as a whole.
TAIL = {USER: 0.4, ITEM: 0.6}  # Nodes by rank r have degrees like r ** -tail.
PROMPT = 32
POSITIVE = (
    *('interactions', 'features', 'width', 'memory', 'batch_size'),
    *('teacher_batch_size', 'ranked_users', 'repeats', 'seconds', 'threads'),
)


@dataclass(frozen=True)
class Size:
    """One size of graph, and every number that its measures depend on."""

    interactions: int
    features: int = 256
    width: int = 64
    memory: int = 16 * GIB
    batch_size: int = 65_536  # Of a student's step.
    teacher_batch_size: int = 2048  # Of a step on neighborhoods.
    ranked_users: int = 100_000
    repeats: int = 3
    seconds: float = 300.0  # Of an epoch that need not be whole.
    threads: int = 1
    seed: int = 0

    @property
    def users(self) -> int:
        """How many there are."""
        return max(2, self.interactions // USERS_EACH)

    @property
    def items(self) -> int:
        """How many there are."""
        return max(FEWEST_ITEMS, self.users // ITEMS_EACH)

    def check(self) -> None:
        """Raises before any work, if there is nothing to do or no room for it.

        Raises:
            ValueError: If a number is not positive, or the memory that is needed
                exceeds the budget.
        """
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"'{name}' must be positive (got {getattr(self, name)})"
                )
        if self.peak > self.memory:
            told = ', '.join(f'{k} {x / GIB:.2f}' for k, x in self.parts.items())
            raise ValueError(
                f"'memory' must be at least {self.peak / GIB:.2f} GiB for "
                f'{self.interactions} interactions and {self.features}-d features, as '
                f'estimated ({told}) (got {self.memory / GIB:.2f} GiB). Raise the '
                f'budget, or leave this size out'
            )

    @property
    def table(self) -> int:
        """Bytes of one vector a user and an item."""
        return 4 * self.width * (self.users + self.items)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes at the peak, estimated, without a teacher's step on the whole graph."""
        triplet = 4 * self.width * 11 * 6  # Vectors of a list, and what follows them.
        return {
            'program': PROGRAM,
            # Edges in both directions, and sorted to be drawn from; a few copies.
            'graph': 250 * self.interactions,
            # Values, gradient and two moments; prompts; targets.
            'tables': 6 * self.table + 4 * PROMPT * (self.users + self.items),
            'features': 2 * self.features * self.items,
            'step': triplet * min(self.batch_size, self.interactions),
            'ranking': self.ranking_memory,
        }

    @property
    def peak(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def whole_graph(self) -> int:
        """Bytes with a teacher's step on the whole graph, where vectors of every node
        are kept for the gradient, and what is freed for the next step.
        """
        return self.peak + 18 * self.table

    @property
    def whole_fits(self) -> bool:
        """Whether the budget has room for that step, which is left out elsewhere."""
        return self.whole_graph <= self.memory

    @property
    def ranking_memory(self) -> int:
        """Bytes of a ranking: its blocks, and its lists."""
        return 2**28 + 12 * 20 * min(self.ranked_users, self.users)


def draw_graph(size: Size) -> HeteroData:
    """Users and items with long-tailed degrees; one interaction of each of some users
    is held out as ``edge_label_index``.

    Cost and memory are linear in the interactions, but for sorting them.
    """
    g = torch.Generator().manual_seed(size.seed)
    flat = torch.empty(0, dtype=torch.long)
    while flat.numel() < size.interactions:  # Repeated pairs count once.
        missing = size.interactions - flat.numel()
        more = _nodes(USER, size.users, missing * 5 // 4 + 8, g) * size.items
        more += _nodes(ITEM, size.items, more.numel(), g)
        flat = torch.cat([flat, more]).unique()
    if flat.numel() > size.interactions:
        kept = torch.randperm(flat.numel(), generator=g)[: size.interactions]
        flat = flat[kept].sort().values
    held_out = _held_out(flat // size.items, size, g)
    train, positives = flat[~held_out], flat[held_out]
    data = HeteroData()
    data[USER].num_nodes, data[ITEM].num_nodes = size.users, size.items
    edge_index = torch.stack([train // size.items, train % size.items])
    data[INTERACTS].edge_index = edge_index
    data[REV_INTERACTS].edge_index = edge_index.flip([0])
    data[INTERACTS].edge_label_index = torch.stack(
        [positives // size.items, positives % size.items]
    )
    return data


def _nodes(key: str, number: int, draws: int, g: torch.Generator) -> Tensor:
    """Nodes drawn by a power law of their rank, which is no matter of their number."""
    uniform = torch.rand(draws, dtype=torch.double, generator=g)
    rank = uniform.pow_(1 / (1 - TAIL[key])).mul_(number).long().clamp_max_(number - 1)
    # The same numbers in every round of draws.
    names = torch.randperm(number, generator=torch.Generator().manual_seed(1))
    return names[rank]


def _held_out(user: Tensor, size: Size, g: torch.Generator) -> Tensor:
    """One interaction each of as many users with at least two as are ranked."""
    degree = torch.bincount(user, minlength=size.users)
    start = degree.cumsum(0) - degree
    able = (degree > 1).nonzero().view(-1)
    users = able[torch.randperm(able.numel(), generator=g)[: size.ranked_users]]
    uniform = torch.rand(users.numel(), dtype=torch.double, generator=g)
    place = start[users] + (uniform * degree[users]).long()
    return torch.zeros_like(user, dtype=torch.bool).index_fill_(0, place, True)


Step = Callable[[Triplets], None]
Cost = dict[str, Any]


class Costs:
    """By name, in the order of the run: ``seconds`` that were measured, the ``share``
    of the work that was done in them, an ``estimate`` for all of it, and ``peak_mib``,
    the most memory held so far.

    Args:
        title: Stands before what is printed.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.found: dict[str, Cost] = {}

    def add(self, name: str, cost: Cost) -> None:
        """Keeps what was measured and prints it."""
        self.found[name] = {'share': 1.0, **cost, 'peak_mib': peak_mib()}
        print(f'{self.title}: {name} {self.found[name]}', flush=True)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measures a body once."""
        begun = time.perf_counter()
        yield
        self.add(name, {'seconds': time.perf_counter() - begun})

    def repeated(self, name: str, run: Callable[[], object], repeats: int) -> None:
        """The median of several runs, after one that warms up."""
        times = interleaved({name: run}, repeats)[name]
        self.add(name, {'seconds': times['median_ms'] / 1e3, **times})


def epoch(
    batches: Iterable[Triplets],
    number: int,
    step: Step,
    *,
    seconds: float | None = None,
    most: int | None = None,
) -> Cost:
    """What an epoch of ``number`` batches costs; whole, unless it takes longer than
    ``seconds`` or has more steps than ``most``. The rest is estimated from the steps
    taken, and told apart.
    """
    begun = time.perf_counter()
    taken, first = 0, 0.0
    for batch in batches:
        if taken == 0:  # An epoch's triplets are drawn before its first batch.
            first = time.perf_counter() - begun
        step(batch)
        taken += 1
        over = seconds is not None and time.perf_counter() - begun > seconds
        if over or taken == most:
            break
    spent = time.perf_counter() - begun
    return {
        'seconds': spent,
        'share': taken / number,
        'estimate': first + (spent - first) / taken * number,
        'steps': taken,
        'steps_of_epoch': number,
    }


def peak_mib() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


LEARNING_RATE = 1e-2
KINDS: tuple[OptimizerKind, ...] = ('dense', 'lazy')
ALONE = 50  # Users who are ranked for one by one.


def training(size: Size, data: HeteroData, costs: Costs) -> dict[str, Tensor]:
    """BPR with the dense optimizer and with the lazy one, whose epoch is whole at any
    size; returns the tables that it leaves.
    """
    with costs.timed('sampler built'):
        loader = triplet_loader(data, batch_size=size.batch_size, seed=size.seed)
    drawn = epoch(loader, len(loader), lambda _: None)
    rate = data[INTERACTS].edge_index.size(1) / drawn['seconds']
    costs.add('triplets of an epoch', {**drawn, 'triplets_per_second': rate})
    batch = next(iter(loader))
    for kind in KINDS:
        model = MatrixFactorization(data.num_nodes_dict, embedding_dim=size.width)
        step = bpr_step(model, kind)
        tables = model.embeddings.tables.values() if kind == 'lazy' else ()
        with sparse_gradients(tables):
            costs.repeated(f'student step, {kind}', Again(step, batch), size.repeats)
            model.reset_parameters()
            limit = None if kind == 'lazy' else size.seconds
            cost = epoch(loader, len(loader), step, seconds=limit)
        costs.add(f'student epoch, {kind}', cost)
    return {key: x.detach() for key, x in model().items()}


def bpr_step(model: MatrixFactorization, kind: OptimizerKind) -> Step:
    """A step down BPR and its penalty."""
    config = TrainingConfig(learning_rate=LEARNING_RATE, optimizer=kind)
    optimizer = make_optimizer(model.parameters(), config)

    def losses(batch: Triplets, _: object) -> StepOutput:
        return step_output(bpr_losses(model(), batch), BPR_WEIGHTS)

    def step(batch: Triplets) -> None:
        train_step(optimizer, losses, batch)

    return step


class Again:
    """A step on one and the same batch."""

    def __init__(self, step: Step, batch: Triplets) -> None:
        self.step = step
        self.batch = batch

    def __call__(self) -> None:
        self.step(self.batch)


def ranking(
    size: Size, data: HeteroData, x_dict: dict[str, Tensor], costs: Costs
) -> None:
    """Full evaluation, and the list of a user who comes alone."""
    begun = time.perf_counter()
    found = evaluate(x_dict, data, ks=(20,), memory_limit=size.ranking_memory)
    spent = time.perf_counter() - begun
    # Of fewer users than are ranked, all are who have something held out.
    times = max(1.0, size.users / size.ranked_users)
    ranked = found.users.numel()
    cost = {
        'seconds': spent,
        'share': 1 / times,
        'estimate': spent * times,
        'users': ranked,
        'users_per_second': ranked / spent,
        'Recall@20': found.metrics['Recall@20'],
    }
    costs.add('evaluation', cost)
    del found
    edge_index = data[INTERACTS].edge_index
    seen = SeenItems.from_edge_index(edge_index, size.users, size.items)
    users = iter((torch.arange(ALONE + 1) % size.users).split(1))
    pair = x_dict[USER], x_dict[ITEM]
    costs.repeated(
        'top-20 of one user',
        lambda: rank_items(pair, next(users), 20, seen=seen),
        ALONE,
    )


def distillation(size: Size, data: HeteroData, path: Path, costs: Costs) -> None:
    """BPR, pair-wise, list-wise and embedding loss against targets on disk, lists of
    ten negatives, the lazy optimizer.
    """
    targets = load_targets(path, data)
    model = MatrixFactorization(data.num_nodes_dict, embedding_dim=size.width)
    objective = Objective(promptmm_losses())
    objective.setup(targets, size.width, data)
    sampler = CandidateSampler(CandidateSampling(), data, targets, size.seed)
    config = TrainingConfig(learning_rate=LEARNING_RATE, optimizer='lazy')
    optimizer = make_optimizer(model.parameters(), config)

    def losses(batch: Triplets, lists: CandidateLists | None) -> StepOutput:
        assert lists is not None
        x_dict = model()
        values, weights = bpr_losses(x_dict, batch), dict(BPR_WEIGHTS)
        objective.extend(values, weights, x_dict, targets, batch, lists)
        return step_output(values, weights)

    def step(batch: Triplets) -> None:
        train_step(optimizer, losses, batch, sampler.lists(batch))

    loader = triplet_loader(data, batch_size=size.batch_size, seed=size.seed)
    again = Again(step, next(iter(loader)))
    with sparse_gradients(model.embeddings.tables.values()):
        costs.repeated('distillation step', again, size.repeats)
        cost = epoch(loader, len(loader), step, seconds=size.seconds)
    costs.add('distillation epoch', cost)


NEIGHBORS = [10, 10]
STEPS = 20  # Of an epoch on neighborhoods, at most.
GATHERED = 2**13  # Rows at a time: what they are written to stays in the cache.
SHARES = 16  # Steps of an epoch on the whole graph: a propagation each.


def propagation(size: Size, data: HeteroData, costs: Costs) -> None:
    """One product with the graph and its gradient, users to items; and the rows that
    both have to read, gathered and nothing else, which no product can do without.
    """
    with costs.timed('operators built'):
        adj = normalized_adj_dict(data)[INTERACTS]
    x = torch.randn(size.users, size.width, requires_grad=True)

    def product() -> None:
        x.grad = None
        (adj @ x).sum().backward()

    costs.repeated('propagation', product, size.repeats)
    tables = x.detach(), torch.randn(size.items, size.width)
    orders = [matrix.col_indices() for matrix in adj.matrices(x.dtype)]
    room = x.new_empty(GATHERED, size.width)

    def gather() -> None:
        for table, order in zip(tables, orders, strict=True):
            for index in order.split(GATHERED):
                torch.index_select(table, 0, index, out=room[: index.numel()])

    costs.repeated('rows gathered alone', gather, size.repeats)


def teaching(size: Size, data: HeteroData, features: Tensor, costs: Costs) -> PromptMM:
    """Steps on neighborhoods, and on the whole graph where it fits."""
    sizes = data.num_nodes_dict
    start = {key: torch.randn(number, PROMPT) for key, number in sizes.items()}
    content = {'content': {ITEM: features}}
    teacher = PromptMM(
        sizes, content, prompt_start_dict=start, embedding_dim=size.width
    )
    on_neighborhoods(size, data, teacher, costs)
    if size.whole_fits:
        on_whole_graph(size, data, teacher, costs)
    return teacher


def on_neighborhoods(
    size: Size, data: HeteroData, teacher: PromptMM, costs: Costs
) -> None:
    """What :func:`~promptmm_pyg.training.train` does with ``num_neighbors`` and the
    lazy optimizer; the epoch is cut.
    """
    with costs.timed('neighborhoods prepared'):
        loader = TripletNeighborLoader(
            AddBipartiteNorm()(data), NEIGHBORS, batch_size=size.teacher_batch_size
        )

    def losses(triplets: Triplets, _: object) -> StepOutput:
        batch = loader.around(triplets)
        weights, n_id = batch.collect('edge_weight'), batch.collect('n_id')
        output = teacher(batch.edge_index_dict, weights, n_id)
        values = teacher.losses(seed_rows(output, batch), triplets_of(batch))
        return step_output(values, teacher.loss_weights)

    def step(triplets: Triplets) -> None:
        train_step(optimizer, losses, triplets)

    name = 'neighborhoods'
    config = TrainingConfig(learning_rate=LEARNING_RATE, optimizer='lazy')
    with sparse_gradients(teacher.embeddings.tables.values()):
        optimizer = make_optimizer(teacher.parameters(), config)
        again = Again(step, next(iter(loader.triplets)))
        costs.repeated(f'teacher step, {name}', again, size.repeats)
        cost = epoch(loader.triplets, len(loader), step, most=STEPS)
        costs.add(f'teacher epoch, {name}', cost)


def on_whole_graph(
    size: Size, data: HeteroData, teacher: PromptMM, costs: Costs
) -> None:
    """A step with one propagation for a sixteenth of the interactions, whose losses
    are taken piece by piece.
    """
    operators, parameters = normalized_adj_dict(data), list(teacher.parameters())
    config = TrainingConfig(learning_rate=LEARNING_RATE)
    optimizer = make_optimizer(parameters, config)
    losses = amortized(
        lambda: teacher(operators),
        teacher.losses,
        teacher.loss_weights,
        parameters,
        size.batch_size,
    )

    def step(batch: Triplets) -> None:
        train_step(optimizer, losses, batch)

    number = -(-data[INTERACTS].edge_index.size(1) // SHARES)
    loader = triplet_loader(data, batch_size=number, seed=size.seed)
    again = Again(step, next(iter(loader)))
    costs.repeated('teacher step, whole graph', again, size.repeats)


def asked(teacher: PromptMM, data: HeteroData, path: Path, costs: Costs) -> None:
    """The teacher's final vectors, layer by layer, and the file that keeps them."""
    with costs.timed('targets written'):
        x_dict = teacher.inference(normalized_adj_dict(data))
        save_targets(path, SoftTargets(x_dict, {}), data, top_k=0)
