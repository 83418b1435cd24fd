"""LATTICE: item graphs that are learned with the model."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.models._graphs import EdgeDict, EdgePattern, FrozenGraph, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.knn import knn_graph, normalize_edges
from promptmm_pyg.targets import TeacherOutput


class LATTICE(ContentRecommender):
    r"""LightGCN with graphs of similar items by raw and by projected features, after
    the `"Mining Latent Structures for Multimedia Recommendation"
    <https://arxiv.org/abs/2104.09036>`_ paper.

    .. math::
        \mathbf{S} = \sum_m \alpha_m \left( \lambda \mathbf{S}^m + (1 - \lambda)
        \tilde{\mathbf{S}}^m \right), \qquad \mathbf{h}^{(l+1)} = \mathbf{S}
        \mathbf{h}^{(l)}, \qquad \mathbf{x}_i = \bar{\mathbf{e}}_i +
        \mathrm{norm}(\mathbf{h}_i^{(L)})

    :math:`\mathbf{S}^m` is the graph of nearest neighbors by raw features, weighted by
    cosine (negative cosines are zero) and normalized symmetrically;
    :math:`\tilde{\mathbf{S}}^m` is that by projected features. :math:`\alpha` is a
    trained softmax, :math:`\mathbf{h}^{(0)}` the id embeddings :math:`\mathbf{e}` of
    the items, and :math:`\bar{\mathbf{e}}` their mean over LightGCN's layers. ``l2`` is
    that of the rows of the id tables.

    The neighbors in :math:`\tilde{\mathbf{S}}^m` are searched when an epoch starts
    (``train()`` is called), every ``refresh_interval`` steps and after :meth:`refresh`;
    in eval mode at every call, so that the output depends on the parameters only. Their
    weights are computed from the projection at every step, with gradients (in the
    paper: only after a search). There are no self-loops.

    A modality's vectors are those of items on its own graph only, and the final
    embeddings of users.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``; zeros in rows
            that are absent.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of tables and projections. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        num_item_layers: Layers :math:`L` of the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality. (default: ``10``)
        frozen_weight: :math:`\lambda`, in [0, 1). (default: ``0.9``)
        refresh_interval: Training steps between two searches for neighbors.
            (default: one search per epoch)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, also per modality

    Raises:
        ValueError: If sizes, rates, features or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {'bpr': 1.0, 'l2': 1e-4}
    printed = ('num_layers', 'num_neighbors')
    l2_tables = ('embeddings',)

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
        frozen_weight: float = 0.9,
        refresh_interval: int | None = None,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('num_item_layers', num_item_layers)
        check_probability('frozen_weight', frozen_weight)
        if refresh_interval is not None:
            check_positive('refresh_interval', refresh_interval)
        self.num_item_layers = num_item_layers
        self.num_neighbors = num_neighbors
        self.frozen_weight = frozen_weight
        self.refresh_interval = refresh_interval
        self.features = self.project(modality_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.graphs = torch.nn.ModuleDict()
        graphs = self.knn_edges(modality_x_dict, num_neighbors, weighted=True)
        for modality, edges in zip(self.modalities, graphs, strict=True):
            self.graphs[f'graph_{modality}'] = FrozenGraph(edges, self.num_items)
        self.modality_logits = torch.nn.Parameter(torch.empty(len(self.graphs)))
        self._patterns: dict[str, EdgePattern] = {}
        self._steps = 0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        torch.nn.init.zeros_(self.modality_logits)
        self.refresh()

    def refresh(self) -> None:
        """Makes the next training step search for neighbors."""
        self._patterns = {}

    def train(self, mode: bool = True) -> Self:
        """Like :meth:`torch.nn.Module.train`; also calls :meth:`refresh`."""
        self.refresh()
        return super().train(mode)

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        user_x, item_x = self.smooth_ids(adj)
        parts, h = self._similar(self.embeddings()[self.item])
        items = [item_x + l2_normalize(part) for part in parts]
        users = [user_x] * len(items)
        return self.output(user_x, item_x + l2_normalize(h), users, items)

    def _similar(self, h: Tensor) -> tuple[list[Tensor], Tensor]:
        """The vectors from similar items: per modality in the last layer, and fused."""
        learned = self._learned()
        alphas = self.modality_logits.softmax(dim=0)
        parts: list[Tensor] = []
        for _ in range(self.num_item_layers):
            parts = [
                torch.lerp(
                    pattern.sum(weight, h),
                    self.graphs[f'graph_{modality}'](h),
                    self.frozen_weight,
                )
                for modality, (pattern, weight) in learned.items()
            ]
            h = torch.einsum('m,mnd->nd', alphas, torch.stack(parts))
        return parts, h

    def _learned(self) -> dict[str, tuple[EdgePattern, Tensor]]:
        """Edges by projected features, and their weights with gradients."""
        unit = {modality: l2_normalize(x) for modality, x in self.features().items()}
        patterns = self._neighbors(unit)
        learned = {}
        for modality, pattern in patterns.items():
            x = unit[modality]
            cosine = pattern.dot(x, x).clamp_min(0.0)
            edge_index = torch.stack([pattern.source, pattern.target])
            weight = normalize_edges(edge_index, cosine, x.size(0))
            learned[modality] = (pattern, weight)
        return learned

    def _neighbors(self, unit: dict[str, Tensor]) -> dict[str, EdgePattern]:
        if not self.training:
            return self._search(unit)
        due = self.refresh_interval is not None and self._steps >= self.refresh_interval
        if due or not self._patterns:
            self._patterns, self._steps = self._search(unit), 0
        self._steps += 1
        return self._patterns

    def _search(self, unit: dict[str, Tensor]) -> dict[str, EdgePattern]:
        patterns = {}
        for modality, x in unit.items():
            # The projection of an absent row is the bias, not content.
            mask = self.features.present(modality)
            edge_index, _ = knn_graph(x, self.num_neighbors, mask=mask)
            patterns[modality] = EdgePattern(edge_index, (x.size(0), x.size(0)))
        return patterns
