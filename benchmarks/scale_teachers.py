"""What a teacher costs: a product with the graph, its steps, its targets."""

from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.scale_costs import Costs, epoch
from benchmarks.scale_graph import PROMPT, Size
from benchmarks.scale_students import LEARNING_RATE, Again
from promptmm_pyg.data.schema import INTERACTS, ITEM
from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.loader import TripletNeighborLoader, Triplets, triplets_of
from promptmm_pyg.models import PromptMM
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import SoftTargets, save_targets
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.training.loop import StepOutput, amortized, step_output, train_step
from promptmm_pyg.training.neighborhood import seed_rows
from promptmm_pyg.training.optim import make_optimizer
from promptmm_pyg.training.train import triplet_loader
from promptmm_pyg.transforms import AddBipartiteNorm

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
