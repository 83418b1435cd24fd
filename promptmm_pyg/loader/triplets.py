"""Batches of (user, positive, negative) for pair-wise ranking."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.loader.negative import ExactNegativeSampler


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
