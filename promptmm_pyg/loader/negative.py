"""Uniform negatives that are never positives, without rejection."""

from functools import cached_property

import torch
from torch import Tensor

from promptmm_pyg._utils import check_ids, check_positive, checked_edges

# Up to here, membership is looked up in a table; beyond, by binary search.
_TABLE_BYTES = 2**27


class ExactNegativeSampler:
    r"""Draws items uniformly among those without a training interaction of the user, of
    the whole catalogue or of some ``items``.

    No draw is rejected. With the user's items sorted, :math:`p_0 < p_1 < \dots`, the
    :math:`r`-th other item is :math:`r` plus the number of :math:`j` with
    :math:`p_j - j \leq r`, computed by one binary search. The cost does not depend on
    the number of interactions. Users in ascending order are several times faster than
    users in random order, as the searches then read neighboring memory.

    Args:
        edge_index: Training interactions (user, item), ``[2, E]``; repeats count
            once.
        num_users: The number of users.
        num_items: The number of items.
        items: Ids of the items to draw from, ``[N]``, in any order; repeats count once.
            For cold-start training, leave cold items out: they are no negatives.
            (default: every item)

    Raises:
        ValueError: If a shape is wrong, an id is out of range, or ``items`` are empty
            or not ids.

    Example:
        >>> sampler = ExactNegativeSampler(torch.tensor([[0, 0], [0, 2]]), 1, 4)
        >>> draws = sampler.sample(torch.zeros(100, dtype=torch.long))
        >>> draws.unique()
        tensor([1, 3])
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        items: Tensor | None = None,
    ) -> None:
        check_positive('num_users', num_users)
        check_positive('num_items', num_items)
        edge_user, edge_item = checked_edges(edge_index, (num_users, num_items))
        self.num_users = num_users
        self.num_items = num_items
        self._flat = torch.unique(edge_user * num_items + edge_item)
        user, item = self._flat // num_items, self._flat % num_items
        self._pool = None if items is None else _pool(items, num_items, user.device)
        self._num_drawn = num_items if self._pool is None else self._pool.numel()
        if self._pool is not None:
            # Below, items are positions in `items`.
            position = torch.full((num_items,), -1, device=user.device)
            position[self._pool] = torch.arange(self._num_drawn, device=user.device)
            item = position[item]
            user, item = user[item >= 0], item[item >= 0]
        degree = torch.bincount(user, minlength=num_users)
        self._start = degree.cumsum(0) - degree
        self._num_free = self._num_drawn - degree
        rank = torch.arange(user.numel(), device=user.device) - self._start[user]
        # Ascending over all users, as p_j - j is at most the number of items.
        self._key = user * (self._num_drawn + 1) + (item - rank)

    def sample(
        self,
        users: Tensor,
        num_negatives: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Returns one negative per user ``[B]``, or several ``[B, num_negatives]``,
        drawn independently.

        Args:
            users: User ids ``[B]``.
            num_negatives: The number per user. (default: one, shape ``[B]``)
            generator: Source of randomness. (default: the global one)

        Raises:
            ValueError: If a user is out of range or has no negative, or
                ``num_negatives`` is not positive.
        """
        if num_negatives is not None:
            check_positive('num_negatives', num_negatives)
        self.check_users(users)
        users = users.long()
        size = (users.numel(), 1 if num_negatives is None else num_negatives)
        uniform = torch.rand(
            size, dtype=torch.double, generator=generator, device=users.device
        )
        # Double: a float has too few values for a large catalogue.
        rank = (uniform * self._num_free.index_select(0, users)[:, None]).long()
        query = users[:, None] * (self._num_drawn + 1) + rank
        num_smaller = torch.searchsorted(self._key, query, right=True)
        item = rank + num_smaller - self._start.index_select(0, users)[:, None]
        if self._pool is not None:
            item = self._pool[item]
        return item[:, 0] if num_negatives is None else item

    @cached_property
    def _table(self) -> Tensor:
        """One byte per pair, built on first use."""
        table = torch.zeros(
            self.num_users * self.num_items, dtype=torch.bool, device=self._flat.device
        )
        table[self._flat] = True
        return table

    def check_users(self, users: Tensor) -> None:
        """Raises a ``ValueError`` unless every user exists and has a negative.

        Args:
            users: User ids ``[B]``.
        """
        check_ids('users', users, self.num_users)
        full = self._num_free.index_select(0, users.long()) == 0
        if bool(full.any()):
            which = 'items' if self._pool is None else "of 'items'"
            raise ValueError(
                f"'users' must have a negative (got user {int(users[full][0])}, who "
                f'interacted with all {self._num_drawn} {which}). Leave this user out'
            )

    def is_positive(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each (user, item) pair is a training interaction.

        Args:
            users: User ids, broadcast against ``items``.
            items: Item ids.

        Raises:
            ValueError: If an id is out of range.
        """
        check_ids('users', users, self.num_users)
        check_ids('items', items, self.num_items)
        query = users.long() * self.num_items + items
        if self._flat.numel() == 0:
            return torch.zeros_like(query, dtype=torch.bool)
        if self.num_users * self.num_items <= _TABLE_BYTES:
            return self._table[query]
        position = torch.searchsorted(self._flat, query)
        position = position.clamp_max(self._flat.numel() - 1)
        positive: Tensor = self._flat[position] == query
        return positive


def _pool(items: Tensor, num_items: int, device: torch.device) -> Tensor:
    """The items to draw from, ascending."""
    if items.dim() != 1 or items.numel() == 0:
        raise ValueError(
            f"'items' must contain at least one id, with shape [N] (got "
            f'{list(items.size())})'
        )
    if items.dtype == torch.bool:
        raise ValueError(
            f"'items' must contain ids (got {items.dtype}). Convert a mask with "
            f"'mask.nonzero().view(-1)'"
        )
    check_ids('items', items, num_items)
    distinct: Tensor = items.to(device).long().unique()
    return distinct
