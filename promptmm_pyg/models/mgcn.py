"""MGCN: modality features that are gated by id embeddings."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, FrozenGraph, WeightDict
from promptmm_pyg.models.base import ContentRecommender, linears
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput


class MGCN(ContentRecommender):
    r"""LightGCN plus item graphs of purified features, fused by gates on behavior,
    after the `"Multi-View Graph Convolutional Network for Multimedia Recommendation"
    <https://arxiv.org/abs/2308.03588>`_ paper.

    Projected features :math:`\mathbf{f}^m` gate the item ids, which are propagated on
    the graph of similar items, and from items to users:

    .. math::
        \mathbf{g}_i^m = \mathbf{e}_i \odot \sigma(\mathbf{W}_2^m \mathbf{f}_i^m +
        \mathbf{b}_2^m), \qquad \mathbf{v}_{\text{items}}^m = \mathbf{S}^m
        \mathbf{g}^m, \qquad \mathbf{v}_{\text{users}}^m = \mathbf{A}
        \mathbf{v}_{\text{items}}^m

    Attention computes what modalities share; the rest is gated by behavior
    :math:`\bar{\mathbf{e}}`, the mean of the ids :math:`\mathbf{e}` over LightGCN's
    layers:

    .. math::
        \mathbf{s} = \sum_m \mathrm{softmax}_m \left( \mathbf{q}^{\top}
        \tanh(\mathbf{W}_3 \mathbf{v}^m + \mathbf{b}_3) \right) \mathbf{v}^m, \qquad
        \mathbf{c}^m = (\mathbf{v}^m - \mathbf{s}) \odot
        \sigma(\mathbf{W}_4^m \bar{\mathbf{e}} + \mathbf{b}_4^m), \qquad \mathbf{x} =
        \bar{\mathbf{e}} + \frac{1}{M + 1} \Big( \mathbf{s} + \sum_m \mathbf{c}^m \Big)

    :math:`\mathbf{S}^m` is the graph of nearest neighbors by raw features, one of which
    is the item itself, weighted by cosine (negative cosines are zero) and normalized
    symmetrically. With one modality, everything is shared, and attention and the second
    gate have no effect. A modality's vectors are :math:`\mathbf{c}^m + \mathbf{s} / M`.

    Everything is that of the released code, where it differs from the paper, too (the
    average over :math:`M + 1` parts), except that features are constants.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``; zeros in rows
            that are absent.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        num_item_layers: Layers of the item graphs. (default: ``1``)
        num_neighbors: Neighbors of an item and modality, with itself.
            (default: ``10``)
        temperature: Of the contrast. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, also per modality

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-4,
        'contrast': 0.01,
    }
    printed = ('num_layers', 'temperature')
    search_space = trained_space(
        1e-4,
        num_layers=Choices(2, (1, 2, 3, 4)),
        num_neighbors=Choices(10, (5, 10, 20)),
        contrast=Range(0.01, 1e-3, 0.1),
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
        temperature: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('num_item_layers', num_item_layers)
        check_positive('temperature', temperature)
        self.temperature = temperature
        self.features = self.project(modality_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.graphs = torch.nn.ModuleList(
            FrozenGraph(edges, self.num_items, num_item_layers)
            for edges in self.knn_edges(modality_x_dict, num_neighbors, weighted=True)
        )
        size = len(self.modalities), embedding_dim, embedding_dim
        self.purifiers, self.preferences = linears(*size), linears(*size)
        self.query = torch.nn.Sequential(
            torch.nn.Linear(embedding_dim, embedding_dim),
            torch.nn.Tanh(),
            torch.nn.Linear(embedding_dim, 1, bias=False),
        )
        self.reset_parameters()

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        user_x, item_x = self.smooth_ids(adj)
        item_views = self._item_views(self.embeddings()[self.item])
        width = self.embeddings.embedding_dim
        user_views = (adj.to_user @ torch.cat(item_views, dim=1)).split(width, dim=1)
        users = self._fuse(torch.stack(user_views), user_x).unbind()
        items = self._fuse(torch.stack(item_views), item_x).unbind()
        user_x, item_x = user_x + self.content(users), item_x + self.content(items)
        return self.output(user_x, item_x, users, items)

    def _item_views(self, ids: Tensor) -> list[Tensor]:
        parts = zip(self.features().values(), self.purifiers, self.graphs, strict=True)
        return [graph(ids * purify(x).sigmoid()) for x, purify, graph in parts]

    def _fuse(self, views: Tensor, behavior: Tensor) -> Tensor:
        """What each modality adds to behavior, ``[M, N, D]`` like ``views``."""
        shared = (self.query(views).softmax(dim=0) * views).sum(dim=0)
        gates = [prefer(behavior).sigmoid() for prefer in self.preferences]
        out: Tensor = shared / len(views) + (views - shared) * torch.stack(gates)
        return out

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        r"""``bpr``, ``l2`` and ``contrast`` of one batch: InfoNCE from what content
        adds to an embedding to :math:`\bar{\mathbf{e}}`, over the users of the batch
        plus over its positives.
        """
        contrast = self.content_contrast(output, batch)
        return {**super().losses(output, batch), 'contrast': contrast}
