"""NGCF: graph convolution with products of a node and its neighbors."""

import torch
import torch.nn.functional as F
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import GraphRecommender, linears
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.dropout import dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.propagation import Blocks, check_reached, propagate_blocks
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput


class NGCF(GraphRecommender):
    r"""Graph convolutions on id embeddings that also multiply a node with its
    neighbors, after the `"Neural Graph Collaborative Filtering"
    <https://arxiv.org/abs/1905.08108>`_ paper.

    .. math::
        \mathbf{X}^{(l+1)} = \mathrm{LeakyReLU} \left( (\mathbf{L} + \mathbf{I})
        \mathbf{X}^{(l)} \mathbf{W}_1^{(l)} + (\mathbf{L} \mathbf{X}^{(l)} \odot
        \mathbf{X}^{(l)}) \mathbf{W}_2^{(l)} \right), \qquad
        \mathbf{x}_v = [\mathbf{x}_v^{(0)} \, \| \dots \| \, \mathbf{x}_v^{(L)}]

    :math:`\mathbf{L}` sums neighbors with the given edge weights (symmetric
    normalization in the paper); both matrices are shared by all node types. Rows are
    not scaled to unit length. Message dropout acts on the output of a layer; the node
    dropout of the paper is left out.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Ignored; the model reads no features. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of every layer. (default: ``64``)
        num_layers: The number of layers :math:`L`. (default: ``3``)
        dropout: Dropout rate on every layer's output. (default: ``0.1``)
        negative_slope: Of the activation. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, (L + 1) D)` and without modalities

    Raises:
        ValueError: If sizes, rates or edges do not fit.
    """

    linear_start = 'xavier_uniform'
    search_space = trained_space(
        1e-3,
        num_layers=Choices(3, (1, 2, 3)),
        dropout=Choices(0.1, (0.0, 0.1, 0.3)),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 3,
        dropout: float = 0.1,
        negative_slope: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        check_positive('num_layers', num_layers)
        check_probability('dropout', dropout)
        check_non_negative('negative_slope', negative_slope)
        self.num_layers = num_layers
        self.dropout = dropout
        self.negative_slope = negative_slope
        self.embeddings = NodeEmbeddings(num_nodes_dict, embedding_dim, init_std)
        size = num_layers, embedding_dim, embedding_dim
        self.sum_lins = linears(*size, bias=False)
        self.product_lins = linears(*size, bias=False)
        self.reset_parameters()

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj_dict = self.operators(edge_index_dict, edge_weight_dict)
        x_dict = self.embeddings()
        check_reached(x_dict, adj_dict)
        layers = {key: [x] for key, x in x_dict.items()}
        for sum_lin, product_lin in zip(self.sum_lins, self.product_lins, strict=True):
            blocks: Blocks = {key: {'x': xs[-1]} for key, xs in layers.items()}
            for key, named in propagate_blocks(blocks, adj_dict).items():
                x, neighbors = layers[key][-1], named['x']
                out = sum_lin(neighbors + x) + product_lin(neighbors * x)
                out = F.leaky_relu(out, self.negative_slope)
                layers[key].append(dropout(out, self.dropout, self.training))
        return TeacherOutput({k: torch.cat(xs, dim=-1) for k, xs in layers.items()}, {})
