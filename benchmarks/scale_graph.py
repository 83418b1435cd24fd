"""Synthetic interactions of any number, and the memory that a size takes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER

GIB = 2**30
PROGRAM = 2**29  # Bytes of the interpreter and of what it imports.
USERS_EACH = 10  # Interactions a user, on average.
ITEMS_EACH = 5  # Users an item.
FEWEST_ITEMS = 100  # A smaller catalogue would be seen as a whole.
TAIL = {USER: 0.4, ITEM: 0.6}  # Nodes by rank r have degrees like r ** -tail.
PROMPT = 32
POSITIVE = (
    *('interactions', 'features', 'width', 'memory', 'batch_size'),
    *('teacher_batch_size', 'ranked_users', 'repeats', 'seconds', 'threads'),
)


@dataclass(frozen=True)
class Size:
    """One size of graph, and every number that its measures depend on."""

    interactions: int
    features: int = 256
    width: int = 64
    memory: int = 16 * GIB
    batch_size: int = 65_536  # Of a student's step.
    teacher_batch_size: int = 2048  # Of a step on neighborhoods.
    ranked_users: int = 100_000
    repeats: int = 3
    seconds: float = 300.0  # Of an epoch that need not be whole.
    threads: int = 1
    seed: int = 0

    @property
    def users(self) -> int:
        """How many there are."""
        return max(2, self.interactions // USERS_EACH)

    @property
    def items(self) -> int:
        """How many there are."""
        return max(FEWEST_ITEMS, self.users // ITEMS_EACH)

    def check(self) -> None:
        """Raises before any work, if there is nothing to do or no room for it.

        Raises:
            ValueError: If a number is not positive, or the memory that is needed
                exceeds the budget.
        """
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"'{name}' must be positive (got {getattr(self, name)})"
                )
        if self.peak > self.memory:
            told = ', '.join(f'{k} {x / GIB:.2f}' for k, x in self.parts.items())
            raise ValueError(
                f"'memory' must be at least {self.peak / GIB:.2f} GiB for "
                f'{self.interactions} interactions and {self.features}-d features, as '
                f'estimated ({told}) (got {self.memory / GIB:.2f} GiB). Raise the '
                f'budget, or leave this size out'
            )

    @property
    def table(self) -> int:
        """Bytes of one vector a user and an item."""
        return 4 * self.width * (self.users + self.items)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes at the peak, estimated, without a teacher's step on the whole graph."""
        triplet = 4 * self.width * 11 * 6  # Vectors of a list, and what follows them.
        return {
            'program': PROGRAM,
            # Edges in both directions, and sorted to be drawn from; a few copies.
            'graph': 250 * self.interactions,
            # Values, gradient and two moments; prompts; targets.
            'tables': 6 * self.table + 4 * PROMPT * (self.users + self.items),
            'features': 2 * self.features * self.items,
            'step': triplet * min(self.batch_size, self.interactions),
            'ranking': self.ranking_memory,
        }

    @property
    def peak(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def whole_graph(self) -> int:
        """Bytes with a teacher's step on the whole graph, where vectors of every node
        are kept for the gradient, and what is freed for the next step.
        """
        return self.peak + 18 * self.table

    @property
    def whole_fits(self) -> bool:
        """Whether the budget has room for that step, which is left out elsewhere."""
        return self.whole_graph <= self.memory

    @property
    def ranking_memory(self) -> int:
        """Bytes of a ranking: its blocks, and its lists."""
        return 2**28 + 12 * 20 * min(self.ranked_users, self.users)


def draw_graph(size: Size) -> HeteroData:
    """Users and items with long-tailed degrees; one interaction of each of some users
    is held out as ``edge_label_index``.

    Cost and memory are linear in the interactions, but for sorting them.
    """
    g = torch.Generator().manual_seed(size.seed)
    flat = torch.empty(0, dtype=torch.long)
    while flat.numel() < size.interactions:  # Repeated pairs count once.
        missing = size.interactions - flat.numel()
        more = _nodes(USER, size.users, missing * 5 // 4 + 8, g) * size.items
        more += _nodes(ITEM, size.items, more.numel(), g)
        flat = torch.cat([flat, more]).unique()
    if flat.numel() > size.interactions:
        kept = torch.randperm(flat.numel(), generator=g)[: size.interactions]
        flat = flat[kept].sort().values
    held_out = _held_out(flat // size.items, size, g)
    train, positives = flat[~held_out], flat[held_out]
    data = HeteroData()
    data[USER].num_nodes, data[ITEM].num_nodes = size.users, size.items
    edge_index = torch.stack([train // size.items, train % size.items])
    data[INTERACTS].edge_index = edge_index
    data[REV_INTERACTS].edge_index = edge_index.flip([0])
    data[INTERACTS].edge_label_index = torch.stack(
        [positives // size.items, positives % size.items]
    )
    return data


def _nodes(key: str, number: int, draws: int, g: torch.Generator) -> Tensor:
    """Nodes drawn by a power law of their rank, which is no matter of their number."""
    uniform = torch.rand(draws, dtype=torch.double, generator=g)
    rank = uniform.pow_(1 / (1 - TAIL[key])).mul_(number).long().clamp_max_(number - 1)
    # The same numbers in every round of draws.
    names = torch.randperm(number, generator=torch.Generator().manual_seed(1))
    return names[rank]


def _held_out(user: Tensor, size: Size, g: torch.Generator) -> Tensor:
    """One interaction each of as many users with at least two as are ranked."""
    degree = torch.bincount(user, minlength=size.users)
    start = degree.cumsum(0) - degree
    able = (degree > 1).nonzero().view(-1)
    users = able[torch.randperm(able.numel(), generator=g)[: size.ranked_users]]
    uniform = torch.rand(users.numel(), dtype=torch.double, generator=g)
    place = start[users] + (uniform * degree[users]).long()
    return torch.zeros_like(user, dtype=torch.bool).index_fill_(0, place, True)
