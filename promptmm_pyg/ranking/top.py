"""The exact best columns of a row with one tie rule; imports :mod:`torch` only."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive

TIED_SHARE = 8
"""Rows whose ties are settled at once: the rows of a block over this number."""


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
    num_items = scores.size(1)
    check_length(k, num_items)
    # One place more than asked for shows whether the cut falls between equals.
    values, index = scores.topk(min(k + 1, num_items), dim=1)
    if values[:, 0].isnan().any():  # NaN ranks above every number.
        raise ValueError("'scores' must contain numbers only (got NaN)")

    tied = values[:, 1:] == values[:, :-1]
    cut = tied[:, k - 1] if k < num_items else tied.new_zeros(tied.size(0))
    values, index = values[:, :k], index[:, :k]
    if tied.any():
        # Ascending items, then a stable sort by score: ties keep that order.
        index = index.sort(dim=1).values
        # Among items that may not be returned, order does not matter.
        rows = (cut & (values[:, -1] > -torch.inf)).nonzero().view(-1)
        # A few rows at a time: comparing all of them takes several times as much
        # memory as the scores do.
        for few in rows.split(-(-scores.size(0) // TIED_SHARE)):
            index[few] = _cut_between_equals(scores[few], values[few, -1:], k)
        values, order = scores.gather(1, index).sort(
            dim=1, descending=True, stable=True
        )
        index = index.gather(1, order)
    return Ranking(index.masked_fill(values == -torch.inf, -1), values)


def merge(first: Ranking, second: Ranking, k: int) -> Ranking:
    """The best ``k`` of two rankings of the same users, where every item of
    ``first`` is lower than every item of ``second``.
    """
    # Ties keep their order, which is that of the items.
    scores = torch.cat([first.scores, second.scores], dim=1)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    index = torch.cat([first.item_index, second.item_index], dim=1)
    return Ranking(index.gather(1, order[:, :k]), scores[:, :k])


def check_length(k: int, num_items: int) -> None:
    """Raises unless a list of ``k`` items can be cut from the catalogue."""
    check_positive('k', k)
    if k > num_items:
        raise ValueError(
            f"'k' must be at most the catalogue size of {num_items} (got {k})"
        )


def _cut_between_equals(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    """The ascending items of the top ``k`` where ``threshold`` ``[B, 1]`` is the
    score of the last place and more items have it than there are places.
    """
    above, equal = scores > threshold, scores == threshold
    places = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= places))
    return chosen.nonzero()[:, 1].view(-1, k)
