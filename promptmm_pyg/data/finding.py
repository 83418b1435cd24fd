"""What the checks of a graph share."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import ITEM, NODE_TYPES, USER


class Issue(NamedTuple):
    """One thing to mend (``'error'``) or to know (``'warning'``)."""

    level: Literal['error', 'warning']
    where: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f'{self.where}: {self.problem}. {self.fix}'


def node_counts(data: HeteroData) -> dict[str, int]:
    """The numbers of users and of items; graphs may have other nodes, too."""
    return {key: int(data[key].num_nodes) for key in NODE_TYPES}


def in_range(edges: Tensor, counts: dict[str, int]) -> bool:
    """Whether all pairs point to nodes."""
    if edges.numel() == 0:
        return True
    limit = torch.tensor([counts[USER], counts[ITEM]], device=edges.device)
    low, high = edges.min(dim=1).values, edges.max(dim=1).values
    return bool((low >= 0).all()) and bool((high < limit).all())


def keys(edges: Tensor, data: HeteroData) -> Tensor:
    """One number a pair, the same for the same pair."""
    return edges[0] * int(data[ITEM].num_nodes) + edges[1]
