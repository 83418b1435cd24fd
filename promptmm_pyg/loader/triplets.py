"""Triplets of a user, a positive and a negative, which is never an interaction."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

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


class Triplets(NamedTuple):
    """One batch of index tensors, each ``[B]``."""

    user: Tensor
    positive: Tensor
    negative: Tensor


class TripletLoader:
    """Yields the training interactions once per epoch, in random order, each with a new
    negative that is never a training positive.

    With ``user_uniform=True``, users with interactions are drawn uniformly instead,
    with one of their interactions each. The length of an epoch is the same.

    Args:
        edge_index: Training interactions (user, item), ``[2, E]``.
        num_users: The number of users.
        num_items: The number of items.
        batch_size: Interactions per batch; the last one may be smaller.
            (default: ``2048``)
        seed: Seed of order and negatives. (default: ``0``)
        user_uniform: Whether users are drawn uniformly. (default: ``False``)
        negative_items: Ids of the items that negatives are drawn from, ``[N]``.
            (default: every item)

    Raises:
        ValueError: If there is no interaction, an id is out of range, or a user has no
            negative.

    Example:
        >>> edge_index = torch.tensor([[0, 0, 1], [0, 1, 2]])
        >>> loader = TripletLoader(edge_index, num_users=2, num_items=4, batch_size=2)
        >>> [len(batch.user) for batch in loader]
        [2, 1]
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        batch_size: int = 2048,
        seed: int = 0,
        user_uniform: bool = False,
        negative_items: Tensor | None = None,
    ) -> None:
        check_positive('batch_size', batch_size)
        self.sampler = ExactNegativeSampler(
            edge_index, num_users, num_items, negative_items
        )
        if edge_index.size(1) == 0:
            raise ValueError(
                "'edge_index' must have at least one interaction (got none)"
            )
        self.sampler.check_users(edge_index[0])
        self.batch_size = batch_size
        self.user_uniform = user_uniform
        self.generator = torch.Generator(device=edge_index.device).manual_seed(seed)
        # By user: the sampler is fastest for ascending users.
        order = edge_index[0].argsort(stable=True)
        self._user: Tensor = edge_index[0, order].long()
        self._item: Tensor = edge_index[1, order].long()
        if user_uniform:
            self._users, self._counts = self._user.unique(return_counts=True)
            self._start = self._counts.cumsum(0) - self._counts

    def __len__(self) -> int:
        return -(-self._user.numel() // self.batch_size)

    def __iter__(self) -> Iterator[Triplets]:
        user, positive = self._draw_pairs() if self.user_uniform else self._all_pairs()
        negative = self.sampler.sample(user, generator=self.generator)
        order = torch.randperm(
            user.numel(), generator=self.generator, device=user.device
        )
        for batch in order.split(self.batch_size):
            # Several times as fast as `user[batch]`.
            parts = (x.index_select(0, batch) for x in (user, positive, negative))
            yield Triplets(*parts)

    def _all_pairs(self) -> tuple[Tensor, Tensor]:
        return self._user, self._item

    def _draw_pairs(self) -> tuple[Tensor, Tensor]:
        num_pairs, device = self._user.numel(), self._user.device
        drawn = torch.randint(
            self._users.numel(), (num_pairs,), generator=self.generator, device=device
        )
        drawn = drawn.sort().values
        uniform = torch.rand(
            num_pairs, dtype=torch.double, generator=self.generator, device=device
        )
        position = (uniform * self._counts.index_select(0, drawn)).long()
        position += self._start.index_select(0, drawn)
        return self._users.index_select(0, drawn), self._item.index_select(0, position)

    def state_dict(self) -> dict[str, Any]:
        """The state of the next epochs, to be saved between two epochs."""
        return {'generator': self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues with the epoch after that of :meth:`state_dict`."""
        self.generator.set_state(state['generator'])

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self._user.numel()} interactions, '
            f'batch_size={self.batch_size}, user_uniform={self.user_uniform})'
        )
