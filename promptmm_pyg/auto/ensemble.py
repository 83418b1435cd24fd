"""Which trials make the ensemble, and with which weights, guarded against
over-fitting validation.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM, NODE_TYPES, USER
from promptmm_pyg.distillation import ensemble_targets, fit_ensemble_weights
from promptmm_pyg.distillation.ensemble import score_std
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.functional import score_lists
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets

Tables = Mapping[str, Tensor]
LIST = 50
"""The items of a user per trial that are ranked again by their sum."""
MAX_PICKS = 12


class Choice(NamedTuple):
    """The ensemble of a search."""

    weights: dict[str, float]
    """By trial, with sum one; trials of weight zero are left out."""
    fitted: float
    """Its validation metric on the users to which it was fitted."""
    judged: float
    """The metric on users to which it was not: the mean of both halves, each chosen
    and weighted on the other half."""
    single: float
    """That of the best trial alone, on the same users."""


def sample_users(val: HeteroData, num_users: int, seed: int = 0) -> HeteroData:
    """The validation graph with the positives of a sample of its users."""
    users = positives(val)[0].unique()
    generator = torch.Generator().manual_seed(seed)
    order = users[torch.randperm(users.numel(), generator=generator)]
    return of_users(val, order[:num_users])


def of_users(val: HeteroData, users: Tensor) -> HeteroData:
    """The validation graph with the positives of some users."""
    graph = copy.copy(val)
    pairs = torch.stack(positives(val))
    graph[INTERACTS].edge_label_index = pairs[:, torch.isin(pairs[0], users)]
    if 'edge_label' in graph[INTERACTS]:
        del graph[INTERACTS].edge_label
    return graph


def gain_of(best: Tables, other: Tables, val: HeteroData, k: int) -> tuple[float, ...]:
    """Recall of the best trial, and of its sum with another one."""
    parts = {'best': as_targets(best), 'other': as_targets(other)}
    both = ensemble_targets(parts, dict.fromkeys(parts, 1.0))
    return recall(best, val, k), recall(both.x_dict, val, k)


def recall(tables: Tables, val: HeteroData, k: int) -> float:
    """Recall at ``k``."""
    return evaluate(dict(tables), val, ks=(k,)).metrics[f'Recall@{k}']


def as_targets(tables: Tables) -> SoftTargets:
    """Embeddings as a teacher without modalities."""
    return SoftTargets({key: tables[key] for key in NODE_TYPES}, {})


def choose_ensemble(
    trials: Mapping[str, Tables],
    train: HeteroData,
    val: HeteroData,
    *,
    k: int = 20,
    required: str | None = None,
    max_users: int = 4000,
    seed: int = 0,
) -> Choice:
    """Chooses trials and fits their weights (`fit_ensemble_weights`).

    The validation users are split in two halves. On each, trials are added one by one,
    as long as the sum of the standardized scores ranks better (`"Ensemble Selection
    from Libraries of Models" <https://doi.org/10.1145/1015330.1015432>`_); how many are
    used is decided on the other half. The ensemble has the trials that both halves
    chose, so that one that was lucky on a half is left out.

    Args:
        trials: Embeddings of users and items by trial; the best one first.
        train: Graph whose message edges are the training interactions.
        val: Graph with validation positives.
        k: The cutoff of Recall. (default: ``20``)
        required: A trial that is always part of it. (default: the first)
        max_users: Validation users that are looked at, at most. (default: ``4000``)
        seed: Of sample and halves. (default: ``0``)
    """
    required = required or next(iter(trials))
    sampled = sample_users(val, max_users, seed)
    lists = ScoreLists(trials, train, sampled)
    num_users = lists.num_users
    order = torch.randperm(num_users, generator=torch.Generator().manual_seed(seed + 1))
    halves = order[: num_users // 2], order[num_users // 2 :]
    names = list(trials)
    picks, judged = [], []
    for own, other in (halves, halves[::-1]):
        chosen = _forward(lists, own, other, k)
        members = {names[i] for i in chosen}
        graph = of_users(sampled, lists.users[own])
        weights = _fit(trials, members, train, graph)
        judged.append(lists.recall(_vector(weights, names), other, k))
        picks.append(members)
    members = (picks[0] & picks[1]) | {required}
    weights = _fit(trials, members, train, sampled)
    every = torch.arange(num_users)
    single = lists.recall(_vector({required: 1.0}, names), every, k)
    fitted = lists.recall(_vector(weights, names), every, k)
    choice = Choice(weights, fitted, sum(judged) / 2, single)
    if choice.judged <= single or fitted <= single:  # Nothing is gained by a sum.
        return Choice({required: 1.0}, single, single, single)
    return choice


def _fit(
    trials: Mapping[str, Tables],
    members: set[str],
    train: HeteroData,
    val: HeteroData,
) -> dict[str, float]:
    targets = {name: as_targets(x) for name, x in trials.items() if name in members}
    if len(targets) == 1:
        return dict.fromkeys(targets, 1.0)
    try:
        weights = fit_ensemble_weights(targets, train, val)
    except ValueError:  # No positive is in a list, or none is better than chance.
        return dict.fromkeys(targets, 1 / len(targets))
    return {name: weight for name, weight in weights.items() if weight > 0}


def _vector(weights: Mapping[str, float], names: Sequence[str]) -> Tensor:
    return torch.tensor([weights.get(name, 0.0) for name in names])


def _forward(lists: 'ScoreLists', own: Tensor, other: Tensor, k: int) -> list[int]:
    """The picks of a half, as many as are best on the other one."""
    total = torch.zeros(lists.num_trials)
    chosen: list[int] = []
    values: list[float] = []
    eye = torch.eye(lists.num_trials)
    for _ in range(min(MAX_PICKS, 2 * lists.num_trials)):
        scores = [lists.recall(total + one, own, k) for one in eye]
        best = max(range(lists.num_trials), key=lambda i: scores[i])
        total = total + eye[best]
        chosen.append(best)
        values.append(lists.recall(total, other, k))
    return chosen[: values.index(max(values)) + 1]


class ScoreLists:
    """The standardized scores of every trial on each user's best items of all trials.

    Args:
        trials: Embeddings by trial.
        train: Graph with the training interactions.
        val: Graph with the positives of the users.
    """

    def __init__(
        self, trials: Mapping[str, Tables], train: HeteroData, val: HeteroData
    ) -> None:
        sizes = train.num_nodes_dict
        user, item = positives(val)
        self.users, row = user.unique(return_inverse=True)
        self.num_users, self.num_trials = self.users.numel(), len(trials)
        seen = SeenItems.from_edge_index(
            train[INTERACTS].edge_index, sizes[USER], sizes[ITEM]
        )
        top = min(LIST, sizes[ITEM])
        best = [
            rank_items((x[USER], x[ITEM]), self.users, top, seen=seen).item_index
            for x in trials.values()
        ]
        items = torch.cat(best, dim=1).sort(dim=1).values
        items[:, 1:] = items[:, 1:].masked_fill(items[:, 1:] == items[:, :-1], -1)
        index = items.clamp(min=0)
        self.scores = torch.stack(
            [
                score_lists(x[USER], x[ITEM], self.users, index) / score_std(name, x)
                for name, x in trials.items()
            ]
        )
        """``[T, N, L]``; those of padding are ignored."""
        self.padding = items < 0
        flat = row * sizes[ITEM] + item
        self.is_positive = torch.isin(self.users_rows(index, sizes[ITEM]), flat)
        self.is_positive &= ~self.padding
        self.num_positives = torch.bincount(row, minlength=self.num_users)

    def users_rows(self, index: Tensor, num_items: int) -> Tensor:
        """One number per pair of a row and an item."""
        return torch.arange(self.num_users)[:, None] * num_items + index

    def recall(self, weights: Tensor, rows: Tensor, k: int) -> float:
        """Recall at ``k`` of the weighted sum, on some of the users."""
        used = weights.nonzero().view(-1)
        scores = torch.einsum('t,tnl->nl', weights[used], self.scores[used][:, rows])
        scores = scores.masked_fill(self.padding[rows], -torch.inf)
        top = scores.topk(min(k, scores.size(1)), dim=1).indices
        hits = self.is_positive[rows].gather(1, top).sum(1)
        return float((hits / self.num_positives[rows]).mean())
