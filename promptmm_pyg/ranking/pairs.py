"""Scores of given pairs, and the best of given candidates."""

import torch
from torch import Tensor

from promptmm_pyg.ranking.lists import score_dtype
from promptmm_pyg.ranking.seen_items import SeenItems, check_index
from promptmm_pyg.ranking.top import Ranking

_BLOCK = 2**22  # Numbers of each table that are multiplied at once.


def score_pairs(user_x: Tensor, item_x: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """The inner product of each pair of a user and an item, ``[N]``.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        users: Rows of users, ``[N]``.
        items: Rows of items, ``[N]``.

    Raises:
        ValueError: If an index is out of range, or the tables differ in width.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> score_pairs(x, x, torch.tensor([0, 1]), torch.tensor([1, 1]))
        tensor([3., 9.])
    """
    dtype = score_dtype(user_x, item_x)
    check_index('users', users, user_x.size(0))
    check_index('items', items, item_x.size(0))
    size = max(1, _BLOCK // max(1, user_x.size(1)))
    scores = torch.empty(users.numel(), dtype=dtype, device=item_x.device)
    with torch.no_grad():
        for start in range(0, users.numel(), size):
            rows = slice(start, start + size)
            left = user_x[users[rows].to(user_x.device)].to(item_x.device, dtype)
            right = item_x[items[rows].to(item_x.device)].to(dtype)
            scores[rows] = (left * right).sum(dim=1)
    return scores


def rank_candidates(
    user_x: Tensor,
    item_x: Tensor,
    users: Tensor,
    k: int,
    candidates: SeenItems,
    *,
    seen: SeenItems | None = None,
    mask: Tensor | None = None,
) -> Ranking:
    """The best ``k`` of the candidates of each user, ordered as by
    :func:`rank_items`. Only candidates are scored.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        users: The users to rank for, ``[N]``, repeats allowed.
        k: The length of the lists.
        candidates: The candidates of each user.
        seen: Items to leave out, user by user. (default: none)
        mask: Boolean ``[num_items]``; where false, nobody gets the item. (default:
            every item)

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [2.0]])
        >>> pairs = torch.tensor([[0, 0, 1], [0, 2, 1]])
        >>> candidates = SeenItems.from_edge_index(pairs, 3, 3)
        >>> rank_candidates(x, x, torch.tensor([0, 2]), 2, candidates).item_index
        tensor([[ 2,  0],
                [-1, -1]])
    """
    row, item = candidates.pairs(users)
    valid = torch.ones_like(item, dtype=torch.bool)
    if mask is not None:
        valid &= mask.to(item.device)[item]
    if seen is not None:
        seen_row, seen_item = (x.to(row.device) for x in seen.pairs(users))
        key = row * candidates.num_items + item
        valid &= ~torch.isin(key, seen_row * candidates.num_items + seen_item)
    row, item = row[valid], item[valid]
    scores = score_pairs(user_x, item_x, users.to(row.device)[row], item).to(row.device)
    if scores.isnan().any():
        raise ValueError("'scores' must contain numbers only (got NaN)")
    # Stable sorts: equal scores stay in the order of items.
    order = scores.sort(descending=True, stable=True).indices
    order = order[row[order].sort(stable=True).indices]
    row = row[order]
    count = row.bincount(minlength=users.numel())
    place = torch.arange(row.numel(), device=row.device)
    place -= (count.cumsum(0) - count)[row]
    best = place < k
    cell, order = (row[best], place[best]), order[best]
    index = item.new_full((users.numel(), k), -1)
    values = scores.new_full((users.numel(), k), -torch.inf)
    index[cell], values[cell] = item[order], scores[order]
    return Ranking(index, values)
