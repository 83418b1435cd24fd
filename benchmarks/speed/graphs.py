"""The random graphs that times are taken on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Runs = dict[str, Callable[[], object]]  # What takes turns, by name.
Times = dict[str, dict[str, float]]


class Graph(NamedTuple):
    """Interactions ``[2, E]``, no pair twice, sorted by user."""

    num_users: int
    num_items: int
    edge_index: Tensor

    @property
    def num_edges(self) -> int:
        return self.edge_index.size(1)


def random_edges(num_users: int, num_items: int, num_edges: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randint(num_users * num_items, (num_edges,), generator=generator)
    flat = flat.unique()
    return torch.stack([flat // num_items, flat % num_items])


def random_graph(num_users: int, num_items: int, num_edges: int) -> Graph:
    """About ``num_edges`` interactions, every pair alike; the same at every call."""
    edge_index = random_edges(num_users, num_items, num_edges)
    return Graph(num_users, num_items, edge_index)
