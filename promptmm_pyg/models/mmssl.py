"""MMSSL: modality views that explain the collaborative one."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS, FeatureDict
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._bipartite import Bipartite, Operator, bipartite
from promptmm_pyg.models._contrast import contrast
from promptmm_pyg.models._cross_modal_attention import CrossModalAttention
from promptmm_pyg.models._projected_features import ProjectedFeatures
from promptmm_pyg.models.base import GraphRecommender, features_or_none
from promptmm_pyg.nn.csr import Adjacency
from promptmm_pyg.nn.dropout import Dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput


class MMSSL(GraphRecommender):
    r"""A teacher after the `"Multi-Modal Self-Supervised Learning for Recommendation"
    <https://arxiv.org/abs/2302.10632>`_ paper.

    The adversarial half of the paper is left out: there, a generator trained against a
    discriminator proposes one user-item graph per modality; here, all modalities travel
    along the observed graph. What remains, in our formulas:

    .. math::
        \mathbf{F}_u^m = \mathbf{A} (\mathbf{X}^m \mathbf{W}_m^{\top} + \mathbf{b}_m),
        \quad \mathbf{F}_i^m = \mathbf{A}^{\top} \mathbf{F}_u^m, \qquad
        \mathbf{E}^{(0)} = \mathbf{E}^{\text{id}} + \eta \, \mathrm{norm} \Big(
        \frac{1}{|M|} \sum_m \bar{\mathbf{F}}^m \Big)

    .. math::
        \hat{\mathbf{E}} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{E}^{(l)}, \qquad
        \mathbf{E} = \hat{\mathbf{E}} + \omega \sum_m \mathrm{norm}(\mathbf{F}^m)

    with :math:`\bar{\mathbf{F}}^m` from attention among a node's modalities, several
    heads wide. :meth:`losses` has ``bpr``, ``l2`` and ``contrast``: InfoNCE, both ways,
    between the collaborative vectors :math:`\hat{\mathbf{e}}_u` of the batch's users
    and each attended view :math:`\bar{\mathbf{f}}_u^m`, averaged over the modalities.

    With one modality, attention has nothing to choose and its weights stay as they are.
    Features are part of the module as buffers that are not saved.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {item: [N, F_m]}}``.
        edge_type: The relation from users to items. (default: ``INTERACTS``)
        embedding_dim: The shared width :math:`D`. (default: ``64``)
        num_layers: Layers :math:`L` of the id propagation. (default: ``2``)
        num_heads: Heads of the attention; divides the width. (default: ``4``)
        fused_weight: :math:`\eta`. (default: ``0.1``)
        modality_weight: :math:`\omega`. (default: ``0.5``)
        dropout: Dropout rate of the reduced features. (default: ``0.2``)
        temperature: Of the contrast. (default: ``0.2``)
        init_std: Standard deviation of the id tables' start. (default: ``0.1``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`

    Raises:
        ValueError: If sizes, rows or weights do not fit.
    """

    reads_features = True
    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-3,
        'contrast': 0.03,
    }

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: FeatureDict | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        fused_weight: float = 0.1,
        modality_weight: float = 0.5,
        dropout: float = 0.2,
        temperature: float = 0.2,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(num_nodes_dict, edge_type)
        modality_x_dict = features_or_none(modality_x_dict)
        check_positive('num_layers', num_layers)
        check_non_negative('fused_weight', fused_weight)
        check_non_negative('modality_weight', modality_weight)
        check_probability('dropout', dropout)
        check_positive('temperature', temperature)
        self.modalities = list(modality_x_dict)
        self.num_layers = num_layers
        self.fused_weight = fused_weight
        self.modality_weight = modality_weight
        self.temperature = temperature
        user, item = self.user, self.item
        self.num_nodes_dict = {key: num_nodes_dict[key] for key in (user, item)}
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.attention = CrossModalAttention(embedding_dim, num_heads)
        self.features = ProjectedFeatures(
            self.num_nodes_dict, item, modality_x_dict, embedding_dim
        )
        self.dropout = Dropout(dropout)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.embeddings.reset_parameters()
        self.attention.reset_parameters()
        self.features.reset_parameters()

    def forward(
        self,
        edge_index_dict: dict[EdgeType, Adjacency],
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,
    ) -> TeacherOutput:
        graph = bipartite(
            edge_index_dict,
            edge_weight_dict,
            edge_type=self.edge_type,
            num_nodes_dict=self.num_nodes_dict,
        )
        views = self._views(graph)  # Per side, [M, N, D].
        start = {
            key: table
            + self.fused_weight * l2_normalize(self.attention(views[key]).mean(dim=0))
            for key, table in self.embeddings().items()
        }
        user, item = self.edge_type[0], self.edge_type[2]
        smooth = graph.smooth(start[user], start[item], self.num_layers)
        x_dict = {
            key: x + self._modality_part(views[key])
            for key, x in zip((user, item), smooth, strict=True)
        }
        modality_x_dict = {
            modality: {key: views[key][place] for key in (user, item)}
            for place, modality in enumerate(self.modalities)
        }
        return TeacherOutput(x_dict, modality_x_dict)

    def _views(self, graph: Bipartite[Operator]) -> dict[NodeType, Tensor]:
        encoded = self.dropout(torch.cat(list(self.features().values()), dim=-1))
        user_x = graph.to_user @ encoded  # One product for all modalities.
        item_x = graph.to_item @ user_x
        num, user, item = len(self.modalities), self.edge_type[0], self.edge_type[2]
        return {
            user: torch.stack(user_x.chunk(num, dim=-1)),
            item: torch.stack(item_x.chunk(num, dim=-1)),
        }

    def _modality_part(self, views: Tensor) -> Tensor:
        return self.modality_weight * l2_normalize(views).sum(dim=0)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch.

        Args:
            output: What the forward returned.
            batch: User, positive and negative items ``[B]``.
        """
        user = self.user
        index = batch.user.unique()
        views = torch.stack(
            [output.modality_x_dict[m][user][index] for m in self.modalities]
        )
        collaborative = output.x_dict[user][index] - self._modality_part(views)
        losses = [
            contrast(collaborative, view, self.temperature)
            for view in self.attention(views)
        ]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': self.l2(output.x_dict, batch),
            'contrast': torch.stack(losses).mean(),
        }

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.embeddings}, '
            f'modalities={sorted(self.modalities)}, num_layers={self.num_layers})'
        )
