"""The steps whose cost grows with the graph."""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torch_geometric.data import HeteroData

from benchmarks.speed import PROMPT, Size, interleaved
from promptmm_pyg.benchmark.report import markdown
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.distillation import CandidateSampling, promptmm_losses
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.distillation.distill import distillation_step
from promptmm_pyg.distillation.objective import FrozenTeacher, Objective
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
from promptmm_pyg.training import (
    TrainingConfig,
    bpr_losses,
    load_state,
    save_state,
)
from promptmm_pyg.training.config import OptimizerKind
from promptmm_pyg.training.loop import StepOutput, amortized, step_output, train_step
from promptmm_pyg.training.neighborhood import seed_rows
from promptmm_pyg.training.optim import make_optimizer
from promptmm_pyg.training.train import (
    BPR_WEIGHTS,
    triplet_loader,
    whole_graph_step,
)
from promptmm_pyg.transforms import AddBipartiteNorm

Step = Callable[[Triplets], None]
Cost = dict[str, Any]


class Costs:
    """Costs by name in the order of the run: measured ``seconds``, the ``share`` of
    the work that they contain, an ``estimate`` for all of it, and ``peak_mib``, the
    peak memory so far.

    Args:
        title: Prefix of the printed lines.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.by_name: dict[str, Cost] = {}

    def add(self, name: str, cost: Cost) -> None:
        """Adds a cost and prints it."""
        self.by_name[name] = {'share': 1.0, **cost, 'peak_mib': peak_mib()}
        print(f'{self.title}: {name} {self.by_name[name]}', flush=True)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measures the block once."""
        started = time.perf_counter()
        yield
        self.add(name, {'seconds': time.perf_counter() - started})

    def repeated(self, name: str, run: Callable[[], object], repeats: int) -> None:
        """Measures the median of several runs, after a first that is left out."""
        times = interleaved({name: run}, repeats)[name]
        self.add(name, {'seconds': times['median_ms'] / 1e3, **times})


def epoch(
    batches: Iterable[Triplets],
    num_batches: int,
    step: Step,
    *,
    seconds: float | None = None,
    max_steps: int | None = None,
) -> Cost:
    """The cost of an epoch. It stops after ``seconds`` or ``max_steps``; the rest is
    estimated from these steps.
    """
    started = time.perf_counter()
    steps, first = 0, 0.0
    for batch in batches:
        if steps == 0:  # An epoch's triplets are drawn before its first batch.
            first = time.perf_counter() - started
        step(batch)
        steps += 1
        over = seconds is not None and time.perf_counter() - started > seconds
        if over or steps == max_steps:
            break
    spent = time.perf_counter() - started
    return {
        'seconds': spent,
        'share': steps / num_batches,
        'estimate': first + (spent - first) / steps * num_batches,
        'steps': steps,
        'steps_of_epoch': num_batches,
    }


def peak_mib() -> float:
    """The peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


LEARNING_RATE = 1e-2
KINDS: tuple[OptimizerKind, ...] = ('dense', 'lazy')
SINGLE_USERS = 50  # Requests of one user.


def training(size: Size, data: HeteroData, costs: Costs) -> dict[str, Tensor]:
    """BPR with the dense optimizer and with the lazy one, whose epoch is complete at
    any size; returns its tables.
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
            costs.repeated(f'student step, {kind}', partial(step, batch), size.repeats)
            model.reset_parameters()
            limit = None if kind == 'lazy' else size.seconds
            cost = epoch(loader, len(loader), step, seconds=limit)
        costs.add(f'student epoch, {kind}', cost)
    return {key: x.detach() for key, x in model().items()}


def bpr_step(model: MatrixFactorization, kind: OptimizerKind) -> Step:
    """A training step of BPR and its penalty."""
    config = TrainingConfig(learning_rate=LEARNING_RATE, optimizer=kind)
    optimizer = make_optimizer(model.parameters(), config)

    def losses(batch: Triplets, _: object) -> StepOutput:
        return step_output(bpr_losses(model(), batch), BPR_WEIGHTS)

    def step(batch: Triplets) -> None:
        train_step(optimizer, losses, batch)

    return step


