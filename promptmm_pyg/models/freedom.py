"""FREEDOM: a frozen item graph and a pruned user-item graph."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import (
    EdgeDict,
    EpochPruning,
    WeightDict,
)
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput


class FREEDOM(ContentRecommender):
    r"""LightGCN with a frozen graph of similar items and a user-item graph that is
    pruned in every epoch, after the `"A Tale of Two Graphs: Freezing and Denoising
    Graph Structures for Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_
    paper.

    .. math::
        \mathbf{x}_u = \bar{\mathbf{e}}_u, \qquad \mathbf{x}_i = \bar{\mathbf{e}}_i +
        (\mathbf{S}^{L} \mathbf{e})_i, \qquad \mathbf{S} = \sum_m \alpha_m \mathbf{S}^m

    with id embeddings :math:`\mathbf{e}`, their mean over LightGCN's layers
    :math:`\bar{\mathbf{e}}`, and :math:`\mathbf{S}^m` the symmetrically normalized,
    unweighted graph of nearest neighbors by raw features, one of which is the item
    itself. Everything is that of the released code, except that features are constants.

    In training, ``prune_ratio`` of the edges are removed. The probability that an edge
    between nodes of degree :math:`d_u` and :math:`d_i` remains is proportional to
    :math:`1 / \sqrt{d_u d_i}`; the subgraph is normalized symmetrically. It is sampled
    when an epoch starts (``train()`` is called) and after ``pruning.resample()``, with
    torch's global generator. Eval mode uses all edges. Convert edges once with
    :func:`~promptmm_pyg.nn.csr_pair_dict`: others are a new graph, with a new subgraph,
    at every call.

    A modality's vectors are the projected features of items (without the published
    bias, which has no effect) and the final embeddings of users.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``; zeros in rows
            that are absent.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        num_item_layers: Layers :math:`L` of the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality, with itself.
            (default: ``10``)
        modality_weights: :math:`\alpha`, scaled to sum to one. (default: as published,
            .9 for ``'text'`` and .1 for the others together; equal without text)
        prune_ratio: The ratio of removed edges, in [0, 1). (default: ``0.8``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, also per modality

    Raises:
        ValueError: If sizes, weights, features or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'modality_bpr': 1e-3,
        'l2': 0.0,  # The paper has none.
    }
    printed = ('num_layers', 'prune_ratio')
    search_space = trained_space(
        0.0,
        num_layers=Choices(2, (1, 2, 3, 4)),
        prune_ratio=Choices(0.8, (0.0, 0.5, 0.8, 0.9)),
        modality_bpr=Range(1e-3, 1e-4, 0.1),
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
        prune_ratio: float = 0.8,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        self.prune_ratio = prune_ratio
        self.pruning = EpochPruning(prune_ratio)
        self.features = self.project(modality_x_dict, embedding_dim, bias=False)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.graph = self.item_graph(
            modality_x_dict, num_neighbors, num_item_layers, modality_weights
        )

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.pruning(self.bipartite(edge_index_dict, edge_weight_dict))
        user_x, item_x = self.smooth_ids(adj)
        users = [user_x] * len(self.modalities)
        items = self.features().values()
        item_x = item_x + self.graph(self.embeddings()[self.item])
        return self.output(user_x, item_x, users, items)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch: ``bpr`` and ``l2`` of the final embeddings, and
        ``modality_bpr`` of the modalities' vectors, summed over modalities.
        """
        views = output.modality_x_dict.values()
        losses = [self.bpr(x_dict, batch) for x_dict in views]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'modality_bpr': torch.stack(losses).sum(),
            'l2': self.l2(output.x_dict, batch),
        }
