"""What a student costs: its epochs, its ranking, its distillation."""

import time
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.scale_costs import Costs, Step, epoch
from benchmarks.scale_graph import Size
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.distillation import CandidateSampling, promptmm_losses
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.distillation.objective import Objective
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import load_targets
from promptmm_pyg.training import TrainingConfig, bpr_losses
from promptmm_pyg.training.config import OptimizerKind
from promptmm_pyg.training.loop import StepOutput, step_output, train_step
from promptmm_pyg.training.optim import make_optimizer
from promptmm_pyg.training.train import BPR_WEIGHTS, triplet_loader

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
