"""A constant graph on one node type that moves with its model."""

from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.knn import knn_graph
from promptmm_pyg.nn.knn_cache import cached_knn_graph

Edges = tuple[Tensor, Tensor]  # edge_index [2, E], edge_weight [E]


class FrozenGraph(torch.nn.Module):
    """Sums neighbors along edges that never change, layer by layer.

    The operator is built once, as buffers that follow the model to its device and are
    not saved: it is computed from features, which are not saved either.

    Args:
        edges: ``edge_index`` ``[2, E]`` and ``edge_weight`` ``[E]``.
        num_nodes: The number of nodes.
        num_layers: How often neighbors are summed. (default: ``1``)
    """

    def __init__(self, edges: Edges, num_nodes: int, num_layers: int = 1) -> None:
        super().__init__()
        check_positive('num_layers', num_layers)
        self.num_layers = num_layers
        self.num_nodes = num_nodes
        pair = CSRPair.from_edge_index(*edges, size=(num_nodes, num_nodes))
        matrices = pair.matrices(edges[1].dtype)
        for name, matrix in zip('ab', matrices, strict=True):
            self.register_buffer(f'{name}_ptr', matrix.crow_indices(), persistent=False)
            self.register_buffer(f'{name}_col', matrix.col_indices(), persistent=False)
            self.register_buffer(f'{name}_weight', matrix.values(), persistent=False)

    def operator(self) -> CSRPair:
        """The operator as views of the buffers; nothing is copied."""
        size = (self.num_nodes, self.num_nodes)
        matrices = [
            torch.sparse_csr_tensor(
                self.get_buffer(f'{name}_ptr'),
                self.get_buffer(f'{name}_col'),
                self.get_buffer(f'{name}_weight'),
                size,
                check_invariants=False,
            )
            for name in 'ab'
        ]
        return CSRPair(matrices[0], matrices[1], reused=False)

    def forward(self, x: Tensor) -> Tensor:
        adj = self.operator()
        for _ in range(self.num_layers):
            x = adj @ x
        return x

    def __repr__(self) -> str:
        num_edges = self.get_buffer('a_col').numel()
        return (
            f'{self.__class__.__name__}({self.num_nodes}, edges={num_edges}, '
            f'num_layers={self.num_layers})'
        )


def item_edges(
    x: Tensor,
    num_neighbors: int,
    mask: Tensor | None = None,
    folder: str | Path | None = None,
) -> Edges:
    """The nearest neighbors by features, with weights of single precision; with a
    folder, from there if they were computed before.
    """
    check_positive('num_neighbors', num_neighbors)
    if folder is None:
        edge_index, edge_weight = knn_graph(x, num_neighbors, mask=mask)
    else:
        edge_index, edge_weight = cached_knn_graph(folder, x, num_neighbors, mask=mask)
    return edge_index, edge_weight.float()


def mean_edges(graphs: list[Edges], num_nodes: int) -> Edges:
    """The mean of the weight matrices."""
    index, weight = _joined(graphs)
    return _coalesced(index, weight / len(graphs), num_nodes, 'sum')


def max_edges(graphs: list[Edges], num_nodes: int) -> Edges:
    """The elementwise maximum of the weight matrices, zero where no edge is."""
    index, weight = _joined(graphs)
    return _coalesced(index, weight, num_nodes, 'max')


def _joined(graphs: list[Edges]) -> Edges:
    index = torch.cat([edge_index for edge_index, _ in graphs], dim=1)
    return index, torch.cat([weight for _, weight in graphs])


def _coalesced(index: Tensor, weight: Tensor, num_nodes: int, how: str) -> Edges:
    out: Edges = coalesce(index, weight, num_nodes=num_nodes, reduce=how)
    return out
