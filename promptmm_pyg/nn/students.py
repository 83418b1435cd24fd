"""Students: small models with nothing but id tables to serve."""

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.nn.csr import Adjacency
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.propagation import HeteroPropagation


class MatrixFactorization(torch.nn.Module):
    """Two id tables, scored by inner product; the model of the `"BPR: Bayesian
    Personalized Ranking from Implicit Feedback" <https://arxiv.org/abs/1205.2618>`_
    paper. It needs no graph, neither in training nor when it serves.

    Args:
        num_nodes_dict: The number of nodes per node type.
        embedding_dim: The width of the tables. (default: ``32``)
        std: Standard deviation of the random start. (default: ``0.1``)

    Shapes:
        - **output:** embeddings :math:`(N_t, D)` per node type
    """

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        embedding_dim: int = 32,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        self.embeddings = NodeEmbeddings(num_nodes_dict, embedding_dim, std)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.embeddings.reset_parameters()

    def forward(
        self,
        edge_index_dict: dict[EdgeType, Adjacency] | None = None,  # noqa: ARG002
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,  # noqa: ARG002
    ) -> dict[NodeType, Tensor]:
        x_dict: dict[NodeType, Tensor] = self.embeddings()
        return x_dict

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.embeddings})'


class LightGCN(torch.nn.Module):
    """Id tables smoothed over the graph, from the `"LightGCN: Simplifying and
    Powering Graph Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_ paper, for heterogeneous graphs. Equal to
    :class:`torch_geometric.nn.LightGCN` on a bipartite graph with symmetric
    weights (tested), on the fast operator. Its output is a table again, so serving
    needs no graph.

    Args:
        num_nodes_dict: The number of nodes per node type.
        embedding_dim: The width of the tables. (default: ``32``)
        num_layers: The number of propagation layers. (default: ``2``)
        std: Standard deviation of the random start. (default: ``0.1``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type
        - **output:** embeddings :math:`(N_t, D)` per node type
    """

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        embedding_dim: int = 32,
        num_layers: int = 2,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        self.embeddings = NodeEmbeddings(num_nodes_dict, embedding_dim, std)
        self.propagation = HeteroPropagation(num_layers)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.embeddings.reset_parameters()

    def forward(
        self,
        edge_index_dict: dict[EdgeType, Adjacency],
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,
    ) -> dict[NodeType, Tensor]:
        x_dict: dict[NodeType, Tensor] = self.propagation(
            self.embeddings(), edge_index_dict, edge_weight_dict
        )
        return x_dict

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.embeddings}, '
            f'num_layers={self.propagation.num_layers})'
        )
