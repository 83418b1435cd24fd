"""Which trials make the ensemble, and with which weights, guarded against
over-fitting validation.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM, NODE_TYPES, USER
from promptmm_pyg.distillation.ensemble import best_items, score_std
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training.validation import sample_users

Tables = Mapping[str, Tensor]
MAX_PICKS = 12
ROUNDS = 5
"""Of halves."""
MIN_WEIGHT = 0.01
"""Smaller weights are set to zero."""
_STEPS = 60  # Of L-BFGS.
_BLOCK = 256  # Users.


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


def as_targets(tables: Tables) -> SoftTargets:
    """Embeddings as a teacher without modalities."""
    return SoftTargets({key: tables[key] for key in NODE_TYPES}, {})


def choose_ensemble(
    trials: Mapping[str, Tables],
    train: HeteroData,
    val: HeteroData,
    *,
    k: int = 20,
    max_users: int = 4000,
    seed: int = 0,
) -> Choice:
    """Chooses trials and their weights, the mean of two estimates. The first trial is
    always among them.

    * Bagged ensemble selection (`"Ensemble Selection from Libraries of Models"
      <https://doi.org/10.1145/1015330.1015432>`_). The validation users are split in
      halves, several times. On each half, trials are added one by one, with
      replacement, as long as the sum of the standardized scores ranks better on the
      other half. The weight of a trial is its mean share of these sums, so that a trial
      that was lucky on one half counts little.
    * The weights that maximize the likelihood of the positives among the best items of
      all trials, as in :func:`~promptmm_pyg.distillation.fit_ensemble_weights`.

    Args:
        trials: Embeddings of users and items by trial; the best one first.
        train: Graph whose message edges are the training interactions.
        val: Graph with validation positives.
        k: The cutoff of Recall. (default: ``20``)
        max_users: Validation users that are looked at, at most. (default: ``4000``)
        seed: Of sample and halves. (default: ``0``)
    """
    lists = ScoreLists(trials, train, sample_users(val, max_users, seed), k)
    every = torch.arange(lists.num_users)
    judged = 0.0
    for own, other in _halves(every, seed):
        judged += lists.recall(_weights(lists, own, seed), other) / 2
    weights = _weights(lists, every, seed)
    names = list(trials)
    alone = torch.eye(len(names))[0]
    single, fitted = lists.recall(alone, every), lists.recall(weights, every)
    if judged <= single or fitted <= single:  # Nothing is gained by a sum.
        return Choice({names[0]: 1.0}, single, single, single)
    chosen = {n: w for n, w in zip(names, weights.tolist(), strict=True) if w > 0}
    return Choice(chosen, fitted, judged, single)


def _score_lists(tables: Tables, users: Tensor, items: Tensor) -> Tensor:
    """The scores of a list per user: for long lists, all scores cost less."""
    parts = zip(users.split(_BLOCK), items.split(_BLOCK), strict=True)
    return torch.cat(
        [(tables[USER][u] @ tables[ITEM].t()).gather(1, i) for u, i in parts]
    )


def ranks_items(name: str, tables: Tables) -> bool:
    """Whether all embeddings are finite and their scores differ between items."""
    try:
        return math.isfinite(score_std(name, tables))
    except ValueError:
        return False


def _halves(rows: Tensor, seed: int) -> tuple[tuple[Tensor, Tensor], ...]:
    order = torch.randperm(
        rows.numel(), generator=torch.Generator().manual_seed(seed + 1)
    )
    first, second = rows[order].tensor_split(2)
    return (first, second), (second, first)


def _weights(lists: 'ScoreLists', rows: Tensor, seed: int) -> Tensor:
    """The mean of both estimates on ``rows``, without negligible ones but the first."""
    mean = (_bagged(lists, rows, seed) + lists.most_likely(rows)) / 2
    mean = torch.where(mean < MIN_WEIGHT, 0.0, mean)
    mean[0].clamp_(min=MIN_WEIGHT)
    return mean / mean.sum()


def _bagged(lists: 'ScoreLists', rows: Tensor, seed: int) -> Tensor:
    """The mean shares of the trials in the sums that are chosen on halves of rows."""
    shares = []
    for number in range(ROUNDS):
        for own, other in _halves(rows, seed + 100 * (number + 1)):
            picks = lists.forward(own, other)
            counts = torch.bincount(torch.tensor(picks), minlength=lists.num_trials)
            shares.append(counts / counts.sum())
    return torch.stack(shares).mean(dim=0)


class ScoreLists:
    """How the standardized scores of every trial rank the positives among each user's
    best items of all trials.

    Args:
        trials: Embeddings by trial.
        train: Graph with the training interactions.
        val: Graph with the positives of the users.
        k: The cutoff of Recall.
        list_size: The best items of every trial. (default: ``50``)
    """

    def __init__(
        self,
        trials: Mapping[str, Tables],
        train: HeteroData,
        val: HeteroData,
        k: int,
        list_size: int = 50,
    ) -> None:
        sizes = train.num_nodes_dict
        user, item = positives(val)
        users, row = user.unique(return_inverse=True)
        self.num_users, self.num_trials, self.k = users.numel(), len(trials), k
        seen = SeenItems.from_edge_index(
            train[INTERACTS].edge_index, sizes[USER], sizes[ITEM]
        )
        tables = [(x[USER], x[ITEM]) for x in trials.values()]
        items = best_items(tables, users, seen, min(list_size, sizes[ITEM]))
        # Shorter lists end with -1.
        items = items.sort(dim=1, descending=True).values
        items = items[:, : int((items >= 0).sum(dim=1).max())]
        num_positives = torch.bincount(row)
        place = (items[row] == item[:, None]).nonzero()
        row, column = row[place[:, 0]], place[:, 1:]
        is_filler = items[row] < 0
        index = items.clamp(min=0)
        margins = []
        for name, x in trials.items():
            scores = _score_lists(x, users, index)[row] / score_std(name, x)
            margin = scores - scores.gather(1, column)
            margins.append(margin.masked_fill(is_filler, -torch.inf))
        self.margins = torch.stack(margins)
        """Scores of the items of a list less that of a positive, ``[T, P, L]``."""
        self.row = row
        """The user of each positive that is in a list, ``[P]``."""
        self.share = 1 / num_positives[row]

    def recall(self, weights: Tensor, rows: Tensor) -> float:
        """Recall of the weighted sum, on some of the users."""
        used = weights.nonzero().view(-1)
        place = torch.isin(self.row, rows).nonzero().view(-1)
        margins = self.margins[used][:, place]
        total = (weights[used, None, None] * margins).sum(dim=0)
        return self._hits(total, place) / rows.numel()

    def forward(self, own: Tensor, other: Tensor) -> list[int]:
        """The picks on some users, as many as are best on others."""
        places = [torch.isin(self.row, x).nonzero().view(-1) for x in (own, other)]
        margins, others = (self.margins[:, place] for place in places)
        total, judged = torch.zeros_like(margins[0]), torch.zeros_like(others[0])
        picks: list[int] = []
        values: list[float] = []
        for _ in range(MAX_PICKS):
            scores = [self._hits(total + margin, places[0]) for margin in margins]
            best = max(range(self.num_trials), key=lambda i: scores[i])
            total += margins[best]
            judged += others[best]
            picks.append(best)
            values.append(self._hits(judged, places[1]))
        return picks[: values.index(max(values)) + 1]

    def most_likely(self, rows: Tensor | None = None) -> Tensor:
        """The weights with sum one under which the positives of some users, or of all,
        are most likely among the items of their lists; every user counts the same.
        """
        rows = torch.arange(self.num_users) if rows is None else rows
        place = torch.isin(self.row, rows).nonzero().view(-1)
        margins, share = self.margins[:, place], self.share[place]
        is_filler = margins[0] == -torch.inf
        margins = margins.masked_fill(is_filler, 0.0)
        root = torch.full((self.num_trials,), 0.5).requires_grad_()  # Not negative.
        optimizer = torch.optim.LBFGS(
            [root], max_iter=_STEPS, line_search_fn='strong_wolfe'
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = torch.einsum('t,tpl->pl', root.square(), margins)
            total = total.masked_fill(is_filler, -torch.inf)
            value = share @ total.logsumexp(dim=1) / share.sum()
            value.backward()
            return value

        optimizer.step(closure)
        weights = root.detach().square()
        return weights / weights.sum()

    def _hits(self, margins: Tensor, place: Tensor) -> float:
        """The sum of the users' recall by the margins of some positives."""
        is_hit = (margins > 0).sum(dim=1) < self.k
        return float(self.share[place][is_hit].sum())
