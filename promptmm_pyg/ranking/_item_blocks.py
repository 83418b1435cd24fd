"""Lists cut from two tables, one block of items after the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from promptmm_pyg.functional import check_width, score_all
from promptmm_pyg.ranking.seen_items import SeenItems
from promptmm_pyg.ranking.top import Ranking, merge, top_items


@dataclass(frozen=True)
class ItemBlocks:
    """The best items of a few users, with one block of scores in memory at a time."""

    user_x: Tensor
    item_x: Tensor
    dtype: torch.dtype
    """Of the scores."""
    seen: SeenItems | None
    candidates: Tensor | None

    @property
    def num_items(self) -> int:
        """The size of the catalogue."""
        return self.item_x.size(0)

    def rank(self, users: Tensor, k: int, item_batch_size: int) -> Ranking:
        """The best ``k`` items of ``users`` ``[B]``."""
        rows = self.user_x[users.to(self.user_x.device)].to(self.dtype)
        starts = range(0, self.num_items, item_batch_size)
        seen = _seen_by_block(self.seen, users, starts, self.item_x.device)
        best = self._rank_block(rows, slice(0, item_batch_size), k, seen[0])
        for start, pairs in zip(starts[1:], seen[1:], strict=True):
            items = slice(start, start + item_batch_size)
            best = merge(best, self._rank_block(rows, items, k, pairs), k)
        return best

    def _rank_block(
        self, rows: Tensor, items: slice, k: int, seen: tuple[Tensor, Tensor] | None
    ) -> Ranking:
        # Under autocast the scores would be rounded again.
        with torch.autocast(rows.device.type, enabled=False):
            scores = score_all(rows, self.item_x[items].to(self.dtype))
        if self.candidates is not None:
            left_out = ~self.candidates[items].to(scores.device)
            scores.masked_fill_(left_out, -torch.inf)
        if seen is not None:
            scores[seen[0], seen[1] - items.start] = -torch.inf
        index, values = top_items(scores, min(k, scores.size(1)))
        if items.start > 0:
            index[index >= 0] += items.start  # A place that is empty stays so.
        return Ranking(index, values)


def score_dtype(user_x: Tensor, item_x: Tensor) -> torch.dtype:
    """The precision of the scores of two tables: theirs, or single precision where
    that is coarser, since half precision makes equals of items that are none.
    """
    check_width(user_x, item_x)
    for name, x in (('item_x', item_x), ('user_x', user_x)):
        if not x.is_floating_point():
            raise ValueError(
                f"'{name}' must contain floating point numbers (got {x.dtype})"
            )
    dtype = torch.promote_types(user_x.dtype, item_x.dtype)
    return torch.promote_types(dtype, torch.float32)


def _seen_by_block(
    seen: SeenItems | None, users: Tensor, starts: range, device: torch.device
) -> list[tuple[Tensor, Tensor]] | list[None]:
    """The pairs of row and item to leave out of each block of items."""
    if seen is None:
        return [None] * len(starts)
    row, item = (x.to(device) for x in seen.pairs(users))
    if len(starts) == 1:
        return [(row, item)]
    item, order = item.sort()
    row = row[order]
    first = torch.tensor(starts[1:], device=device)
    cuts = torch.searchsorted(item, first).tolist()
    return list(zip(row.tensor_split(cuts), item.tensor_split(cuts), strict=True))
