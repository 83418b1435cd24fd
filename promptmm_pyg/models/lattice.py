"""Item graphs that are learned along with the model."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, EdgePattern, FrozenGraph, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._feature_checks import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.knn import knn_graph, normalize_edges
from promptmm_pyg.targets import TeacherOutput


class LATTICE(ContentRecommender):
    r"""LightGCN whose items also learn from similar items, on graphs that follow the
    features as they are projected, after the `"Mining Latent Structures for Multimedia
    Recommendation" <https://arxiv.org/abs/2104.09036>`_ paper.

    .. math::
        \mathbf{S} = \sum_m \alpha_m \left( \lambda \mathbf{S}^m + (1 - \lambda)
        \tilde{\mathbf{S}}^m \right), \qquad \mathbf{h}^{(l+1)} = \mathbf{S}
        \mathbf{h}^{(l)}, \qquad \mathbf{x}_i = \bar{\mathbf{e}}_i +
        \mathrm{norm}(\mathbf{h}_i^{(L)})

    :math:`\mathbf{S}^m` joins items to their nearest neighbors by raw features,
    weighted by cosine (negative ones are zero), and is normalized symmetrically;
    :math:`\tilde{\mathbf{S}}^m` does so by projected features. :math:`\alpha` is a
    trained softmax, :math:`\mathbf{h}^{(0)}` the items' ids :math:`\mathbf{e}`, and
    :math:`\bar{\mathbf{e}}` what LightGCN makes of them.

    *Which* items are joined in :math:`\tilde{\mathbf{S}}^m` is found anew whenever
    training of an epoch begins (``train()`` is called), every ``refresh_interval``
    steps and after :meth:`refresh`; in eval mode at every call, so that the output
    depends on the parameters alone. *How much* they weigh follows the projection at
    every step, with gradients (in the paper: only where the graph is new). A node is
    not its own neighbor here.

    A modality's vectors are those of items on its own graph alone, with users as they
    are.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``; a row of zeros
            is absent.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of tables and projections. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        num_item_layers: Layers :math:`L` of the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality. (default: ``10``)
        frozen_weight: :math:`\lambda`, in [0, 1). (default: ``0.9``)
        refresh_interval: Steps of training between two searches for neighbors.
            (default: one search an epoch)
        init_std: Standard deviation of the tables' start. (default: ``0.1``)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, also per modality

    Raises:
        ValueError: If sizes, rates, features or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {'bpr': 1.0, 'l2': 1e-4}
    printed = ('num_layers', 'num_neighbors')

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
        init_std: float = 0.1,
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
        """Resets all learnable parameters of the module."""
        super().reset_parameters()
        torch.nn.init.zeros_(self.modality_logits)
        self.refresh()

    def refresh(self) -> None:
        """Makes the next step search for neighbors."""
        self._patterns = {}

    def train(self, mode: bool = True) -> Self:
        """Like :meth:`torch.nn.Module.train`; an epoch starts with new neighbors."""
        self.refresh()
        return super().train(mode)

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        id_dict = self.embeddings()
        user_x, item_x = adj.smooth(
            id_dict[self.user], id_dict[self.item], self.num_layers
        )
        parts, h = self._similar(id_dict[self.item])
        views = {
            modality: (user_x, item_x + l2_normalize(part))
            for modality, part in parts.items()
        }
        return self.output(user_x, item_x + l2_normalize(h), views)

    def _similar(self, h: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The vectors from similar items: per modality in the last layer, and fused."""
        learned = self._learned()
        shares = self.modality_logits.softmax(dim=0)
        parts: dict[str, Tensor] = {}
        for _ in range(self.num_item_layers):
            parts = {
                modality: torch.lerp(
                    pattern.sum(weight, h),
                    self.graphs[f'graph_{modality}'](h),
                    self.frozen_weight,
                )
                for modality, (pattern, weight) in learned.items()
            }
            h = torch.einsum('m,mnd->nd', shares, torch.stack([*parts.values()]))
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
            # The projection of an absent row is its bias, and no content.
            mask = self.features.present(modality)
            edge_index, _ = knn_graph(x, self.num_neighbors, mask=mask)
            patterns[modality] = EdgePattern(edge_index, (x.size(0), x.size(0)))
        return patterns

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses on one batch: ``bpr`` of the final embeddings and ``l2``, half the
        squared norm of the id rows of an example, averaged over the batch.

        Args:
            output: The output of the model.
            batch: User, positive and negative items ``[B]``.
        """
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': self.l2(self.embeddings(), batch),
        }
