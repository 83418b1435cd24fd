"""Block sizes of a ranking within a memory limit.

Only tensors are counted; how much memory the machine has is never read here.
"""

import re
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from promptmm_pyg.ranking.top import TIED_SHARE

MIB = 2**20
SMALLEST_ITEM_BATCH = 1024  # Shorter blocks save little and cost a pass each.
_UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'G': 10**9, 'T': 10**12}
_UNITS |= {'KI': 2**10, 'MI': 2**20, 'GI': 2**30, 'TI': 2**40}


def parse_memory(memory_limit: int | str) -> int:
    """Bytes, also from text such as ``'2GiB'`` or ``'500 MB'``."""
    if isinstance(memory_limit, str):
        text = memory_limit.replace(' ', '').upper()
        match = re.fullmatch(r'(\d+(?:\.\d+)?)([KMGT]I?|)B', text)
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    else:
        size = memory_limit if isinstance(memory_limit, int) else 0
    if isinstance(memory_limit, bool) or size <= 0:
        raise ValueError(
            "'memory_limit' must be a positive number of bytes or text such as "
            f"'2GiB' or '500MB' (got {memory_limit!r})"
        )
    return size


@dataclass(frozen=True)
class Sizes:
    """The sizes that determine the memory of a ranking, besides the block sizes."""

    num_users: int
    """The number of users to rank for."""
    num_items: int
    k: int
    width: int
    score_size: int
    """Bytes of a score."""
    copied_size: int
    """Bytes per number of a converted block of items; zero without conversion."""
    seen_before: Tensor | None = None
    """Cumulative numbers of seen items, ``[num_users + 1]``."""
    num_threads: int = 1

    @property
    def lists(self) -> int:
        """Bytes of the lists that are returned."""
        return self.num_users * self.k * (self.score_size + 8)

    def column(self, rows: int) -> int:
        """Bytes per item where ``rows`` users are scored at once."""
        return (
            rows * self.score_size
            # Copy, comparisons and counts.
            + ceil(rows / TIED_SHARE) * (self.score_size + 13)
            + min(rows, self.num_threads) * 16  # What `topk` sorts.
            + self.width * self.copied_size
            + 2  # Candidates.
        )

    def fixed(self, rows: int) -> int:
        """Bytes for ``rows`` users that do not depend on the number of items, and of
        the lists.
        """
        vectors = rows * self.width * 2 * self.score_size
        best = rows * (self.k + 1) * 6 * (self.score_size + 8)
        seen = 0 if self.seen_before is None else 48 * self._most_seen(rows)
        return self.lists + vectors + best + seen

    def need(self, rows: int, items: int) -> int:
        """An upper bound on the bytes of all tensors, including the returned lists,
        where ``rows`` users and ``items`` items are scored at once.
        """
        # Seen items are counted first, and that memory is free when scoring starts.
        count = 0 if self.seen_before is None else 48 * self.num_users
        return max(count, self.fixed(rows) + items * self.column(rows))

    def _most_seen(self, rows: int) -> int:
        """The largest number of items that the users of one batch have seen."""
        assert self.seen_before is not None
        before = torch.cat([self.seen_before[::rows], self.seen_before[-1:]])
        return int(before.diff().max())


def plan(
    sizes: Sizes, budget: int, batch_size: int, item_batch_size: int
) -> tuple[int, int]:
    """The numbers of users and items to score at once, at most the arguments.

    Raises:
        ValueError: If one user and a short block of items do not fit.
    """
    rows = max(1, min(batch_size, sizes.num_users))
    full = (rows, min(item_batch_size, sizes.num_items))
    least = min(full[1], SMALLEST_ITEM_BATCH)
    while sizes.need(rows, least) > budget:
        if rows == 1:
            raise ValueError(_refusal(sizes, budget, full, least))
        rows = ceil(rows / 2)
    items = min(full[1], (budget - sizes.fixed(rows)) // sizes.column(rows))
    # As many blocks, of equal length.
    return rows, ceil(sizes.num_items / ceil(sizes.num_items / items))


def _refusal(sizes: Sizes, budget: int, full: tuple[int, int], least: int) -> str:
    smallest = sizes.need(1, least)
    return (
        f"'memory_limit' must be at least {smallest} bytes ({smallest / MIB:.2f} MiB) "
        f'to rank {sizes.num_items} items for {sizes.num_users} users '
        f'(got {budget} bytes, {budget / MIB:.2f} MiB). The lists use '
        f'{sizes.lists / MIB:.2f} MiB; with blocks of {full[0]} users and {full[1]} '
        f'items the total is {sizes.need(*full) / MIB:.2f} MiB. Raise the limit, or '
        'rank fewer users per call'
    )
