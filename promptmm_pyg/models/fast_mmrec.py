"""FastMMRec: graph convolution at test time only."""

from collections.abc import Mapping

import torch
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput


class FastMMRec(ContentRecommender):
    r"""Ids and features that are trained without a graph, and smoothed by graphs in
    eval mode only, after the `"The Best is Yet to Come: Graph Convolution in the
    Testing Phase for Multimodal Recommendation" <https://arxiv.org/abs/2507.18489>`_
    paper.

    Users have a vector per modality and one of ids; items have projected features and
    ids. In training, embeddings are their concatenations,

    .. math::
        \mathbf{x}_u^{(0)} = [\mathbf{e}_u \,\Vert\, \mathbf{p}_u^1 \,\Vert \cdots],
        \qquad \mathbf{x}_i^{(0)} = [\mathbf{e}_i \,\Vert\, \mathbf{W}_1
        \mathbf{x}_i^1 + \mathbf{b}_1 \,\Vert \cdots]

    and eval mode smooths these over the user-item graph and a graph of similar items,

    .. math::
        \mathbf{x} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{N}^l \mathbf{x}^{(0)},
        \qquad \mathbf{x}_i \mathrel{+}= \mathbf{S}^K \mathbf{x}_i^{(0)}

    with the normalized graph :math:`\mathbf{N}` and the frozen item graph
    :math:`\mathbf{S}` of :class:`~promptmm_pyg.models.FREEDOM`. A training step costs
    no more than one of :class:`~promptmm_pyg.models.VBPR`, whatever the number of
    edges.

    What is followed is the idea of the paper: no graph convolution in training, and one
    without further parameters for scores. No code is released, and its equations were
    not available to us: the concatenation, BPR as the only ranking loss, and both
    graphs are our reading.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of a block; embeddings have
            :math:`(|M| + 1) D` channels. (default: ``64``)
        num_layers: Layers :math:`L` along the user-item graph. (default: ``2``)
        num_item_layers: Layers :math:`K` along the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality, itself included.
            (default: ``10``)
        modality_weights: The weight of each modality in the item graph.
            (default: as in FREEDOM)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with
          :math:`(N_t, (|M| + 1) D)` embeddings, and the blocks of the modalities

    Raises:
        ValueError: If sizes, features, weights or edges do not fit.
    """

    printed = ('num_layers', 'num_item_layers')
    search_space = trained_space(
        1e-3,
        num_layers=Choices(2, (1, 2, 3, 4)),
        num_neighbors=Choices(10, (5, 10, 20)),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        num_neighbors: int = 10,
        modality_weights: Mapping[str, float] | None = None,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        self.num_item_layers = num_item_layers
        self.features = self.project(modality_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.preferences = self.user_tables(embedding_dim, init_std)
        self.graph = self.item_graph(
            modality_x_dict, num_neighbors, num_item_layers, modality_weights
        )

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        ids, features = self.embeddings(), self.features().values()
        user_x = torch.cat([ids[self.user], *self.preferences().values()], dim=1)
        start = item_x = torch.cat([ids[self.item], *features], dim=1)
        if not self.training:
            user_x, item_x = adj.smooth(user_x, start, self.num_layers)
            item_x = item_x + self.graph(start)
        num = len(self.modalities) + 1
        users, items = (x.chunk(num, dim=1)[1:] for x in (user_x, item_x))
        return self.output(user_x, item_x, users, items)
