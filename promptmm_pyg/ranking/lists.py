"""The best items of many users; imports :mod:`torch` only."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.ranking._budget import Sizes, parse_memory, plan
from promptmm_pyg.ranking._item_blocks import ItemBlocks, score_dtype
from promptmm_pyg.ranking.seen_items import SeenItems, check_catalogue, check_index
from promptmm_pyg.ranking.top import Ranking, check_length, top_items

ScoreFn = Callable[[Tensor], Tensor]
"""Users ``[B]`` to their scores of every item ``[B, num_items]``."""


def rank_items(
    score: ScoreFn | tuple[Tensor, Tensor],
    users: Tensor,
    k: int,
    *,
    seen: SeenItems | None = None,
    batch_size: int = 1024,
    candidates: Tensor | None = None,
    item_batch_size: int | None = None,
    memory: int | str | None = None,
) -> Ranking:
    """The exact best ``k`` items of every user out of the whole catalogue.

    Higher score first, then lower item index, so equal scores give equal lists on
    every machine. No gradient is recorded; what ``score`` returns is not modified.

    A pair of tables may be ranked in blocks of items as well as of users. The lists
    are the same, but for the rounding of a product, whose last digit may depend on
    the size of the block, as it does with ``batch_size``. No tensor that is made then
    has more than ``batch_size * (item_batch_size + 2 * k)`` entries, besides the lists
    themselves ``[N, k]``, the vectors of a block ``[batch_size, D]``, those of its
    items if they are converted, and what its users have seen.

    Scores of tables are of their precision, yet at least float32: in float16 or
    bfloat16, items would tie whose scores differ, or overflow. Such tables are
    converted block by block and may be memory-mapped.

    Args:
        score: A pair of user vectors ``[num_users, D]`` and item vectors
            ``[num_items, D]`` compared by inner product, or a function from users
            ``[B]`` to scores ``[B, num_items]``.
        users: The users to rank for, ``[N]``, repeats allowed.
        k: The length of the lists.
        seen: Items to leave out, user by user. (default: none)
        batch_size: How many users are scored at once at most. (default: 1024)
        candidates: Boolean ``[num_items]``; where false, nobody gets the item.
            (default: every item)
        item_batch_size: How many items are scored at once at most; for a pair of
            tables only. (default: the whole catalogue)
        memory: Bytes, or text such as ``'2GiB'``, that every tensor made on the way
            fits in together, the lists included: both block sizes are lowered until
            it holds. The inputs and the workspace of matrix products (some MiB) are
            not counted. For a pair of tables only. (default: no bound)

    Raises:
        ValueError: If ``k`` exceeds the catalogue, a score is NaN, or sizes or
            indices do not fit each other; before any work, if ``memory`` cannot hold
            the lists and the smallest block, with the bytes that would do.

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [2.0]])
        >>> rank_items((x, x), torch.tensor([0]), k=2, memory='1MiB').item_index
        tensor([[1, 2]])
    """
    check_positive('batch_size', batch_size)
    if seen is not None:
        check_index('users', users, seen.num_users)
    if callable(score):
        if item_batch_size is not None or memory is not None:
            raise ValueError(
                "'item_batch_size' and 'memory' requires 'score' to be a pair of "
                'tables '
                '(got a function, which scores whole rows). Lower batch_size instead'
            )
        rank = _rank_rows(score, k, seen, candidates)
    else:
        blocks = _item_blocks(score, users, k, seen, candidates)
        limit = blocks.num_items if item_batch_size is None else item_batch_size
        check_positive('item_batch_size', limit)
        if memory is not None:
            budget = parse_memory(memory)
            batch_size, limit = plan(
                _sizes(blocks, users, k), budget, batch_size, limit
            )
        rank = partial(blocks.rank, k=k, item_batch_size=limit)
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
            # Joining the parts at the end would take the memory of the lists twice.
            index = part.item_index.new_empty(users.numel(), k)
            scores = part.scores.new_empty(users.numel(), k)
        index[batch], scores[batch] = part
    assert index is not None
    assert scores is not None
    return Ranking(index, scores)


def _rank_rows(
    score: ScoreFn, k: int, seen: SeenItems | None, candidates: Tensor | None
) -> Callable[[Tensor], Ranking]:
    """Lists from a function that scores the whole catalogue at once."""

    def rank(users: Tensor) -> Ranking:
        # The block is masked in place, and a function may return a view of its table.
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


def _item_blocks(
    tables: tuple[Tensor, Tensor],
    users: Tensor,
    k: int,
    seen: SeenItems | None,
    candidates: Tensor | None,
) -> ItemBlocks:
    user_x, item_x = tables
    dtype = score_dtype(user_x, item_x)
    check_index('users', users, user_x.size(0))
    check_length(k, item_x.size(0))
    check_catalogue(item_x.size(0), seen, candidates)
    return ItemBlocks(user_x, item_x, dtype, seen, candidates)


def _sizes(blocks: ItemBlocks, users: Tensor, k: int) -> Sizes:
    score_size = blocks.dtype.itemsize
    on_cpu = blocks.item_x.device.type == 'cpu'
    return Sizes(
        num_users=users.numel(),
        num_items=blocks.num_items,
        k=k,
        width=blocks.item_x.size(1),
        score_size=score_size,
        copied_size=score_size if blocks.item_x.dtype != blocks.dtype else 0,
        seen_before=None if blocks.seen is None else blocks.seen.seen_before(users),
        num_threads=torch.get_num_threads() if on_cpu else 1,
    )
