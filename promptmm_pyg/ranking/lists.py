"""Exact top-K lists with one tie rule; imports :mod:`torch` only."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._checks import check_positive
from promptmm_pyg.ranking.seen_items import SeenItems, check_index
from promptmm_pyg.scoring import score_all

ScoreFn = Callable[[Tensor], Tensor]
"""Users ``[B]`` to their scores of every item ``[B, num_items]``."""


class Ranking(NamedTuple):
    """The best items of each user, best first.

    Where a user has fewer admissible items than asked for, the row ends in item -1
    with score ``-inf``.
    """

    item_index: Tensor
    """Items ``[N, k]``."""
    scores: Tensor
    """Their scores ``[N, k]``."""


def top_items(scores: Tensor, k: int) -> Ranking:
    """The exact best ``k`` columns of every row: higher score first, then lower
    index, also where equal scores compete for the last place.

    Args:
        scores: Scores ``[B, num_items]``; ``-inf`` marks items that are never
            returned.
        k: The length of the lists.

    Raises:
        ValueError: If ``k`` exceeds the number of columns or a score is NaN.

    Example:
        >>> top_items(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), k=2).item_index
        tensor([[1, 2]])
    """
    check_positive('k', k)
    num_items = scores.size(1)
    if k > num_items:
        raise ValueError(
            f"'k' needs to be at most the catalogue size of {num_items} (got {k})"
        )
    # One place more than asked for shows whether the cut falls between equals.
    values, index = scores.topk(min(k + 1, num_items), dim=1)
    if values[:, 0].isnan().any():  # NaN ranks above every number.
        raise ValueError("'scores' needs to hold numbers only (got NaN)")

    tied = values[:, 1:] == values[:, :-1]
    cut = tied[:, k - 1] if k < num_items else tied.new_zeros(tied.size(0))
    values, index = values[:, :k], index[:, :k]
    if tied.any():
        # Ascending items, then a stable sort by score: ties keep that order.
        index = index.sort(dim=1).values
        # Among items that may not be returned, order does not matter.
        rows = (cut & (values[:, -1] > -torch.inf)).nonzero().view(-1)
        if rows.numel() > 0:
            index[rows] = _cut_between_equals(scores[rows], values[rows, -1:], k)
        values, order = scores.gather(1, index).sort(
            dim=1, descending=True, stable=True
        )
        index = index.gather(1, order)
    return Ranking(index.masked_fill(values == -torch.inf, -1), values)


def rank_items(
    score: ScoreFn | tuple[Tensor, Tensor],
    users: Tensor,
    k: int,
    *,
    seen: SeenItems | None = None,
    batch_size: int = 1024,
    candidates: Tensor | None = None,
) -> Ranking:
    """The exact best ``k`` items of every user out of the whole catalogue.

    Higher score first, then lower item index, so equal scores give equal lists on
    every machine. No gradient is recorded; what ``score`` returns is not modified.

    Args:
        score: A pair of user vectors ``[num_users, D]`` and item vectors
            ``[num_items, D]`` compared by inner product, or a function from users
            ``[B]`` to scores ``[B, num_items]``.
        users: The users to rank for, ``[N]``, repeats allowed.
        k: The length of the lists.
        seen: Items to leave out, user by user. (default: none)
        batch_size: How many users are scored at once; memory grows with
            ``batch_size * num_items``. (default: 1024)
        candidates: Boolean ``[num_items]``; where false, nobody gets the item.
            (default: every item)

    Raises:
        ValueError: If ``k`` exceeds the catalogue, a score is NaN, or sizes or
            indices do not fit each other.
    """
    check_positive('batch_size', batch_size)
    score_block = _copy_of(score) if callable(score) else _inner_product(*score)
    if seen is not None:
        check_index('users', users, seen.num_users)

    blocks = []
    with torch.no_grad():
        for block_users in torch.split(users, batch_size):
            scores = score_block(block_users)
            _check_block(scores, block_users.numel(), seen, candidates)
            if candidates is not None:
                scores.masked_fill_(~candidates.to(scores.device), -torch.inf)
            if seen is not None:
                seen.mask_(scores, block_users)
            blocks.append(top_items(scores, k))
    return Ranking(
        torch.cat([block.item_index for block in blocks]),
        torch.cat([block.scores for block in blocks]),
    )


def _cut_between_equals(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    """The ascending items of the top ``k`` where ``threshold`` ``[B, 1]`` is the
    score of the last place and more items have it than there are places.
    """
    above, equal = scores > threshold, scores == threshold
    places = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= places))
    return chosen.nonzero()[:, 1].view(-1, k)


def _copy_of(score: ScoreFn) -> ScoreFn:
    # The block is masked in place, and a function may return a view of its table.
    return lambda users: score(users).clone()


def _inner_product(user_x: Tensor, item_x: Tensor) -> ScoreFn:
    def score(users: Tensor) -> Tensor:
        check_index('users', users, user_x.size(0))
        return score_all(user_x[users.to(user_x.device)], item_x)

    return score


def _check_block(
    scores: Tensor, size: int, seen: SeenItems | None, candidates: Tensor | None
) -> None:
    if scores.dim() != 2 or scores.size(0) != size or not scores.is_floating_point():
        raise ValueError(
            f"'score' needs to return floating point scores [{size}, num_items] "
            f'(got {list(scores.size())}, {scores.dtype})'
        )
    num_items = scores.size(1)
    if seen is not None and seen.num_items != num_items:
        raise ValueError(
            "'seen' needs to cover the catalogue that is scored "
            f'(got {seen.num_items} and {num_items} items)'
        )
    if candidates is not None and (
        candidates.dtype != torch.bool or list(candidates.size()) != [num_items]
    ):
        raise ValueError(
            f"'candidates' needs to be a boolean mask of shape [{num_items}] "
            f'(got {list(candidates.size())}, {candidates.dtype})'
        )
