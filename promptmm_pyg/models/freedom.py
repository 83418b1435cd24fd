"""A frozen item graph beside a user-item graph that is thinned out."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import (
    Bipartite,
    EdgeDict,
    EdgeSampler,
    FrozenGraph,
    GraphCache,
    WeightDict,
)
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._feature_checks import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput


class FREEDOM(ContentRecommender):
    r"""LightGCN whose items also learn from similar items, on a graph that is frozen,
    while the user-item graph loses edges of busy nodes in every epoch, after the `"A
    Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
    Recommendation" <https://arxiv.org/abs/2211.06924>`_ paper.

    .. math::
        \mathbf{x}_u = \bar{\mathbf{e}}_u, \qquad \mathbf{x}_i = \bar{\mathbf{e}}_i +
        (\mathbf{S}^{L} \mathbf{e})_i, \qquad \mathbf{S} = \sum_m \alpha_m \mathbf{S}^m

    with ids :math:`\mathbf{e}`, their mean over LightGCN's layers
    :math:`\bar{\mathbf{e}}`, and :math:`\mathbf{S}^m` the symmetrically normalized,
    unweighted graph of nearest neighbors by raw features.

    While training, ``prune_ratio`` of the interactions are left out; one between nodes
    of degree :math:`d_u` and :math:`d_i` stays in proportion to :math:`1 / \sqrt{d_u
    d_i}`, and what is left is normalized symmetrically. Edges are drawn anew whenever
    training of an epoch begins (``train()`` is called) and after :meth:`resample`, from
    torch's global generator. In eval mode the graph is whole. Edges that were not
    converted (:func:`~promptmm_pyg.nn.csr_pair_dict`) are another graph at every call,
    and drawn from at every call.

    A modality's vectors are the projected features of items (without a bias, which
    changes no ranking), and users as they are.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``; a row of zeros
            is absent.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        num_item_layers: Layers :math:`L` of the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality. (default: ``10``)
        modality_weights: :math:`\alpha` up to a factor: they are scaled to sum to one.
            (default: all the same)
        prune_ratio: The share of interactions left out, in [0, 1). (default: ``0.8``)
        init_std: Standard deviation of the tables' start. (default: ``0.1``)

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
        init_std: float = 0.1,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('num_item_layers', num_item_layers)
        check_probability('prune_ratio', prune_ratio)
        self.prune_ratio = prune_ratio
        self.features = self.project(modality_x_dict, embedding_dim, bias=False)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        shares = _shares(self.features.modalities, modality_weights)
        graphs = self.knn_edges(modality_x_dict, num_neighbors)
        weights = [
            weight * share
            for (_, weight), share in zip(graphs, shares.values(), strict=True)
        ]
        # The weights of an edge of several modalities add up.
        edges = torch.cat([index for index, _ in graphs], dim=1), torch.cat(weights)
        self.graph = FrozenGraph(edges, self.num_items, num_item_layers)
        self._sampler = GraphCache(EdgeSampler)
        self._pruned_last: tuple[CSRPair, CSRPair] | None = None  # Graph, subgraph.

    def resample(self) -> None:
        """Makes the next training step draw the interactions anew."""
        self._pruned_last = None

    def train(self, mode: bool = True) -> Self:
        """Like :meth:`torch.nn.Module.train`; an epoch starts with a new draw."""
        self.resample()
        return super().train(mode)

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        if self.training and self.prune_ratio > 0:
            adj = self._pruned(adj)
        id_dict = self.embeddings()
        user_x, item_x = adj.smooth(
            id_dict[self.user], id_dict[self.item], self.num_layers
        )
        views = {modality: (user_x, x) for modality, x in self.features().items()}
        return self.output(user_x, item_x + self.graph(id_dict[self.item]), views)

    def _pruned(self, adj: Bipartite[CSRPair]) -> Bipartite[CSRPair]:
        graph = adj.to_item
        if self._pruned_last is None or self._pruned_last[0] is not graph:
            pruned = self._sampler(graph).sample(1 - self.prune_ratio)
            self._pruned_last = graph, pruned
        part = self._pruned_last[1]
        return Bipartite(part, part.t())

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses on one batch: ``bpr`` and ``l2`` of the final embeddings, and
        ``modality_bpr`` of users with projected features, averaged over modalities.

        Args:
            output: The output of the model.
            batch: User, positive and negative items ``[B]``.
        """
        views = output.modality_x_dict.values()
        losses = [self.bpr(x_dict, batch) for x_dict in views]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'modality_bpr': torch.stack(losses).mean(),
            'l2': self.l2(output.x_dict, batch),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_pruned_last': None}  # Operators cannot be copied.


def _shares(
    modalities: list[str], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """One share per modality, summing to one."""
    if weights is None:
        weights = dict.fromkeys(modalities, 1.0)
    if set(weights) != set(modalities):
        raise ValueError(
            f"'modality_weights' requires the modalities {sorted(modalities)} (got "
            f'{sorted(weights)})'
        )
    for modality, weight in weights.items():
        check_non_negative(f"modality_weights['{modality}']", weight)
    total = sum(weights.values())
    check_positive('sum(modality_weights)', total)
    return {modality: weights[modality] / total for modality in modalities}
