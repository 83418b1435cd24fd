"""Matrix factorization with an inner product for every modality."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import squared_norm
from promptmm_pyg.losses._rows import squared_norm_of_rows
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Range, trained_space
from promptmm_pyg.targets import TeacherOutput


class VBPR(ContentRecommender):
    r"""The model of the `"VBPR: Visual Bayesian Personalized Ranking from Implicit
    Feedback" <https://arxiv.org/abs/1510.01784>`_ paper, for any number of modalities.
    It needs no graph. The released code is for one modality; every further one has
    factors of its own.

    .. math::
        y_{ui} = \beta_i + \boldsymbol{\gamma}_u^{\top} \boldsymbol{\gamma}_i + \sum_m
        \left( \boldsymbol{\theta}_u^{m \top} \mathbf{E}_m \mathbf{x}_i^m +
        \boldsymbol{\beta}_m^{\top} \mathbf{x}_i^m \right)

    The paper's global and user biases are left out: they do not change rankings. The
    parts are concatenated, with a column of ones for the biases, so that one inner
    product is :math:`y_{ui}`.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width of every part. (default: ``64``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** ignored
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, (M + 1) D + 1)` and, per modality,
          :math:`\boldsymbol{\theta}^m` and :math:`\mathbf{E}_m \mathbf{x}^m`

    Raises:
        ValueError: If sizes or features do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-3,
        'projection_l2': 1e-5,
    }
    linear_start = 'xavier_normal'
    reads_edges = False
    printed = ()
    search_space = trained_space(1e-3, projection_l2=Range(1e-5, 1e-6, 1e-3))

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        # The last channel is the bias.
        self.features = self.project(modality_x_dict, embedding_dim + 1, bias=False)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.tastes = self.user_tables(embedding_dim, init_std)
        self.item_bias = torch.nn.Parameter(torch.empty(self.num_items, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        torch.nn.init.zeros_(self.item_bias)

    def forward(
        self,
        edge_index_dict: EdgeDict | None = None,  # noqa: ARG002
        edge_weight_dict: WeightDict = None,  # noqa: ARG002
    ) -> TeacherOutput:
        id_dict = self.embeddings()
        tastes = list(self.tastes().values())
        width = self.embeddings.embedding_dim
        items, bias = [], self.item_bias
        for x in self.features().values():
            items.append(x[:, :width])
            bias = bias + x[:, width:]
        ones = bias.new_ones(self.num_users, 1)
        user_x = torch.cat([id_dict[self.user], *tastes, ones], dim=1)
        item_x = torch.cat([id_dict[self.item], *items, bias], dim=1)
        return self.output(user_x, item_x, tastes, items)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        r"""The losses of one batch: ``bpr``; ``l2``, half the squared norm of the rows
        of an example (:math:`\boldsymbol{\gamma}, \boldsymbol{\theta}, \beta`),
        averaged over the batch; ``projection_l2``, half the mean squared row of
        :math:`[\mathbf{E}_m; \boldsymbol{\beta}_m]`, averaged over modalities.
        """
        id_dict = self.embeddings()
        items = [batch.positive, batch.negative]
        tables = [
            (x, [batch.user]) for x in (id_dict[self.user], *self.tastes().values())
        ]
        tables += [(x, items) for x in (id_dict[self.item], self.item_bias)]
        projections = [squared_norm(weight) for weight in self.features.weights]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': squared_norm_of_rows(tables, batch.user.numel()),
            'projection_l2': torch.stack(projections).mean(),
        }
