"""A graph whose edges weigh what modalities say they are worth."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType
from torch_geometric.utils import softmax

from promptmm_pyg._utils import check_non_negative
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, EdgePattern, GraphCache
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._feature_checks import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput


class _Directions(NamedTuple):
    """The interactions from items to users and from users to items."""

    to_user: EdgePattern
    to_item: EdgePattern
    back: Tensor
    """The position in ``to_user`` of each edge of ``to_item``."""


class GRCN(ContentRecommender):
    r"""Id embeddings on a graph refined by modalities, beside the modalities' own
    vectors, after the `"Graph-Refined Convolutional Network for Multimedia
    Recommendation with Implicit Feedback" <https://arxiv.org/abs/2008.10117>`_ paper.

    Per modality, a user's prototype is routed ``num_routings`` times to the items the
    user knows, all at unit length:

    .. math::
        \mathbf{p}_u \leftarrow \mathrm{norm} \Big( \mathbf{p}_u + \sum_{i \in
        \mathcal{N}(u)} a_{iu} \mathbf{z}_i \Big), \qquad a_{iu} =
        \mathrm{softmax}_{i \in \mathcal{N}(u)} (\mathbf{p}_u^{\top} \mathbf{z}_i)

    The affinities :math:`a_{wv}^m` of the last prototypes, in both directions, become
    the weights of the id graph, and what is left of a negative one is nothing:

    .. math::
        w_{wv} = \max \left( 0, \max_m \, c_w^m a_{wv}^m \right), \qquad
        \mathbf{e}_v^{(l+1)} = \sum_{w \in \mathcal{N}(v)} w_{wv} \mathbf{e}_w^{(l)}

    with a trained confidence :math:`c` per node and modality that starts at one. The
    final vectors are :math:`[\sum_l \mathbf{e}_v^{(l)} \| \mathbf{f}_v^1 \| \dots \|
    \mathbf{f}_v^M]` with :math:`\mathbf{f}_v^m = \mathbf{z}_v + \phi(\sum_w a_{wv}^m
    \mathbf{z}_w)` where a user's :math:`\mathbf{z}` is the prototype and :math:`\phi` a
    leaky ReLU. Weights the graph comes with are not read.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of every part. (default: ``64``)
        num_layers: Layers of the id graph. (default: ``2``)
        num_routings: How often prototypes are routed. (default: ``3``)
        negative_slope: Of the leaky ReLU. (default: ``0.01``)
        init_std: Standard deviation of the tables' start. (default: ``0.1``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair`
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, (M + 1) D)`, and :math:`(N_t, D)` per modality

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    printed = ('num_layers', 'num_routings')

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_routings: int = 3,
        negative_slope: float = 0.01,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_non_negative('num_routings', num_routings)
        check_non_negative('negative_slope', negative_slope)
        self.num_routings = num_routings
        self.negative_slope = negative_slope
        num_modalities = len(self.modalities)
        self.features = self.project(modality_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        # One table for all modalities, side by side.
        self.prototypes = self.user_table(num_modalities * embedding_dim, init_std)
        self.user_confidence = torch.nn.Parameter(
            torch.empty(self.num_users, num_modalities)
        )
        self.item_confidence = torch.nn.Parameter(
            torch.empty(self.num_items, num_modalities)
        )
        self._directions = GraphCache(_directions)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        super().reset_parameters()
        torch.nn.init.ones_(self.user_confidence)
        torch.nn.init.ones_(self.item_confidence)

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: object = None,  # noqa: ARG002
    ) -> TeacherOutput:
        edges = self._directions(self.bipartite(edge_index_dict).to_item)
        width = self.embeddings.embedding_dim
        tables = self.prototypes()[self.user].split(width, dim=1)
        views, to_user, to_item = {}, [], []
        for (modality, z), table in zip(self.features().items(), tables, strict=True):
            z = l2_normalize(F.leaky_relu(z, self.negative_slope))
            prototype = self._route(l2_normalize(table), z, edges.to_user)
            affinity = edges.to_user.dot(z, prototype)
            from_items = _share(affinity, edges.to_user)
            from_users = _share(affinity[edges.back], edges.to_item)
            views[modality] = (
                prototype + self._act(edges.to_user.sum(from_items, z)),
                z + self._act(edges.to_item.sum(from_users, prototype)),
            )
            to_user.append(from_items)
            to_item.append(from_users)
        user_x, item_x = self._refined(
            edges,
            _refine(to_user, self.item_confidence[edges.to_user.source]),
            _refine(to_item, self.user_confidence[edges.to_item.source]),
        )
        users, items = zip(*views.values(), strict=True)
        return self.output(
            torch.cat([user_x, *users], dim=1),
            torch.cat([item_x, *items], dim=1),
            views,
        )

    def _route(self, prototype: Tensor, z: Tensor, edges: EdgePattern) -> Tensor:
        for _ in range(self.num_routings):
            share = _share(edges.dot(z, prototype), edges)
            prototype = l2_normalize(prototype + edges.sum(share, z))
        return prototype

    def _act(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def _refined(
        self, edges: _Directions, to_user: Tensor, to_item: Tensor
    ) -> tuple[Tensor, Tensor]:
        id_dict = self.embeddings()
        user_x, item_x = id_dict[self.user], id_dict[self.item]
        user_sum, item_sum = user_x, item_x
        for _ in range(self.num_layers):
            user_x, item_x = (
                edges.to_user.sum(to_user, item_x),
                edges.to_item.sum(to_item, user_x),
            )
            user_sum, item_sum = user_sum + user_x, item_sum + item_x
        return user_sum, item_sum

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses on one batch: ``bpr`` of the final embeddings and ``l2``, half the
        squared norm of the table rows of an example, averaged over the batch.

        Args:
            output: The output of the model.
            batch: User, positive and negative items ``[B]``.
        """
        prototypes = self.prototypes()[self.user]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': self.l2(self.embeddings(), batch, prototypes),
        }


def _directions(adj: CSRPair) -> _Directions:
    to_item, to_user = EdgePattern.of(adj), EdgePattern.of(adj.t())
    # `to_user` is sorted by user, then item; so are these positions in it.
    back = torch.empty_like(to_item.source)
    order = (to_item.source * adj.shape[0] + to_item.target).argsort()
    back[order] = torch.arange(order.numel(), device=order.device)
    return _Directions(to_user, to_item, back)


def _share(affinity: Tensor, edges: EdgePattern) -> Tensor:
    """A softmax over the edges into each node."""
    out: Tensor = softmax(affinity, edges.target, num_nodes=edges.size[1])
    return out


def _refine(shares: list[Tensor], confidence: Tensor) -> Tensor:
    """The best share over modalities ``[E]``; below zero an edge is pruned."""
    return (torch.stack(shares, dim=1) * confidence).amax(dim=1).relu()
