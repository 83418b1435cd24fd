"""How likely a mixture of teachers makes the validation positives."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM, USER, num_nodes_dict
from promptmm_pyg.distillation.ensemble import check_teachers, score_std
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.functional import score_all, score_lists, score_pairs
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets


class Problem(NamedTuple):
    """What the likelihood of a mixture is computed from."""

    tables: list[tuple[Tensor, Tensor]]
    """Users and items of every teacher, with standardized scores."""
    users: Tensor
    """The users with positives ``[N]``."""
    share: Tensor
    """Their share of all positives ``[N]``."""
    positive: Tensor
    """The mean score of a positive, teacher by teacher ``[T]``."""
    seen: SeenItems
    lists: Tensor | None
    """The items that compete for every user ``[N, L]``, ascending, -1 for none; all
    unseen ones if ``None``."""


class Likelihood(NamedTuple):
    """The mean negative log-likelihood of a positive, and its derivatives."""

    value: float
    gradient: Tensor
    hessian: Tensor


def problem_at(problem: Problem, scale: Tensor, batch_size: int) -> Likelihood:
    """The likelihood where the teachers' scores count ``scale`` ``[T]``."""
    value = 0.0
    gradient = -problem.positive
    hessian = gradient.new_zeros(scale.numel(), scale.numel())
    every = torch.arange(problem.users.numel(), device=problem.users.device)
    for rows in every.split(batch_size):
        share = problem.share[rows]
        scores, logits = _scores(problem, scale, rows)
        normalizer = logits.logsumexp(dim=1, keepdim=True)
        value += float(share @ normalizer.squeeze(1))
        weight = (logits - normalizer).exp_() * share.unsqueeze(1)  # [B, L]
        mean = torch.einsum('bi,tbi->tb', weight, scores)
        gradient = gradient + mean.sum(dim=1)
        # Centered first: sums of squares, where a difference would lose its digits.
        flat = scores.sub_((mean / share).unsqueeze(2)).flatten(1)
        hessian += (flat * weight.flatten()) @ flat.t()
    return Likelihood(value - float(scale @ problem.positive), gradient, hessian)


def _scores(problem: Problem, scale: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every teacher's scores ``[T, B, L]``, and their sum ``[B, L]``, minus infinity
    for what does not compete.
    """
    users = problem.users[rows]
    if problem.lists is None:
        scores = torch.stack([score_all(x[users], y) for x, y in problem.tables])
        logits = torch.einsum('t,tbi->bi', scale, scores)
        problem.seen.mask_(logits, users)
        return scores, logits
    items = problem.lists[rows]
    index = items.clamp(min=0)
    scores = torch.stack([score_lists(x, y, users, index) for x, y in problem.tables])
    logits = torch.einsum('t,tbi->bi', scale, scores)
    return scores, logits.masked_fill_(items < 0, -torch.inf)


def make_problem(
    targets: Mapping[str, SoftTargets],
    train: HeteroData,
    val: HeteroData,
    depth: int | None = None,
) -> Problem:
    """Standardizes the teachers, and finds what of ``val`` there is to predict, among
    the ``depth`` best unseen items of every teacher or, with ``None``, all of them.
    """
    sizes = num_nodes_dict(train)
    if num_nodes_dict(val) != sizes:
        raise ValueError(
            f"'train' and 'val' requires the same nodes (got {sizes} and "
            f'{num_nodes_dict(val)})'
        )
    check_teachers(targets, sizes)
    edge_index = train[INTERACTS].edge_index
    user, item = _unseen(*positives(val), edge_index.cpu(), sizes[ITEM])
    if user.numel() == 0:
        raise ValueError(
            "'val' requires positives outside of the training interactions (got none)"
        )
    tables = []
    for name, target in targets.items():
        item_x = target.x_dict[ITEM].double()
        # Shifts a user's scores, not its softmax; the second moments keep their digits.
        item_x = (item_x - item_x.mean(dim=0)) / score_std(name, target.x_dict)
        tables.append((target.x_dict[USER].double(), item_x))
    device = tables[0][0].device
    user, item = user.to(device), item.to(device)
    seen = SeenItems.from_edge_index(edge_index, sizes[USER], sizes[ITEM])
    users, place, count = user.unique(return_inverse=True, return_counts=True)
    lists = None
    if depth is not None:
        lists = _shortlists(tables, users, seen, min(depth, sizes[ITEM]))
        listed = (lists[place] == item[:, None]).any(dim=1)
        if not listed.any():
            raise ValueError(
                f"'depth' must reach a validation positive (got {depth}, and no "
                f'positive is among the best {depth} unseen items of a teacher). '
                f'Raise it'
            )
        user, item, place = user[listed], item[listed], place[listed]
        count = torch.bincount(place, minlength=users.numel())
        users, count, lists = users[count > 0], count[count > 0], lists[count > 0]
    return Problem(
        tables,
        users,
        count.double() / user.numel(),
        torch.stack([score_pairs(x, y, user, item).mean() for x, y in tables]),
        seen,
        lists,
    )


def _shortlists(
    tables: list[tuple[Tensor, Tensor]], users: Tensor, seen: SeenItems, depth: int
) -> Tensor:
    """The best items of all teachers together, each once."""
    best = [rank_items(pair, users, depth, seen=seen).item_index for pair in tables]
    items = torch.cat(best, dim=1).sort(dim=1).values
    repeated = items[:, 1:] == items[:, :-1]
    items[:, 1:] = items[:, 1:].masked_fill(repeated, -1)
    return items


def _unseen(
    user: Tensor, item: Tensor, edge_index: Tensor, num_items: int
) -> tuple[Tensor, Tensor]:
    seen = edge_index[0] * num_items + edge_index[1]
    unseen = ~torch.isin(user * num_items + item, seen)
    return user[unseen], item[unseen]
