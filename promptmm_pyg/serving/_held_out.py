"""How well items are ranked for the users who took them."""

import torch
from torch import Tensor

from promptmm_pyg.ranking import SeenItems

_MAX_PAIRS = 4096
_BLOCK = 2**24  # Scores held at once.


def mean_gain(
    user_x: Tensor, item_x: Tensor, seen: SeenItems, items: Tensor, *, seed: int
) -> float:
    """The mean of ``1 / log2(1 + rank)`` over the interactions with ``items``.

    The rank of an item is that among itself and what the user has not seen; of equal
    scores, half count as better. Beyond 4096 interactions, as many are drawn.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        seen: The interactions.
        items: The items asked about.
        seed: Of the draw.
    """
    wanted = torch.zeros(item_x.size(0), dtype=torch.bool)
    wanted[items] = True
    pairs = wanted[seen.col].nonzero().view(-1)
    if pairs.numel() > _MAX_PAIRS:
        generator = torch.Generator().manual_seed(seed)
        pairs = pairs[torch.randperm(pairs.numel(), generator=generator)[:_MAX_PAIRS]]
    user = torch.repeat_interleave(seen.num_seen)[pairs]
    item = seen.col[pairs]
    gains = []
    size = max(1, _BLOCK // max(1, item_x.size(0)))
    for users, targets in zip(user.split(size), item.split(size), strict=True):
        scores = user_x[users] @ item_x.t()
        own = scores.gather(1, targets[:, None])
        seen.mask_(scores, users)
        rank = 1 + (scores > own).sum(1) + 0.5 * (scores == own).sum(1)
        gains.append(1 / torch.log2(1 + rank))
    return float(torch.cat(gains).double().mean())
