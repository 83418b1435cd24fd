"""LATTICE: item graphs that are learned with the model."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.models._graphs import (
    EdgeDict,
    EdgePattern,
    FrozenGraph,
    GraphCache,
    mean_operator,
)
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.knn import knn_graph, normalize_edges
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput


class LATTICE(ContentRecommender):
    r"""LightGCN with graphs of similar items by raw and by projected features, after
    the `"Mining Latent Structures for Multimedia Recommendation"
    <https://arxiv.org/abs/2104.09036>`_ paper.

    .. math::
        \mathbf{S} = \lambda \sum_m \alpha_m \mathbf{S}^m + (1 - \lambda) \,
        \mathcal{N} \Big( \sum_m \alpha_m \tilde{\mathbf{K}}^m \Big), \qquad
        \mathbf{h}^{(l+1)} = \mathbf{S} \mathbf{h}^{(l)}, \qquad \mathbf{x}_i =
        \bar{\mathbf{e}}_i + \mathrm{norm}(\mathbf{h}_i^{(L)})

    :math:`\mathbf{S}^m` is the graph of nearest neighbors by raw features, one of which
    is the item itself, weighted by cosine (negative cosines are zero) and normalized
    symmetrically, :math:`\mathcal{N}`; :math:`\tilde{\mathbf{K}}^m` is that by
    projected features before it is normalized. :math:`\alpha` is a trained softmax,
    :math:`\mathbf{h}^{(0)}` the id embeddings :math:`\mathbf{e}` of the items, and
    :math:`\bar{\mathbf{e}}` the mean over layers of
    :math:`\mathbf{D}^{-1} (\mathbf{A} + \mathbf{I})` on users and items, with nodes as
    their own neighbors. Edge weights are not used.

    The graph :math:`\mathbf{S}` is built when an epoch starts (``train()`` is called),
    every ``refresh_interval`` steps and after :meth:`refresh`. Gradients reach the
    projections and :math:`\alpha` in these steps only; in the others the graph is
    constant. In eval mode it is built at every call, so that the output depends on the
    parameters only.

    Everything is that of the released code, also where it differs from the paper (the
    operator of users and items), except that features are constants. A modality's
    vectors, which the paper has not, are those of items with :math:`\mathbf{S}^m` in
    place of :math:`\mathbf{S}`, and the final embeddings of users.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``; zeros in rows
            that are absent.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of tables and projections. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        num_item_layers: Layers :math:`L` of the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality, with itself.
            (default: ``10``)
        frozen_weight: :math:`\lambda`, in [0, 1). (default: ``0.9``)
        refresh_interval: Training steps between two constructions of the graph.
            (default: one per epoch)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair`
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, also per modality

    Raises:
        ValueError: If sizes, rates, features or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {'bpr': 1.0, 'l2': 1e-4}
    reads_weights = False
    printed = ('num_layers', 'num_neighbors')
    not_copied = ('_last',)
    search_space = trained_space(
        1e-4,
        num_layers=Choices(2, (1, 2, 3, 4)),
        num_neighbors=Choices(10, (5, 10, 20)),
        frozen_weight=Choices(0.9, (0.5, 0.7, 0.9)),
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
        self._operator = GraphCache(partial(mean_operator, self_loops=True))
        self._last: _ItemGraph | None = None
        self._steps = 0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        torch.nn.init.zeros_(self.modality_logits)
        self.refresh()

    def refresh(self) -> None:
        """Makes the next training step build the graph anew."""
        self._last = None

    def train(self, mode: bool = True) -> Self:
        """Like :meth:`torch.nn.Module.train`; also calls :meth:`refresh`."""
        self.refresh()
        return super().train(mode)

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: object = None,  # noqa: ARG002
    ) -> TeacherOutput:
        user_x, item_x = self._smooth(self.bipartite(edge_index_dict).to_item)
        parts, h = self._similar(self.embeddings()[self.item])
        items = [item_x + l2_normalize(part) for part in parts]
        users = [user_x] * len(items)
        return self.output(user_x, item_x + l2_normalize(h), users, items)

    def _smooth(self, adj: CSRPair) -> tuple[Tensor, Tensor]:
        operator, id_dict = self._operator(adj), self.embeddings()
        x = torch.cat([id_dict[self.user], id_dict[self.item]])
        total = x
        for _ in range(self.num_layers):
            x = operator @ x
            total = total + x
        user_x, item_x = (total / (self.num_layers + 1)).split(
            [self.num_users, self.num_items]
        )
        return user_x, item_x

    def _similar(self, h: Tensor) -> tuple[list[Tensor], Tensor]:
        """The vectors from similar items: per modality in the last layer, and fused."""
        graph = self._item_graph()
        parts: list[Tensor] = []
        for _ in range(self.num_item_layers):
            parts = [frozen(h) for frozen in self.graphs.values()]
            fixed = torch.einsum('m,mnd->nd', graph.alphas, torch.stack(parts))
            learned = graph.pattern.sum(graph.weight, h)
            h = torch.lerp(learned, fixed, self.frozen_weight)
        return parts, h

    def _item_graph(self) -> '_ItemGraph':
        if not self.training:
            return self._built()
        due = self.refresh_interval is not None and self._steps >= self.refresh_interval
        self._steps += 1
        if self._last is not None and not due:
            return self._last
        graph, self._steps = self._built(), 1
        self._last = _ItemGraph(
            graph.pattern, graph.weight.detach(), graph.alphas.detach()
        )
        return graph

    def _built(self) -> '_ItemGraph':
        """The graph by projected features, with gradients."""
        alphas = self.modality_logits.softmax(dim=0)
        keys, cosines, num = [], [], self.num_items
        for alpha, (modality, x) in zip(alphas, self.features().items(), strict=True):
            unit = l2_normalize(x)
            # The projection of an absent row is the bias, not content.
            mask = self.features.present(modality)
            edge_index, _ = knn_graph(
                unit, self.num_neighbors, mask=mask, self_loops=True
            )
            pattern = EdgePattern(edge_index, (num, num))
            keys.append(pattern.target * num + pattern.source)
            cosines.append(alpha * pattern.dot(unit, unit).clamp_min(0.0))
        union, position = torch.cat(keys).unique(return_inverse=True)
        cosine = torch.cat(cosines)
        weight = cosine.new_zeros(union.numel()).index_add(0, position, cosine)
        # In the order of `EdgePattern`: by destination, then source.
        edge_index = torch.stack([union % num, union // num])
        weight = normalize_edges(edge_index, weight, num)
        return _ItemGraph(EdgePattern(edge_index, (num, num)), weight, alphas)


class _ItemGraph(NamedTuple):
    """The learned graph, and the weights of the modalities."""

    pattern: EdgePattern
    weight: Tensor
    alphas: Tensor
