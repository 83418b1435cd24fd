"""Exact lists and scores of given pairs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.functional import check_width
from promptmm_pyg.ranking._budget import Sizes, parse_memory, plan
from promptmm_pyg.ranking.seen_items import SeenItems, check_catalogue, check_index
from promptmm_pyg.ranking.top import Ranking, check_length, merge, top_items

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


ScoreFn = Callable[[Tensor], Tensor]
"""From users ``[B]`` to scores ``[B, num_items]``."""
_SCORES = 2**23  # So many are computed at once per thread of a CPU,
_FEWEST = 32  # for at least so many users.
_RARE = 16  # One in so many items is left out by its number, more by a mask.


def rank_items(
    score: ScoreFn | tuple[Tensor, Tensor],
    users: Tensor,
    k: int,
    *,
    seen: SeenItems | None = None,
    batch_size: int = 1024,
    candidates: Tensor | None = None,
    item_batch_size: int | None = None,
    memory_limit: int | str | None = None,
) -> Ranking:
    """The exact best ``k`` items of every user out of the whole catalogue.

    Higher score first, then lower item index, so equal scores give equal lists on
    every machine. No gradient is recorded; what ``score`` returns is not modified.

    Embeddings can be ranked in blocks of items as well as of users. The lists are the
    same up to rounding: the last digit of a product may depend on the block sizes.
    No intermediate tensor has more than ``batch_size * (item_batch_size + 2 * k)``
    entries, besides the lists ``[N, k]``, the vectors of a block ``[batch_size, D]``,
    those of its items if they are converted, and the items its users have seen.

    Scores of embeddings are computed in their precision, in float32 at least: in
    float16 or bfloat16, different scores would tie, or overflow. Such embeddings are
    converted block by block and may be memory-mapped.

    Args:
        score: A pair of user vectors ``[num_users, D]`` and item vectors
            ``[num_items, D]`` with inner products as scores, or a function from users
            ``[B]`` to scores ``[B, num_items]``.
        users: The users to rank for, ``[N]``, repeats allowed.
        k: The length of the lists.
        seen: Items to leave out, user by user. (default: none)
        batch_size: The largest number of users per block. (default: 1024)
        candidates: Boolean ``[num_items]``; where false, nobody gets the item.
            (default: every item)
        item_batch_size: The largest number of items per block, for embeddings only.
            (default: the whole catalogue)
        memory_limit: Bytes, or text such as ``'2GiB'``, for all intermediate tensors
            and the lists: both block sizes are reduced until they fit. The inputs and
            the workspace of matrix products (some MiB) are not counted. For
            embeddings only. (default: no limit)

    Raises:
        ValueError: If ``k`` exceeds the catalogue, a score is NaN, or sizes or
            indices do not match; before any work, if ``memory_limit`` is too small
            for the lists and the smallest block, with the smallest limit that works.

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [2.0]])
        >>> users = torch.tensor([0])
        >>> rank_items((x, x), users, k=2, memory_limit='1MiB').item_index
        tensor([[1, 2]])
    """
    check_positive('batch_size', batch_size)
    if seen is not None:
        check_index('users', users, seen.num_users)
    if callable(score):
        if item_batch_size is not None or memory_limit is not None:
            raise ValueError(
                "'item_batch_size' and 'memory_limit' require embeddings as 'score' "
                '(got a function, which scores whole rows). Lower batch_size instead'
            )
        rank = _rank_rows(score, k, seen, candidates)
    else:
        blocks = _ItemBlocks.build(score, users, k, seen, candidates)
        num_items = blocks.item_x.size(0)
        limit = num_items if item_batch_size is None else item_batch_size
        check_positive('item_batch_size', limit)
        if memory_limit is not None:
            budget = parse_memory(memory_limit)
            batch_size, limit = plan(blocks.sizes(users, k), budget, batch_size, limit)
        batch_size = min(batch_size, max(1, users.numel()))
        if limit >= num_items and blocks.item_x.device.type == 'cpu':
            # A few users at a time, whose scores stay in a cache.
            few = torch.get_num_threads() * _SCORES // num_items
            batch_size = min(batch_size, max(_FEWEST, few))
            blocks = replace(blocks, item_x=blocks.item_x.to(blocks.dtype))
        scores = blocks.item_x.new_empty(
            batch_size * min(limit, num_items), dtype=blocks.dtype
        )
        rank = partial(blocks.rank, k=k, item_batch_size=limit, memory=scores)
    with torch.no_grad():
        return _by_batches(rank, users, k, batch_size)


def _by_batches(
    rank: Callable[[Tensor], Ranking], users: Tensor, k: int, batch_size: int
) -> Ranking:
    if users.numel() <= batch_size:
        return rank(users)
    index = scores = None
    for start in range(0, users.numel(), batch_size):
        batch = slice(start, start + batch_size)
        part = rank(users[batch])
        if index is None or scores is None:
            # Concatenating the parts at the end would need twice the memory.
            index = part.item_index.new_empty(users.numel(), k)
            scores = part.scores.new_empty(users.numel(), k)
        index[batch], scores[batch] = part
    assert index is not None
    assert scores is not None
    return Ranking(index, scores)


def _rank_rows(
    score: ScoreFn, k: int, seen: SeenItems | None, candidates: Tensor | None
) -> Callable[[Tensor], Ranking]:
    """Ranks by a function that scores the whole catalogue."""

    def rank(users: Tensor) -> Ranking:
        # Scores are masked in place, and a function may return a view of its data.
        scores = score(users).clone()
        size = users.numel()
        if not (
            scores.dim() == 2 and scores.size(0) == size and scores.is_floating_point()
        ):
            raise ValueError(
                f"'score' must return floating point scores [{size}, num_items] "
                f'(got {list(scores.size())}, {scores.dtype})'
            )
        check_catalogue(scores.size(1), seen, candidates)
        if candidates is not None:
            scores.masked_fill_(~candidates.to(scores.device), -torch.inf)
        if seen is not None:
            seen.mask_(scores, users)
        return top_items(scores, k)

    return rank


@dataclass(frozen=True)
class _ItemBlocks:
    """Ranks embeddings with one block of scores in memory at a time."""

    user_x: Tensor
    item_x: Tensor
    dtype: torch.dtype
    """Of the scores."""
    seen: SeenItems | None
    candidates: Tensor | None
    left_out: Tensor | None
    """The other items, ascending, if they are few."""

    @classmethod
    def build(
        cls,
        tables: tuple[Tensor, Tensor],
        users: Tensor,
        k: int,
        seen: SeenItems | None,
        candidates: Tensor | None,
    ) -> '_ItemBlocks':
        """Checks that everything fits."""
        user_x, item_x = tables
        dtype = score_dtype(user_x, item_x)
        check_index('users', users, user_x.size(0))
        check_length(k, item_x.size(0))
        check_catalogue(item_x.size(0), seen, candidates)
        left_out = None
        if candidates is not None and candidates.device.type == 'cpu':
            # NumPy does not wake up threads for so little.
            left_out = torch.from_numpy((~candidates.numpy()).nonzero()[0])
            if left_out.numel() * _RARE > candidates.numel():
                left_out = None
        return cls(user_x, item_x, dtype, seen, candidates, left_out)

    def sizes(self, users: Tensor, k: int) -> Sizes:
        """What the memory of the ranking depends on."""
        on_cpu = self.item_x.device.type == 'cpu'
        return Sizes(
            num_users=users.numel(),
            num_items=self.item_x.size(0),
            k=k,
            width=self.item_x.size(1),
            score_size=self.dtype.itemsize,
            copied_size=self.dtype.itemsize if self.item_x.dtype != self.dtype else 0,
            seen_before=None if self.seen is None else self.seen.seen_before(users),
            num_threads=torch.get_num_threads() if on_cpu else 1,
        )

    def rank(
        self, users: Tensor, k: int, item_batch_size: int, memory: Tensor
    ) -> Ranking:
        """The best ``k`` items of ``users`` ``[B]``.

        Args:
            users: Rows of users.
            k: The length of the lists.
            item_batch_size: The largest number of items that are scored at once.
            memory: The scores are written here, for new memory costs as much as they.
        """
        rows = self.user_x[users.to(self.user_x.device)].to(self.dtype)
        starts = range(0, self.item_x.size(0), item_batch_size)
        seen = _seen_by_block(self.seen, users, starts, self.item_x.device)
        first = slice(0, item_batch_size)
        best = self._rank_block(rows, first, k, seen[0], memory)
        for start, pairs in zip(starts[1:], seen[1:], strict=True):
            items = slice(start, start + item_batch_size)
            block = self._rank_block(rows, items, k, pairs, memory)
            best = merge(best, block, k)
        return best

    def _rank_block(
        self,
        rows: Tensor,
        items: slice,
        k: int,
        seen: tuple[Tensor, Tensor] | None,
        memory: Tensor,
    ) -> Ranking:
        item_x = self.item_x[items].to(self.dtype)
        shape = rows.size(0), item_x.size(0)
        scores = memory[: shape[0] * shape[1]].view(shape)
        # Under autocast the scores would be rounded again.
        with torch.autocast(rows.device.type, enabled=False):
            torch.mm(rows, item_x.t(), out=scores)
        if self.left_out is not None:
            ends = torch.tensor([items.start, items.start + item_x.size(0)])
            start, end = torch.searchsorted(self.left_out, ends).tolist()
            left_out = self.left_out[start:end] - items.start
            scores.index_fill_(1, left_out.to(scores.device), -torch.inf)
        elif self.candidates is not None:
            mask = ~self.candidates[items].to(scores.device)
            scores.masked_fill_(mask, -torch.inf)
        if seen is not None:
            place = (seen[0], seen[1] - items.start)
            if scores.device.type == 'cpu':  # NumPy wakes up no threads.
                scores.numpy()[place] = -torch.inf
            else:
                scores[place] = -torch.inf
        index, values = top_items(scores, min(k, scores.size(1)))
        if items.start > 0:
            index[index >= 0] += items.start  # Padding stays -1.
        return Ranking(index, values)


def score_dtype(user_x: Tensor, item_x: Tensor) -> torch.dtype:
    """The precision of the scores of two tables, float32 at least."""
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
