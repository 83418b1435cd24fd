"""Ranking as a module without a data-dependent shape, so that it can be exported."""

import torch
from torch import Tensor

from promptmm_pyg.ranking import SeenItems


class TopItems(torch.nn.Module):
    r"""The exact best items of users, by row numbers, in one graph of tensor
    operations that :func:`torch.export.export` accepts with a dynamic batch.

    Equal scores are ordered by item number, also where they compete for the last
    place.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        k: The length of the lists, at most ``num_items``.
        seen: What to leave out for whom. (default: nothing)
        candidates: Boolean ``[num_items]``, ``False`` where nobody gets the item.
            (default: everywhere ``True``)

    Shapes:
        - **input:** rows of users :math:`(B)`
        - **output:** item rows :math:`(B, k)`, -1 where there are no more, and their
          scores :math:`(B, k)`, there ``-inf``

    Example:
        >>> module = TopItems(torch.eye(2), torch.eye(2), k=1)
        >>> module(torch.tensor([1]))
        (tensor([[1]]), tensor([[1.]]))
    """

    user_x: Tensor
    item_x: Tensor
    seen: Tensor
    candidates: Tensor

    def __init__(
        self,
        user_x: Tensor,
        item_x: Tensor,
        k: int,
        *,
        seen: SeenItems | None = None,
        candidates: Tensor | None = None,
    ) -> None:
        super().__init__()
        num_items = item_x.size(0)
        if not 1 <= k <= num_items:
            raise ValueError(f"'k' must be in [1, {num_items}] (got {k})")
        self.k = k
        device = item_x.device
        # Sorted keys `user * num_items + item`, and one above all there can be.
        keys = torch.empty(0, dtype=torch.long, device=device)
        if seen is not None:
            user = torch.repeat_interleave(seen.num_seen)
            keys = (user * num_items + seen.col).sort().values.to(device)
        end = keys.new_full((1,), user_x.size(0) * num_items)
        if candidates is None:
            candidates = torch.ones(num_items, dtype=torch.bool)
        self.register_buffer('user_x', user_x.detach().clone())
        self.register_buffer('item_x', item_x.detach().clone())
        self.register_buffer('seen', torch.cat([keys, end]))
        self.register_buffer('candidates', candidates.to(device))

    def forward(self, users: Tensor) -> tuple[Tensor, Tensor]:
        # Unlike indexing, this refuses negative rows.
        scores = self.user_x.index_select(0, users) @ self.item_x.t()
        item = torch.arange(self.item_x.size(0), device=users.device)
        key = users[:, None] * item.numel() + item
        is_seen = self.seen[torch.searchsorted(self.seen, key)] == key
        scores = scores.masked_fill(is_seen | ~self.candidates, -torch.inf)

        # Exactly k columns: those above the k-th score, then the first of its equals.
        threshold = scores.topk(self.k, dim=1).values[:, -1:]
        above, equal = scores > threshold, scores == threshold
        places = self.k - above.sum(1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(1) <= places))
        first = torch.where(chosen, -item, -item.numel()).topk(self.k, dim=1).values
        index = -first  # Ascending, so that a stable sort keeps ties in order.
        values, order = scores.gather(1, index).sort(
            dim=1, descending=True, stable=True
        )
        return index.gather(1, order).masked_fill(values == -torch.inf, -1), values
