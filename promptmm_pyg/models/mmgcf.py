"""MMGCF: LightGCN's items fused with their features."""

from typing import Literal

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, EpochPruning, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput

FUSIONS = ('mean', 'sum', 'concat')
WEIGHTINGS = ('equal', 'alpha', 'normalized')


class MMGCF(ContentRecommender):
    r"""LightGCN on ids, with the features of items fused into the final embeddings of
    items: the model of the `"Multimodal Graph Collaborative Filtering for
    Recommendation with Graph Convolutional Networks"
    <https://doi.org/10.1145/3774935.3806158>`_ paper.

    With the mean :math:`\bar{\mathbf{e}}` over LightGCN's layers and projected features
    :math:`\mathbf{h}^m = \mathbf{W}_m \mathbf{x}^m + \mathbf{b}_m`, users are
    :math:`\bar{\mathbf{e}}_u`, and items are, by ``weighting``,

    .. math::
        \text{equal: } F \big( \bar{\mathbf{e}}_i, F(\mathbf{h}_i^1, \ldots,
        \mathbf{h}_i^{|M|}) \big), \qquad
        \text{alpha: } F \big( a \bar{\mathbf{e}}_i, (1 - a) \mathbf{h}_i^1, \ldots,
        (1 - a) \mathbf{h}_i^{|M|} \big), \qquad
        \text{normalized: } F \Big( |M| \frac{\bar{\mathbf{e}}_i}
        {\lVert \bar{\mathbf{e}}_i \rVert}, \frac{\mathbf{h}_i^1}
        {\lVert \mathbf{h}_i^1 \rVert}, \ldots \Big)

    where :math:`a` is the logistic function of a parameter that starts at 0, and
    :math:`F`, by ``fusion``, is the mean, the sum, or a linear layer on the
    concatenation. Users are neither fused nor normalized. The nine combinations are
    equal to the released code on two modalities (tested); for other numbers of
    modalities :math:`|M|`, the formula above is our generalization. Linear layers
    without influence on the chosen combination are left out.

    In training, ``prune_ratio`` of the edges are removed by the degrees of their nodes,
    as in :class:`~promptmm_pyg.models.FREEDOM`.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        fusion: ``'mean'``, ``'sum'`` or ``'concat'``. (default: ``'mean'``)
        weighting: ``'equal'``, ``'alpha'`` or ``'normalized'``. (default: ``'equal'``)
        prune_ratio: The ratio of removed edges, in [0, 1); tuned among 0.2, 0.5 and 0.8
            in the released code. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`; per modality the projected features of items and, as users
          have none, the embeddings of users

    Raises:
        ValueError: If sizes, features, options or edges do not fit.
    """

    printed = ('num_layers', 'fusion', 'weighting', 'prune_ratio')
    search_space = trained_space(
        1e-3,
        num_layers=Choices(2, (1, 2, 3, 4)),
        fusion=Choices('mean', ('mean', 'sum', 'concat')),
        weighting=Choices('equal', ('equal', 'alpha', 'normalized')),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        fusion: Literal['mean', 'sum', 'concat'] = 'mean',
        weighting: Literal['equal', 'alpha', 'normalized'] = 'equal',
        prune_ratio: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_choice('fusion', fusion, FUSIONS)
        check_choice('weighting', weighting, WEIGHTINGS)
        self.fusion = fusion
        self.weighting = weighting
        self.prune_ratio = prune_ratio
        self.features = self.project(modality_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.pruning = EpochPruning(prune_ratio)
        if weighting == 'alpha':
            self.gate = torch.nn.Parameter(torch.zeros(()))
        self.lins = torch.nn.ModuleList()
        num = len(self.modalities)
        if fusion == 'concat':
            inputs = (num, 2) if weighting == 'equal' else (num + 1,)
            self.lins.extend(
                torch.nn.Linear(k * embedding_dim, embedding_dim) for k in inputs
            )

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.weighting == 'alpha':
            torch.nn.init.zeros_(self.gate)

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.pruning(self.bipartite(edge_index_dict, edge_weight_dict))
        user_x, ids = self.smooth_ids(adj)
        items = list(self.features().values())
        users = [user_x] * len(items)
        return self.output(user_x, self._fused(ids, items), users, items)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` of the embeddings, and ``l2`` of the rows of the id tables."""
        l2 = self.l2(self.embeddings(), batch)
        return {'bpr': self.bpr(output.x_dict, batch), 'l2': l2}

    def _fused(self, ids: Tensor, items: list[Tensor]) -> Tensor:
        if self.weighting == 'equal':
            return self._fuse([ids, self._fuse(items, 0)], 1)
        if self.weighting == 'alpha':
            alpha = self.gate.sigmoid()
            return self._fuse([alpha * ids, *((1 - alpha) * x for x in items)])
        unit_ids = len(items) * l2_normalize(ids)
        return self._fuse([unit_ids, *map(l2_normalize, items)])

    def _fuse(self, parts: list[Tensor], lin: int = 0) -> Tensor:
        if self.fusion == 'concat':
            fused: Tensor = self.lins[lin](torch.cat(parts, dim=1))
            return fused
        total = torch.stack(parts).sum(dim=0)
        return total / len(parts) if self.fusion == 'mean' else total
