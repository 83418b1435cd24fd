"""GRCN: a user-item graph whose edge weights depend on modalities."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType
from torch_geometric.utils import softmax

from promptmm_pyg._utils import check_non_negative
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize, rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, EdgePattern, GraphCache
from promptmm_pyg.models.base import ContentRecommender, normal_std
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput


class _Directions(NamedTuple):
    """The edges in both directions."""

    to_user: EdgePattern
    to_item: EdgePattern
    reverse: Tensor
    """The position in ``to_user`` of each edge of ``to_item``."""


class GRCN(ContentRecommender):
    r"""Id embeddings on a graph refined by modalities, concatenated with one vector per
    modality, after the `"Graph-Refined Convolutional Network for Multimedia
    Recommendation with Implicit Feedback" <https://arxiv.org/abs/2008.10117>`_ paper.

    Per modality, items have projected features :math:`\mathbf{z}_i` and users a trained
    prototype :math:`\mathbf{p}_u`, both at unit length. In the paper, prototypes are
    routed ``num_routings`` times to the user's items:

    .. math::
        \mathbf{p}_u \leftarrow \mathrm{norm} \Big( \mathbf{p}_u + \sum_{i \in
        \mathcal{N}(u)} a_{iu} \mathbf{z}_i \Big), \qquad a_{iu} =
        \mathrm{softmax}_{i \in \mathcal{N}(u)} (\mathbf{p}_u^{\top} \mathbf{z}_i)

    The affinities :math:`a_{wv}^m` of the last prototypes, in both directions, become
    the weights of the id graph; edges with negative weights are pruned:

    .. math::
        w_{wv} = \max \left( 0, \max_m \, c_w^m a_{wv}^m \right), \qquad
        \mathbf{e}_v^{(l+1)} = \sum_{w \in \mathcal{N}(v)} w_{wv} \mathbf{e}_w^{(l)}

    with ids :math:`\mathbf{e}_v^{(0)}` at unit length and a trained confidence
    :math:`c` per node and modality. The final embeddings are
    :math:`[\sum_l \mathbf{e}_v^{(l)} \| \mathbf{f}_v^1 \| \dots \| \mathbf{f}_v^M]`
    with :math:`\mathbf{f}_v^m = \mathbf{z}_v + \sum_w a_{wv}^m \mathbf{z}_w` where
    :math:`\mathbf{z}` of a user is the prototype. The edge weights are not used.

    Defaults are those of the released code, in which routing sends no message to users
    and so changes nothing: :math:`\mathbf{p}_u` are trained only. ``num_routings=3`` is
    the paper's model.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of every part. (default: ``64``)
        num_layers: Layers of the id graph. (default: ``2``)
        num_routings: The number of routing iterations. (default: ``0``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier normal, as published)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair`
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, (M + 1) D)`, and :math:`(N_t, D)` per modality

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    reads_weights = False
    printed = ('num_layers', 'num_routings')
    linear_start = 'xavier_normal'
    search_space = trained_space(
        1e-3, num_layers=Choices(2, (1, 2, 3)), num_routings=Choices(0, (0, 1, 3))
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_routings: int = 0,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_non_negative('num_routings', num_routings)
        self.num_routings = num_routings
        num_modalities = len(self.modalities)
        self.features = self.project(modality_x_dict, embedding_dim)
        num_nodes = self.num_users + self.num_items
        std = normal_std(init_std, num_nodes, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, std)
        std = normal_std(init_std, self.num_users, embedding_dim)
        self.prototypes = self.user_tables(embedding_dim, std)
        self.user_confidence = torch.nn.Parameter(
            torch.empty(self.num_users, num_modalities)
        )
        self.item_confidence = torch.nn.Parameter(
            torch.empty(self.num_items, num_modalities)
        )
        self._directions = GraphCache(_directions)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        shape = self.num_users + self.num_items, len(self.modalities)
        for confidence in (self.user_confidence, self.item_confidence):
            torch.nn.init.normal_(confidence, std=normal_std(None, *shape))

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: object = None,  # noqa: ARG002
    ) -> TeacherOutput:
        edges = self._directions(self.bipartite(edge_index_dict).to_item)
        tables = self.prototypes().values()
        users, items, to_user, to_item = [], [], [], []
        for z, table in zip(self.features().values(), tables, strict=True):
            z = l2_normalize(F.leaky_relu(z))
            prototype = self._route(l2_normalize(table), z, edges.to_user)
            affinity = edges.to_user.dot(z, prototype)
            from_items = _softmax(affinity, edges.to_user)
            from_users = _softmax(affinity[edges.reverse], edges.to_item)
            users.append(prototype + edges.to_user.sum(from_items, z))
            items.append(z + edges.to_item.sum(from_users, prototype))
            to_user.append(from_items)
            to_item.append(from_users)
        user_x, item_x = self._refined(
            edges,
            _refine(to_user, self.item_confidence[edges.to_user.source]),
            _refine(to_item, self.user_confidence[edges.to_item.source]),
        )
        user_x, item_x = torch.cat([user_x, *users], 1), torch.cat([item_x, *items], 1)
        return self.output(user_x, item_x, users, items)

    def _route(self, prototype: Tensor, z: Tensor, edges: EdgePattern) -> Tensor:
        for _ in range(self.num_routings):
            affinity = _softmax(edges.dot(z, prototype), edges)
            prototype = l2_normalize(prototype + edges.sum(affinity, z))
        return prototype

    def _refined(
        self, edges: _Directions, to_user: Tensor, to_item: Tensor
    ) -> tuple[Tensor, Tensor]:
        id_dict = self.embeddings()
        user_x, item_x = (l2_normalize(id_dict[key]) for key in (self.user, self.item))
        user_sum, item_sum = user_x, item_x
        for _ in range(self.num_layers):
            user_x, item_x = (
                edges.to_user.sum(to_user, item_x),
                edges.to_item.sum(to_item, user_x),
            )
            user_sum, item_sum = user_sum + user_x, item_sum + item_x
        return user_sum, item_sum

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` and ``l2`` of one batch, as in the released code. ``l2`` is the mean
        square of the id rows of users, plus that of items (positives and negatives),
        plus those of the users' prototypes of every modality, plus that of all
        prototypes of ``'image'`` (of the first modality, if there is none).
        """
        id_dict, tables = self.embeddings(), self.prototypes()
        items = torch.cat([batch.positive, batch.negative])
        parts = [
            rows(id_dict[self.user], batch.user),
            rows(id_dict[self.item], items),
            *(rows(table, batch.user) for table in tables.values()),
            tables[f'user_{self.lead_modality}'],
        ]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': torch.stack([x.square().mean() for x in parts]).sum(),
        }


def _directions(adj: CSRPair) -> _Directions:
    to_item, to_user = EdgePattern.of(adj), EdgePattern.of(adj.t())
    # `to_user` is sorted by user, then item; so are these positions in it.
    reverse = torch.empty_like(to_item.source)
    order = (to_item.source * adj.shape[0] + to_item.target).argsort()
    reverse[order] = torch.arange(order.numel(), device=order.device)
    return _Directions(to_user, to_item, reverse)


def _softmax(affinity: Tensor, edges: EdgePattern) -> Tensor:
    """A softmax over the edges into each node."""
    out: Tensor = softmax(affinity, edges.target, num_nodes=edges.size[1])
    return out


def _refine(affinities: list[Tensor], confidence: Tensor) -> Tensor:
    """The largest weight over modalities ``[E]``, at least zero."""
    return (torch.stack(affinities, dim=1) * confidence).amax(dim=1).relu()
