"""Who interacted with what, for models in closed form."""

from collections.abc import Iterator

import torch
from torch import Tensor

from promptmm_pyg._utils import checked_edges
from promptmm_pyg.nn import CSRPair


class Interactions:
    """A binary user-item matrix that is never dense.

    Args:
        edge_index: (user, item) pairs ``[2, E]``; repeats count once.
        num_users: The number of users.
        num_items: The number of items.

    Raises:
        ValueError: If the shape is another, or an index leaves the given sizes.
    """

    def __init__(self, edge_index: Tensor, num_users: int, num_items: int) -> None:
        user, item = checked_edges(edge_index, (num_users, num_items))
        flat = torch.unique(item * num_users + user)
        self.num_users, self.num_items = num_users, num_items
        item, user = flat // num_users, flat % num_users
        self._by_item = torch.stack([item, user])
        self.item_degree = torch.bincount(item, minlength=num_items)
        self._item_end = self.item_degree.cumsum(0)
        order = user.argsort(stable=True)
        self._by_user = torch.stack([user[order], item[order]])
        self.user_degree = torch.bincount(user, minlength=num_users)
        self._user_end = self.user_degree.cumsum(0)
        self.operator = CSRPair.from_edge_index(
            self._by_item, size=(num_items, num_users)
        )
        """Item vectors to sums per user, shape ``(num_users, num_items)``."""

    def histories(self, users: Tensor) -> Tensor:
        """The items of given users as pairs (place in ``users``, item) ``[2, E]``.

        Raises:
            ValueError: If a user is none of the matrix.
        """
        if users.dim() != 1 or users.is_floating_point():
            raise ValueError(
                f"'users' must contain indices [B] (got {users.dtype} "
                f'{list(users.shape)})'
            )
        if users.numel() and not (
            0 <= int(users.min()) <= int(users.max()) < self.num_users
        ):
            raise ValueError(
                f"'users' requires indices below {self.num_users} (got "
                f'{int(users.min())} to {int(users.max())})'
            )
        users = users.to(self.user_degree.device)
        count = self.user_degree[users]
        place = torch.repeat_interleave(count)
        offset = torch.arange(place.numel(), device=place.device)
        within = offset - (count.cumsum(0) - count)[place]
        first = self._user_end[users] - count
        return torch.stack([place, self._by_user[1, first[place] + within]])

    def history_operator(self, users: Tensor) -> CSRPair:
        """Item vectors to sums over the items of given users, shape ``(B, num_items)``;
        made for a product or two.

        Raises:
            ValueError: If a user is none of the matrix.
        """
        item_place = self.histories(users).flip([0])
        size = (self.num_items, users.numel())
        return CSRPair.from_edge_index(item_place, size=size, reused=False)

    def cooccurrence(self, block_size: int) -> Iterator[tuple[int, Tensor]]:
        """Yields how many users every pair of items shares, in blocks of rows.

        Args:
            block_size: The number of rows in a block.

        Returns:
            The first row of each block and its counts, a coalesced sparse matrix
            ``[<= block_size, num_items]``.
        """
        by_user = self._sparse(self._by_user, (self.num_users, self.num_items))
        for start in range(0, self.num_items, block_size):
            size = min(block_size, self.num_items - start)
            begin = int(self._item_end[start] - self.item_degree[start])
            end = int(self._item_end[start + size - 1])
            rows = self._by_item[:, begin:end].clone()
            rows[0] -= start
            block = self._sparse(rows, (size, self.num_users))
            yield start, torch.sparse.mm(block, by_user).coalesce()

    @staticmethod
    def _sparse(index: Tensor, size: tuple[int, int]) -> Tensor:
        ones = torch.ones(index.size(1), device=index.device)
        return torch.sparse_coo_tensor(
            index, ones, size, is_coalesced=True, check_invariants=False
        )
