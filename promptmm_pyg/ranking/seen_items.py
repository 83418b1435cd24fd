"""Items that are left out of a user's list."""

from dataclasses import dataclass

import torch
from torch import Tensor

from promptmm_pyg._utils import checked_edges


@dataclass(frozen=True)
class SeenItems:
    """The items each user has seen, in compressed rows.

    Example:
        >>> seen = SeenItems.from_edge_index(torch.tensor([[0, 1], [2, 0]]), 2, 3)
        >>> scores = torch.zeros(2, 3)
        >>> seen.mask_(scores, torch.tensor([1, 0]))
        >>> scores
        tensor([[-inf, 0., 0.],
                [0., 0., -inf]])
    """

    rowptr: Tensor
    """Where the items of each user start in ``col``, ``[num_users + 1]``."""
    col: Tensor
    """Item indices, ascending within a user, each once."""
    num_items: int
    """The size of the catalogue."""

    @classmethod
    def from_edge_index(
        cls, edge_index: Tensor, num_users: int, num_items: int
    ) -> 'SeenItems':
        """Builds the rows from (user, item) edges ``[2, E]``; repeats count once.

        Raises:
            ValueError: If edges are no integers or leave the given numbers of users
                and items.
        """
        user, item = checked_edges(edge_index, (num_users, num_items))
        flat = torch.unique(user * num_items + item)
        degree = torch.bincount(flat // max(num_items, 1), minlength=num_users)
        rowptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
        return cls(rowptr, flat % max(num_items, 1), num_items)

    @property
    def num_users(self) -> int:
        """The number of users, those without items included."""
        return self.rowptr.numel() - 1

    @property
    def num_seen(self) -> Tensor:
        """How many items each user has seen, ``[num_users]``."""
        return self.rowptr.diff()

    def mask_(self, scores: Tensor, users: Tensor) -> None:
        """Writes ``-inf`` into ``scores`` ``[B, num_items]``, whose rows belong to
        ``users`` ``[B]``, wherever the user has seen the item.
        """
        row, item = self.pairs(users)
        # By two indices: the block may be a transposed view.
        scores[row.to(scores.device), item.to(scores.device)] = -torch.inf

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """The seen items of ``users`` ``[B]`` as pairs: positions in ``users``,
        ascending, and items, ascending within a position.
        """
        users = users.to(self.rowptr.device)
        start = self.rowptr[users]
        count = self.rowptr[users + 1] - start
        if count.device.type == 'cpu':  # NumPy does not wake up threads for this.
            counts = count.numpy()
            rows = torch.arange(count.numel()).numpy().repeat(counts)
            places = torch.arange(len(rows)).numpy()
            places += (start.numpy() - counts.cumsum() + counts)[rows]
            return torch.from_numpy(rows), torch.from_numpy(self.col.numpy()[places])
        row = torch.repeat_interleave(count)
        # In place: these can be the largest tensors of a ranking.
        place = torch.arange(row.numel(), device=row.device)
        place += (start - count.cumsum(0) + count)[row]
        return row, self.col[place]

    def seen_before(self, users: Tensor) -> Tensor:
        """The cumulative number of seen items of ``users`` ``[N]``, starting with
        zero, ``[N + 1]``.
        """
        users = users.to(self.rowptr.device)
        before = self.rowptr.new_zeros(users.numel() + 1)
        torch.cumsum(self.rowptr[users + 1] - self.rowptr[users], 0, out=before[1:])
        return before


def check_index(name: str, index: Tensor, size: int) -> None:
    """Raises unless every index is a row of a table of ``size`` rows."""
    if index.numel() > 0 and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise ValueError(
            f"'{name}' must contain indices below {size} "
            f'(got {int(index.min())} to {int(index.max())})'
        )


def check_catalogue(
    num_items: int, seen: SeenItems | None, candidates: Tensor | None
) -> None:
    """Raises unless seen items and candidates cover ``num_items`` items."""
    if seen is not None and seen.num_items != num_items:
        raise ValueError(
            "'seen' must cover the catalogue that is scored "
            f'(got {seen.num_items} and {num_items} items)'
        )
    if candidates is not None and (
        candidates.dtype != torch.bool or list(candidates.size()) != [num_items]
    ):
        raise ValueError(
            f"'candidates' must be a boolean mask of shape [{num_items}] "
            f'(got {list(candidates.size())}, {candidates.dtype})'
        )
