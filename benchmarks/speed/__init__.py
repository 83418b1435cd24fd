"""Random graphs with their estimated memory, and times of alternatives that take turns
in one process.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER

Runs = dict[str, Callable[[], object]]  # Alternatives by name.
Times = dict[str, dict[str, float]]
GIB = 2**30
PROGRAM = 2**29  # Bytes of the interpreter with its imports.
PER_USER = 10  # Interactions per user, on average.
USERS_PER_ITEM = 5
MIN_ITEMS = 100  # Users would have seen all of a smaller catalogue.
TAIL = {USER: 0.4, ITEM: 0.6}  # Nodes by rank r have degrees like r ** -tail.
PROMPT = 32
POSITIVE = (
    *('interactions', 'features', 'width', 'memory', 'batch_size'),
    *('teacher_batch_size', 'ranked_users', 'repeats', 'seconds', 'threads'),
)


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> Times:
    """Median and range in milliseconds, and the median of the time on the processor.
    All alternatives take turns, so that changes of the machine's speed affect all of
    them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    cpu_times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if turn:  # The first turn warms up.
                times[name].append(1e3 * (time.perf_counter() - started))
                cpu_times[name].append(1e3 * (time.process_time() - cpu_started))
    return {
        name: {
            'median_ms': statistics.median(values),
            'min_ms': min(values),
            'max_ms': max(values),
            'cpu_ms': statistics.median(cpu_times[name]),
        }
        for name, values in times.items()
    }


class Graph(NamedTuple):
    """Distinct interactions ``[2, E]``, sorted by user."""

    num_users: int
    num_items: int
    edge_index: Tensor

    @property
    def num_edges(self) -> int:
        return self.edge_index.size(1)


def random_graph(num_users: int, num_items: int, num_edges: int) -> Graph:
    """About ``num_edges`` uniform interactions; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randint(num_users * num_items, (num_edges,), generator=generator)
    flat = flat.unique()
    edge_index = torch.stack([flat // num_items, flat % num_items])
    return Graph(num_users, num_items, edge_index)


@dataclass(frozen=True)
class Size:
    """A size of the graph, and all settings of the measurements."""

    interactions: int
    features: int = 256
    width: int = 64
    memory: int = 16 * GIB
    batch_size: int = 65_536  # Of a student's step.
    teacher_batch_size: int = 2048  # Of a step on neighborhoods.
    ranked_users: int = 100_000
    repeats: int = 3
    seconds: float = 300.0  # Limit of an epoch.
    threads: int = 1
    seed: int = 0

    @property
    def users(self) -> int:
        """Number of users."""
        return max(2, self.interactions // PER_USER)

    @property
    def items(self) -> int:
        """Number of items."""
        return max(MIN_ITEMS, self.users // USERS_PER_ITEM)

    def check(self) -> None:
        """Raises if a setting does not fit.

        Raises:
            ValueError: If a number is not positive, or the estimated memory exceeds the
                limit.
        """
        for name in POSITIVE:
            check_positive(name, getattr(self, name))
        if self.peak > self.memory:
            parts = ', '.join(f'{k} {x / GIB:.2f}' for k, x in self.parts.items())
            raise ValueError(
                f"'memory' must be at least {self.peak / GIB:.2f} GiB for "
                f'{self.interactions} interactions and {self.features}-d features, as '
                f'estimated ({parts}) (got {self.memory / GIB:.2f} GiB). Raise the '
                f'limit, or leave this size out'
            )

    @property
    def table(self) -> int:
        """Bytes of one vector per user and item."""
        return 4 * self.width * (self.users + self.items)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes at the peak, estimated, without a teacher's step on the whole graph."""
        triplet = 4 * self.width * 11 * 6  # Vectors of a list and of its gradient.
        return {
            'program': PROGRAM,
            # Edges in both directions and sorted, with a few copies.
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
        """Bytes with a teacher's step on the whole graph, which stores vectors of every
        node for the gradient.
        """
        return self.peak + 18 * self.table

    @property
    def whole_fits(self) -> bool:
        """Whether that step fits into the limit; it is left out otherwise."""
        return self.whole_graph <= self.memory

    @property
    def ranking_memory(self) -> int:
        """Bytes of a ranking: its blocks and lists."""
        return 2**28 + 12 * 20 * min(self.ranked_users, self.users)


def draw_graph(size: Size) -> HeteroData:
    """Users and items with long-tailed degrees; for some users, one interaction each is
    held out as ``edge_label_index``. Cost and memory are linear in the interactions,
    except for sorting.
    """
    g = torch.Generator().manual_seed(size.seed)
    flat = torch.empty(0, dtype=torch.long)
    while flat.numel() < size.interactions:  # Repeated pairs count once.
        missing = size.interactions - flat.numel()
        pairs = _nodes(USER, size.users, missing * 5 // 4 + 8, g) * size.items
        pairs += _nodes(ITEM, size.items, pairs.numel(), g)
        flat = torch.cat([flat, pairs]).unique()
    if flat.numel() > size.interactions:
        index = torch.randperm(flat.numel(), generator=g)[: size.interactions]
        flat = flat[index].sort().values
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
    """Nodes drawn by a power law of their rank, in random order."""
    uniform = torch.rand(draws, dtype=torch.double, generator=g)
    rank = uniform.pow_(1 / (1 - TAIL[key])).mul_(number).long().clamp_max_(number - 1)
    # The same order in every round of draws.
    names = torch.randperm(number, generator=torch.Generator().manual_seed(1))
    return names[rank]


def _held_out(user: Tensor, size: Size, g: torch.Generator) -> Tensor:
    """One interaction each of the ranked users, who have at least two."""
    degree = torch.bincount(user, minlength=size.users)
    start = degree.cumsum(0) - degree
    active = (degree > 1).nonzero().view(-1)
    users = active[torch.randperm(active.numel(), generator=g)[: size.ranked_users]]
    uniform = torch.rand(users.numel(), dtype=torch.double, generator=g)
    position = start[users] + (uniform * degree[users]).long()
    return torch.zeros_like(user, dtype=torch.bool).index_fill_(0, position, True)
