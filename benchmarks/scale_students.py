"""What a student costs: its epochs, its ranking, its distillation."""

import time
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.scale_costs import Costs, Step, epoch
from benchmarks.scale_graph import Size
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER, num_nodes_dict
from promptmm_pyg.distillation import (
    CONTROL_WEIGHTS,
    STUDENT_WEIGHTS,
    CandidateSampling,
    DistillationObjective,
)
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import load_targets
from promptmm_pyg.training import bpr_terms
from promptmm_pyg.training.inputs import triplet_loader
from promptmm_pyg.training.loop import train_step
from promptmm_pyg.training.optimizer import OptimizerKind, make_optimizer
from promptmm_pyg.training.row_tables import looked_up

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
        model = MatrixFactorization(num_nodes_dict(data), embedding_dim=size.width)
        step = bpr_step(model, kind)
        costs.repeated(f'student step, {kind}', Again(step, batch), size.repeats)
        model.reset_parameters()
        limit = None if kind == 'lazy' else size.seconds
        cost = epoch(loader, len(loader), step, seconds=limit)
        costs.add(f'student epoch, {kind}', cost)
    return {key: x.detach() for key, x in model().items()}


def bpr_step(model: MatrixFactorization, kind: OptimizerKind) -> Step:
    """A step down BPR and its penalty."""
    optimizer = make_optimizer(model.parameters(), LEARNING_RATE, 0.0, kind)

    def step(batch: Triplets) -> None:
        terms = bpr_terms(looked_up(model(), kind), batch)
        train_step(optimizer, terms, CONTROL_WEIGHTS)

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
    found = evaluate(x_dict, data, ks=(20,), memory=size.ranking_memory)
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
    model = MatrixFactorization(num_nodes_dict(data), embedding_dim=size.width)
    objective = DistillationObjective(targets, size.width)
    source = CandidateSampler(CandidateSampling(), data, targets, size.seed)
    optimizer = make_optimizer(model.parameters(), LEARNING_RATE, 0.0, 'lazy')

    def step(batch: Triplets) -> None:
        x_dict = looked_up(model(), 'lazy')
        terms = bpr_terms(x_dict, batch)
        terms.update(objective(x_dict, targets, batch, source.lists(batch)))
        train_step(optimizer, terms, STUDENT_WEIGHTS)

    loader = triplet_loader(data, batch_size=size.batch_size, seed=size.seed)
    again = Again(step, next(iter(loader)))
    costs.repeated('distillation step', again, size.repeats)
    cost = epoch(loader, len(loader), step, seconds=size.seconds)
    costs.add('distillation epoch', cost)