def ranking(
    size: Size, data: HeteroData, x_dict: dict[str, Tensor], costs: Costs
) -> None:
    """Full evaluation, and requests of one user."""
    started = time.perf_counter()
    result = evaluate(x_dict, data, ks=(20,), memory_limit=size.ranking_memory)
    spent = time.perf_counter() - started
    # Small graphs have fewer users than are ranked.
    times = max(1.0, size.users / size.ranked_users)
    ranked = result.users.numel()
    cost = {
        'seconds': spent,
        'share': 1 / times,
        'estimate': spent * times,
        'users': ranked,
        'users_per_second': ranked / spent,
        'Recall@20': result.metrics['Recall@20'],
    }
    costs.add('evaluation', cost)
    del result
    edge_index = data[INTERACTS].edge_index
    seen = SeenItems.from_edge_index(edge_index, size.users, size.items)
    users = iter((torch.arange(SINGLE_USERS + 1) % size.users).split(1))
    pair = x_dict[USER], x_dict[ITEM]
    costs.repeated(
        'top-20 of one user',
        lambda: rank_items(pair, next(users), 20, seen=seen),
        SINGLE_USERS,
    )


def distillation(size: Size, data: HeteroData, path: Path, costs: Costs) -> None:
    """BPR with the pair-wise, list-wise and embedding loss, targets on disk, lists of
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
    again = partial(step, next(iter(loader)))
    with sparse_gradients(model.embeddings.tables.values()):
        costs.repeated('distillation step', again, size.repeats)
        cost = epoch(loader, len(loader), step, seconds=size.seconds)
    costs.add('distillation epoch', cost)


NEIGHBORS = [10, 10]
MAX_STEPS = 20  # Of an epoch on neighborhoods.
GATHERED = 2**13  # Rows per block, whose copy stays in the cache.
WHOLE_STEPS = 16  # Steps of an epoch on the whole graph, one propagation each.


def propagation(size: Size, data: HeteroData, costs: Costs) -> None:
    """One product with the graph and its gradient, users to items; and a gather of the
    rows that both must read, as a lower bound.
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
    buffer = x.new_empty(GATHERED, size.width)

    def gather() -> None:
        for table, order in zip(tables, orders, strict=True):
            for index in order.split(GATHERED):
                torch.index_select(table, 0, index, out=buffer[: index.numel()])

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
    """Steps as those of :func:`~promptmm_pyg.training.train` with ``num_neighbors`` and
    the lazy optimizer; the epoch is cut.
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
        again = partial(step, next(iter(loader.triplets)))
        costs.repeated(f'teacher step, {name}', again, size.repeats)
        cost = epoch(loader.triplets, len(loader), step, max_steps=MAX_STEPS)
        costs.add(f'teacher epoch, {name}', cost)


def on_whole_graph(
    size: Size, data: HeteroData, teacher: PromptMM, costs: Costs
) -> None:
    """A step with one propagation for a sixteenth of the interactions, whose losses are
    computed in batches.
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

    number = -(-data[INTERACTS].edge_index.size(1) // WHOLE_STEPS)
    loader = triplet_loader(data, batch_size=number, seed=size.seed)
    again = partial(step, next(iter(loader)))
    costs.repeated('teacher step, whole graph', again, size.repeats)


def inference(teacher: PromptMM, data: HeteroData, path: Path, costs: Costs) -> None:
    """The teacher's final embeddings, layer by layer, and their file."""
    with costs.timed('targets written'):
        x_dict = teacher.inference(normalized_adj_dict(data))
        save_targets(path, SoftTargets(x_dict, {}), data, top_k=0)


SHARDED = {USER: 1_000_000, ITEM: 200_000}
SHARDED_STEPS = 5  # After one that allocates.


def sharded_costs(
    num_processes: int, width: int, batch_size: int = 8192
) -> dict[str, Any]:
    """Steps of a student with sharded tables in new processes of one group, by gloo:
    seconds, bytes sent to others and memory of the process that needs most.
    """
    with tempfile.TemporaryDirectory() as name:
        arguments = (num_processes, width, batch_size, Path(name))
        start_processes(
            _sharded_process, arguments, num_processes, start_method='spawn'
        )
        parts = [load_state(Path(name) / f'{r}') for r in range(num_processes)]
    names = [name for name in parts[0] if name != 'losses']
    worst = {name: max(part[name] for part in parts) for name in names}
    return {'processes': num_processes, **worst, 'losses': parts[0]['losses']}


def _sharded_process(
    rank: int, size: int, width: int, batch_size: int, folder: Path
) -> None:
    torch.set_num_threads(1)
    store = (folder / 'store').as_uri()
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=size)
    torch.manual_seed(0)
    start = peak_mib()
    model = MatrixFactorization(SHARDED, embedding_dim=width, sharded=True)
    config = TrainingConfig(learning_rate=LEARNING_RATE, optimizer='lazy')
    optimizer = make_optimizer(model.parameters(), config)
    # Rows that share their memory, for a teacher that needs none.
    constant = {k: torch.randn(1, width).expand(n, -1) for k, n in SHARDED.items()}
    targets = SoftTargets(constant, {})
    objective = Objective(promptmm_losses())
    objective.setup(targets, width, HeteroData())
    bpr = whole_graph_step(model, (), bpr_losses, BPR_WEIGHTS, config)
    teacher = FrozenTeacher(targets)
    distilled = distillation_step(
        model, (), bpr_losses, BPR_WEIGHTS, objective, teacher
    )
    result: dict[str, Any] = {'losses': []}
    with sparse_gradients(model.embeddings.tables.values()), counted_bytes() as sent:
        for prefix, step in (('', bpr), ('distillation_', distilled)):
            times, bytes_before = [], 0
            for number in range(SHARDED_STEPS + 1):
                if number == 1:
                    bytes_before = sent[0]
                drawn = torch.randint(SHARDED[ITEM], (batch_size, 12))
                user = torch.randint(SHARDED[USER], (batch_size,))
                batch = Triplets(user, drawn[:, 0], drawn[:, 1])
                target = torch.arange(11).expand(batch_size, -1) == 0
                items = torch.cat([drawn[:, :1], drawn[:, 2:]], dim=1)
                started = time.perf_counter()
                lists = CandidateLists(items, target)
                loss, _ = train_step(optimizer, step, batch, lists)
                times.append(time.perf_counter() - started)
                if not prefix:  # Others have losses within their shard.
                    result['losses'].append(float(loss))
            result[f'{prefix}seconds'] = statistics.median(times[1:])
            total = sent[0] - bytes_before
            result[f'{prefix}sent_mib'] = total / SHARDED_STEPS / 2**20
            result.setdefault('memory_mib', peak_mib() - start)
    result['tables_mib'] = sum(x.nbytes for x in model.parameters()) / 2**20
    save_state(folder / f'{rank}', result)
    dist.destroy_process_group()


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Counts what this process sends to others by all-to-all."""
    send, total = dist.all_to_all_single, [0]

    def counted(out: Tensor, x: Tensor, received: Any, sent: Any) -> None:
        rows = sent or [x.size(0) // dist.get_world_size()] * dist.get_world_size()
        row = x[:1].nbytes
        total[0] += row * (sum(rows) - rows[dist.get_rank()])
        send(out, x, received, sent)

    dist.all_to_all_single = counted  # type: ignore[assignment]
    try:
        yield total
    finally:
        dist.all_to_all_single = send


def sharded_table(result: dict[str, Any]) -> str:
    """Memory, bytes and seconds by the number of processes."""
    rows = result['sharded']
    head = [
        *('processes', 'tables MiB', 'peak MiB', 'BPR s', 'sent MiB'),
        *('distillation s', 'sent MiB', 'largest difference of a loss'),
    ]
    body = []
    for row in rows:
        pairs = zip(row['losses'], rows[0]['losses'], strict=True)
        names = ['tables_mib', 'memory_mib', 'seconds', 'sent_mib']
        names += ['distillation_seconds', 'distillation_sent_mib']
        numbers = [f'{row[name]:.3g}' for name in names]
        largest = max(abs(a - b) for a, b in pairs)
        body.append([str(row['processes']), *numbers, f'{largest:.1e}'])
    return '\n'.join(markdown(head, body))
