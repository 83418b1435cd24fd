"""BM3: views of one node that predict each other, without negatives."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import scaled_cosine_loss
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender, unsquared_norm
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.dropout import dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.propagation import HeteroPropagation
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput


class BM3(ContentRecommender):
    r"""Id and feature vectors that predict each other's dropped-out copies, after the
    `"Bootstrap Latent Representations for Multi-modal Recommendation"
    <https://arxiv.org/abs/2207.05969>`_ paper.

    .. math::
        \mathbf{h}_u = \mathrm{mean}_l \, \mathbf{x}_u^{(l)}, \quad
        \mathbf{h}_i = \mathrm{mean}_l \, \mathbf{x}_i^{(l)} + \mathbf{x}_i^{(0)},
        \quad \mathbf{h}_i^m = \mathbf{W}_m \mathbf{x}_i^m + \mathbf{b}_m

    with LightGCN's layers of id embeddings. One linear predictor maps every
    :math:`\mathbf{h}` to an *online* vector :math:`\tilde{\mathbf{h}}`; the score is
    :math:`\tilde{\mathbf{h}}_u^{\top} \tilde{\mathbf{h}}_i`. The *target*
    :math:`\dot{\mathbf{h}}` of the losses is :math:`\mathbf{h}` after dropout, without
    gradient. :meth:`losses` computes it from the operators of the last call, the
    attribute ``adj_dict``, which is not part of the state. Everything is that of the
    released code, except that features are constants.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of the id propagation. (default: ``2``)
        dropout: Dropout rate of the targets. (default: ``0.3``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` of online vectors;
          per modality :math:`\tilde{\mathbf{h}}_i^m` and, as users have no features,
          :math:`\tilde{\mathbf{h}}_u`

    Raises:
        ValueError: If sizes, features, rates or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'reconstruction': 1.0,
        'alignment': 2.0,
        'masked': 2.0,
        'l2': 0.1,
    }
    linear_start = 'xavier_normal'
    printed = ('num_layers', 'dropout')
    not_copied = ('adj_dict',)
    adj_dict: dict[EdgeType, CSRPair] | None
    search_space = trained_space(
        0.1, num_layers=Choices(2, (1, 2, 3)), dropout=Choices(0.3, (0.3, 0.5))
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        dropout: float = 0.3,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_probability('dropout', dropout)
        self.num_nodes_dict = dict(num_nodes_dict)
        self.dropout = dropout
        self.adj_dict = None
        self.embeddings = NodeEmbeddings(num_nodes_dict, embedding_dim, init_std)
        self.propagation = HeteroPropagation(num_layers)
        self.features = self.project(modality_x_dict, embedding_dim)
        self.predictor = torch.nn.Linear(embedding_dim, embedding_dim)
        self.reset_parameters()

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        self.adj_dict = self.operators(edge_index_dict, edge_weight_dict)
        h_dict = self._latent(self.adj_dict)
        x_dict = {key: self.predictor(h) for key, h in h_dict.items()}
        modality_x_dict = {
            modality: {self.user: x_dict[self.user], self.item: self.predictor(h)}
            for modality, h in self.features().items()
        }
        return TeacherOutput(x_dict, modality_x_dict)

    def _latent(self, adj_dict: dict[EdgeType, CSRPair]) -> dict[NodeType, Tensor]:
        id_dict = self.embeddings()
        h_dict: dict[NodeType, Tensor] = self.propagation(id_dict, adj_dict)
        h_dict[self.item] = h_dict[self.item] + id_dict[self.item]
        return h_dict

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        r"""The losses of one batch, with :math:`C` one minus the cosine.

        * ``reconstruction``: :math:`C(\tilde{\mathbf{h}}_u, \dot{\mathbf{h}}_i) +
          C(\tilde{\mathbf{h}}_i, \dot{\mathbf{h}}_u)`;
        * ``alignment``: :math:`C(\tilde{\mathbf{h}}_i^m, \dot{\mathbf{h}}_i)`, summed
          over modalities;
        * ``masked``: :math:`C(\tilde{\mathbf{h}}_i^m, \dot{\mathbf{h}}_i^m)`, summed
          over modalities;
        * ``l2``: :math:`(\lVert \mathbf{H}_U \rVert_F + \lVert \mathbf{H}_I \rVert_F) /
          |I|` of all users and items.

        All others are averaged over the batch. Negatives are not used.

        Raises:
            RuntimeError: If the model was never called.
        """
        user, item, _ = batch
        h_dict = self._latents()
        user_target, item_target, feature_targets = self._targets(h_dict, user, item)
        online = output.x_dict[self.user][user], output.x_dict[self.item][item]
        alignment, masked = [], []
        for modality, target in feature_targets.items():
            feature = output.modality_x_dict[modality][self.item][item]
            alignment.append(_distance(feature, item_target))
            masked.append(_distance(feature, target))
        return {
            'reconstruction': (
                _distance(online[0], item_target) + _distance(online[1], user_target)
            ),
            'alignment': torch.stack(alignment).sum(),
            'masked': torch.stack(masked).sum(),
            'l2': unsquared_norm(h_dict[self.item], h_dict[self.user]),
        }

    def _latents(self) -> dict[NodeType, Tensor]:
        """:math:`\\mathbf{h}` on the graph of the last call."""
        if self.adj_dict is None:
            raise RuntimeError("'losses' must follow a call of the model (got none)")
        return self._latent(self.adj_dict)

    @torch.no_grad()
    def _targets(
        self, h_dict: dict[NodeType, Tensor], user: Tensor, item: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The target rows of users, of items and of the items' modalities."""
        features = self.features(item)
        return (
            self._drop(h_dict[self.user][user]),
            self._drop(h_dict[self.item][item]),
            {modality: self._drop(h) for modality, h in features.items()},
        )

    def _drop(self, h: Tensor) -> Tensor:
        return dropout(h, self.dropout, self.training)


def _distance(online: Tensor, target: Tensor) -> Tensor:
    return scaled_cosine_loss(online, target, gamma=1.0)
