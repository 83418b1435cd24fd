"""Random graphs, and times of alternatives that take turns in one process."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Runs = dict[str, Callable[[], object]]  # Alternatives by name.
Times = dict[str, dict[str, float]]


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> Times:
    """Median and range in milliseconds. All alternatives take turns, so that changes of
    the machine's speed affect all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:  # The first turn warms up.
                times[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: {
            'median_ms': statistics.median(values),
            'min_ms': min(values),
            'max_ms': max(values),
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
