"""How many users and items are scored at once within a budget of bytes."""

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


def parse_memory(memory: int | str) -> int:
    """Bytes, also from text such as ``'2GiB'`` or ``'500 MB'``."""
    if isinstance(memory, str):
        text = memory.replace(' ', '').upper()
        match = re.fullmatch(r'(\d+(?:\.\d+)?)([KMGT]I?|)B', text)
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    else:
        size = memory if isinstance(memory, int) else 0
    if isinstance(memory, bool) or size <= 0:
        raise ValueError(
            "'memory' must be a number of bytes above zero or text such as "
            f"'2GiB' or '500MB' (got {memory!r})"
        )
    return size


@dataclass(frozen=True)
class Sizes:
    """What the memory of a ranking depends on, block sizes aside."""

    num_users: int
    """How many users are ranked for."""
    num_items: int
    k: int
    width: int
    score_size: int
    """Bytes of a score."""
    copied_size: int
    """Bytes of a number of a block of items, if the table is of coarser precision."""
    seen_before: Tensor | None = None
    """How many items all users before each of them have seen, and then all of them,
    ``[num_users + 1]``; none if no item is left out.
    """
    num_threads: int = 1

    @property
    def lists(self) -> int:
        """Bytes of the lists that are returned."""
        return self.num_users * self.k * (self.score_size + 8)

    def column(self, rows: int) -> int:
        """Bytes of what is made of one item where ``rows`` users are scored at once."""
        return (
            rows * self.score_size
            # Copy, comparisons and counts.
            + ceil(rows / TIED_SHARE) * (self.score_size + 13)
            + min(rows, self.num_threads) * 16  # What `topk` sorts.
            + self.width * self.copied_size
            + 2  # Candidates.
        )

    def fixed(self, rows: int) -> int:
        """Bytes of what is made for ``rows`` users however many items there are, and
        of the lists.
        """
        vectors = rows * self.width * 2 * self.score_size
        best = rows * (self.k + 1) * 6 * (self.score_size + 8)
        seen = 0 if self.seen_before is None else 48 * self._most_seen(rows)
        return self.lists + vectors + best + seen

    def need(self, rows: int, items: int) -> int:
        """Bytes at most, where ``rows`` users and ``items`` items are scored at once:
        of every tensor that is made, the lists that are returned included.
        """
        # Counting what was seen comes first, and is over when the work starts.
        count = 0 if self.seen_before is None else 48 * self.num_users
        return max(count, self.fixed(rows) + items * self.column(rows))

    def _most_seen(self, rows: int) -> int:
        """How many items the users of one batch have seen at most."""
        assert self.seen_before is not None
        before = torch.cat([self.seen_before[::rows], self.seen_before[-1:]])
        return int(before.diff().max())


def plan(
    sizes: Sizes, budget: int, batch_size: int, item_batch_size: int
) -> tuple[int, int]:
    """The numbers of users and items to score at once, at most those given.

    Raises:
        ValueError: If not even one user and a short block of items fit.
    """
    rows = max(1, min(batch_size, sizes.num_users))
    asked = (rows, min(item_batch_size, sizes.num_items))
    least = min(asked[1], SMALLEST_ITEM_BATCH)
    while sizes.need(rows, least) > budget:
        if rows == 1:
            raise ValueError(_refusal(sizes, budget, asked, least))
        rows = ceil(rows / 2)
    items = min(asked[1], (budget - sizes.fixed(rows)) // sizes.column(rows))
    # As many blocks, of one length.
    return rows, ceil(sizes.num_items / ceil(sizes.num_items / items))


def _refusal(sizes: Sizes, budget: int, asked: tuple[int, int], least: int) -> str:
    smallest = sizes.need(1, least)
    return (
        f"'memory' must be at least {smallest} bytes ({smallest / MIB:.2f} MiB) "
        f'to rank {sizes.num_items} items for {sizes.num_users} users '
        f'(got {budget} bytes, {budget / MIB:.2f} MiB). The lists alone take '
        f'{sizes.lists / MIB:.2f} MiB, and blocks of {asked[0]} users and {asked[1]} '
        f'items need {sizes.need(*asked) / MIB:.2f} MiB in all. Raise the budget, or '
        'rank fewer users in a call'
    )
