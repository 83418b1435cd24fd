"""Exact top-K columns with a deterministic tie rule."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive

TIED_SHARE = 8
"""Ties are resolved in this many parts of a block of rows."""
_RUN = 64  # So many neighboring columns have one maximum.
_SERIAL = 2**15  # One thread works on so many numbers.
_LONG = 8  # Rows are long if they are so many times as long as the best runs.


class Ranking(NamedTuple):
    """The best items of each user, best first.

    If a user has fewer than ``k`` admissible items, the row is padded with item -1
    and score ``-inf``.
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
    if scores.device.type == 'cpu' and num_items >= _LONG * _RUN * k:
        return _top_of_runs(scores, k)
    # One more column shows whether the cut falls between equal scores.
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
        # A few rows at a time: comparing all of them needs several times the memory
        # of the scores.
        for few in rows.split(-(-scores.size(0) // TIED_SHARE)):
            index[few] = _cut_between_equals(scores[few], values[few, -1:], k)
        values, order = scores.gather(1, index).sort(
            dim=1, descending=True, stable=True
        )
        index = index.gather(1, order)
    return Ranking(index.masked_fill(values == -torch.inf, -1), values)


def _top_of_runs(scores: Tensor, k: int) -> Ranking:
    """As :func:`top_items`, among the ``k`` runs of columns with the best maxima.

    They contain the best ``k`` columns: a column of another run is behind the maxima
    of all these runs, which are larger, or equal and in lower columns.
    """
    num_items = scores.size(1)
    full = num_items // _RUN
    maxima = scores.new_empty(scores.size(0), -(-num_items // _RUN))
    runs = scores[:, : full * _RUN].unflatten(1, (-1, _RUN))
    torch.amax(runs, 2, out=maxima[:, :full])
    if full < maxima.size(1):
        maxima[:, full] = scores[:, full * _RUN :].amax(1)
    # So few rows at a time that torch does not wake up threads for them.
    size = min(-(-scores.size(0) // TIED_SHARE), _SERIAL // maxima.size(1))
    size = max(1, size)
    parts = zip(scores.split(size), maxima.split(size), strict=True)
    best = [_top_columns(*part, k) for part in parts]
    return Ranking(*(torch.cat(x) for x in zip(*best, strict=True)))


def _top_columns(scores: Tensor, maxima: Tensor, k: int) -> Ranking:
    """The best ``k`` columns, given the maximum of each run of columns."""
    run = top_items(maxima, k).item_index
    # Ascending; runs without a column that may be returned are behind the others.
    run = run.masked_fill(run < 0, maxima.size(1)).sort(dim=1).values
    column = run.unsqueeze(2) * _RUN + torch.arange(_RUN)
    column = column.flatten(1)
    beyond = column >= scores.size(1)
    column.masked_fill_(beyond, 0)
    best = top_items(scores.gather(1, column).masked_fill_(beyond, -torch.inf), k)
    index = column.gather(1, best.item_index.clamp(min=0))
    return Ranking(index.masked_fill_(best.item_index < 0, -1), best.scores)


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
    """Raises unless ``1 <= k <= num_items``."""
    check_positive('k', k)
    if k > num_items:
        raise ValueError(
            f"'k' must be at most the catalogue size of {num_items} (got {k})"
        )


def _cut_between_equals(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    """The ascending items of the top ``k``, where ``threshold`` ``[B, 1]`` is the
    k-th score and more items have it than there are places.
    """
    above, equal = scores > threshold, scores == threshold
    places = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= places))
    return chosen.nonzero()[:, 1].view(-1, k)
