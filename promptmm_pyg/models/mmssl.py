"""MMSSL: contrast of modality views with the collaborative view."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import cosine_logsumexp, l2_normalize, rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._contrast import in_parts
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.dropout import Dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput


class MMSSL(ContentRecommender):
    r"""A teacher after the `"Multi-Modal Self-Supervised Learning for Recommendation"
    <https://arxiv.org/abs/2302.10632>`_ paper.

    The adversarial part of the paper is left out: a generator of one user-item graph
    per modality, against a discriminator that is trained in turns with the model. Here,
    all modalities are propagated on the observed graph. The paper's attention among the
    *ids* that these graphs propagate has nothing left to compare, as all of them would
    be equal, so the attention here is among the propagated *features*. The rest, in our
    notation:

    .. math::
        \mathbf{F}_u^m = \mathbf{A} (\mathbf{X}^m \mathbf{W}_m^{\top} + \mathbf{b}_m),
        \quad \mathbf{F}_i^m = \mathbf{A}^{\top} \mathbf{F}_u^m, \qquad
        \mathbf{E}^{(0)} = \mathbf{E}^{\text{id}} + \eta \, \mathrm{norm} \Big(
        \frac{1}{|M|} \sum_m \bar{\mathbf{F}}^m \Big)

    .. math::
        \hat{\mathbf{E}} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{E}^{(l)}, \qquad
        \mathbf{E} = \hat{\mathbf{E}} + \omega \sum_m \mathrm{norm}(\mathbf{F}^m)

    with :math:`\bar{\mathbf{F}}^m` from multi-head attention among the modalities of a
    node. With one modality, the weights of the attention get no gradient. Options and
    losses follow the released code, without the softmax over channels in its last
    layer, which the paper has not.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The shared width :math:`D`. (default: ``64``)
        num_layers: Layers :math:`L` of the id propagation. (default: ``2``)
        num_heads: Heads of the attention, a divisor of the width. (default: ``4``)
        fused_weight: :math:`\eta`. (default: ``0.36``)
        modality_weight: :math:`\omega`. (default: ``0.55``)
        dropout: Dropout rate of the reduced features. (default: ``0.2``)
        temperature: Of the contrast. (default: ``0.5``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`

    Raises:
        ValueError: If sizes, rows or weights do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-5,
        'modality_l2': 1e-5,
        'contrast': 0.03,
    }
    linear_start = 'xavier_uniform'
    search_space = trained_space(
        1e-5,
        num_layers=Choices(2, (1, 2, 3)),
        modality_weight=Range(0.55, 0.05, 1.0),
        contrast=Range(0.03, 3e-3, 0.3),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        fused_weight: float = 0.36,
        modality_weight: float = 0.55,
        dropout: float = 0.2,
        temperature: float = 0.5,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_non_negative('fused_weight', fused_weight)
        check_non_negative('modality_weight', modality_weight)
        check_probability('dropout', dropout)
        check_positive('temperature', temperature)
        self.fused_weight = fused_weight
        self.modality_weight = modality_weight
        self.temperature = temperature
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.attention = CrossModalAttention(embedding_dim, num_heads)
        self.features = self.project(modality_x_dict, embedding_dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        num = len(self.modalities)
        encoded = self.dropout(torch.cat(list(self.features().values()), dim=-1))
        user_x = adj.to_user @ encoded  # One product for all modalities.
        item_x = adj.to_item @ user_x
        # Of users and of items, [M, N, D].
        views = [torch.stack(x.chunk(num, dim=-1)) for x in (user_x, item_x)]
        id_dict = self.embeddings()
        start = [
            id_dict[key]
            + self.fused_weight * l2_normalize(self.attention(view).mean(dim=0))
            for key, view in zip((self.user, self.item), views, strict=True)
        ]
        smoothed = adj.smooth(start[0], start[1], self.num_layers)
        user_x, item_x = (
            x + self.modality_weight * l2_normalize(view).sum(dim=0)
            for x, view in zip(smoothed, views, strict=True)
        )
        return self.output(user_x, item_x, *views)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        r"""The losses of one batch.

        These are ``bpr`` and ``l2`` of the final embeddings; ``modality_l2``, half the
        squared norm of all :math:`\mathbf{F}^m`, divided by the number of items;
        ``contrast``, summed over modalities,

        .. math::
            -\log \frac{s(\bar{\mathbf{f}}_u^m, \mathbf{e}_u)} {\sum_{v \neq u}
            s(\bar{\mathbf{f}}_u^m, \bar{\mathbf{f}}_v^m) + \sum_v
            s(\bar{\mathbf{f}}_u^m, \mathbf{e}_v)}, \qquad s = \exp(\cos / \tau)

        over the distinct users :math:`v` of the batch.
        """
        users, items = (
            torch.stack([x_dict[key] for x_dict in output.modality_x_dict.values()])
            for key in (self.user, self.item)
        )
        distinct = batch.user.unique()
        final = rows(output.x_dict[self.user], distinct)
        views = self.attention(users[:, distinct])
        contrasts = [in_parts(self._contrast, view, final) for view in views]
        squares = users.square().sum() + items.square().sum()
        return {
            **super().losses(output, batch),
            'modality_l2': squares / (2 * self.num_items),
            'contrast': torch.stack(contrasts).sum(),
        }

    def _contrast(self, anchor: Tensor, positive: Tensor) -> Tensor:
        if anchor.size(0) < 2:  # No other user.
            return anchor.new_zeros(())
        a, b = l2_normalize(anchor), l2_normalize(positive)
        others = ~torch.eye(a.size(0), dtype=torch.bool, device=a.device)
        within, _ = cosine_logsumexp(a, a, self.temperature, others)
        across, _ = cosine_logsumexp(a, b, self.temperature)
        own = (a * b).sum(dim=1) / self.temperature
        return (torch.logaddexp(within, across) - own).mean()


class CrossModalAttention(torch.nn.Module):
    r"""Multi-head attention among the modality vectors of each node.

    .. math::
        \bar{\mathbf{f}}^m = \Vert_{h} \sum_{m'} \beta^h_{m m'} \,
        \mathbf{f}^{m', h}, \qquad
        \beta^h_{m m'} = \mathrm{softmax}_{m'} \left( \frac{(\mathbf{W}^Q_h
        \mathbf{f}^m)^{\top} \mathbf{W}^K_h \mathbf{f}^{m'}}{\sqrt{D / H}} \right)

    Head :math:`h` averages its own :math:`D / H` channels :math:`\mathbf{f}^{m', h}`,
    without a linear map.

    Args:
        channels: The width :math:`D`.
        num_heads: The number of heads :math:`H`, a divisor of ``channels``.

    Shapes:
        - **input:** vectors :math:`(M, N, D)`
        - **output:** vectors :math:`(M, N, D)`

    Raises:
        ValueError: If sizes do not fit.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        check_positive('num_heads', num_heads)
        if channels % num_heads:
            raise ValueError(
                f"'num_heads' must divide the width {channels} (got {num_heads})"
            )
        self.num_heads = num_heads
        self.query = torch.nn.Linear(channels, channels, bias=False)
        self.key = torch.nn.Linear(channels, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.xavier_uniform_(self.query.weight)
        torch.nn.init.xavier_uniform_(self.key.weight)

    def forward(self, x: Tensor) -> Tensor:
        num_views, num_nodes, channels = x.shape
        # [M, N, H, D / H]; `reshape` with -1 fails on no rows.
        size = (num_views, num_nodes, self.num_heads, channels // self.num_heads)
        query, key = self.query(x).view(size), self.key(x).view(size)
        logits = torch.einsum('mnhd,knhd->mknh', query, key)
        weight = (logits / size[-1] ** 0.5).softmax(dim=1)
        out = torch.einsum('mknh,knhd->mnhd', weight, x.view(size))
        return out.reshape(x.shape)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(num_heads={self.num_heads})'
