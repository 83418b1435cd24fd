"""LGMRec: local and global graph embeddings."""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import cosine_logsumexp, l2_normalize, rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._contrast import ROWS
from promptmm_pyg.models._graphs import Bipartite, EdgeDict, GraphCache, WeightDict
from promptmm_pyg.models.base import ContentRecommender, unsquared_norm
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.dropout import dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput

_TEMPERATURE = 0.2  # The temperature of the hyperedges.


class LGMRec(ContentRecommender):
    r"""Local embeddings from ids and features, and global ones from hyperedges of
    features: the model of the `"LGMRec: Local and Global Graph Learning for Multimodal
    Recommendation" <https://arxiv.org/abs/2312.16400>`_ paper.

    .. math::
        \mathbf{x} = \bar{\mathbf{e}} + \sum_m \mathrm{norm}(\mathbf{z}^m) + \alpha \,
        \mathrm{norm} \Big( \sum_m \mathbf{g}^m \Big)

    with the mean :math:`\bar{\mathbf{e}}` over LightGCN's layers of ids. The local part
    of a modality is the last layer of its propagated features,

    .. math::
        \mathbf{z}^m = \mathbf{N}^K [\mathbf{D}_u^{-1} \mathbf{A} \mathbf{F}^m ;\,
        \mathbf{F}^m], \qquad \mathbf{F}^m = \mathbf{X}^m \mathbf{W}_m,

    and the global part passes the collaborative embeddings of items through
    :math:`H` hyperedges,

    .. math::
        \mathbf{H}_i^m = \mathrm{softmax}(\mathbf{X}^m \mathbf{V}_m / 0.2), \quad
        \mathbf{H}_u^m = \mathrm{softmax}(\mathbf{A} \mathbf{X}^m \mathbf{V}_m / 0.2),
        \qquad \mathbf{g}^m = [\mathbf{H}_u^m ;\, \mathbf{H}_i^m] \,
        \mathbf{H}_i^{m \top} \bar{\mathbf{e}}_i.

    In training there are Gumbel noise on the logits of the hyperedges and dropout of
    rate ``1 - keep_rate`` on their softmax, from torch's global generator. Eval mode
    has neither, where the released code keeps the noise, so that its scores are
    random. Without noise and dropout the model is equal to the released code at the
    defaults (tested).

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN on ids. (default: ``2``)
        num_modality_layers: Layers :math:`K` of the features. (default: ``2``)
        num_hyper_layers: How often items pass through the hyperedges. (default: ``1``)
        num_hyperedges: Hyperedges :math:`H` per modality. (default: ``4``)
        keep_rate: The ratio of entries of the hyperedges that dropout keeps, in (0, 1].
            (default: ``0.5``)
        global_weight: :math:`\alpha`. (default: ``0.3``)
        temperature: Of the contrast. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`; per modality :math:`[\mathrm{norm}(\mathbf{z}^m),
          \mathbf{g}^m]`, :math:`(N_t, 2 D)`

    Raises:
        ValueError: If sizes, features, rates or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'contrast': 1e-4,
        'l2': 1e-6,
    }
    linear_start = 'xavier_uniform'
    printed = ('num_layers', 'num_hyperedges')
    search_space = trained_space(
        1e-6,
        num_layers=Choices(2, (1, 2, 3, 4)),
        global_weight=Range(0.3, 0.05, 1.0),
        contrast=Range(1e-4, 1e-6, 1e-2),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_modality_layers: int = 2,
        num_hyper_layers: int = 1,
        num_hyperedges: int = 4,
        keep_rate: float = 0.5,
        global_weight: float = 0.3,
        temperature: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('num_modality_layers', num_modality_layers)
        check_positive('num_hyper_layers', num_hyper_layers)
        check_positive('num_hyperedges', num_hyperedges)
        if not 0 < keep_rate <= 1:
            raise ValueError(f"'keep_rate' must be in (0, 1] (got {keep_rate})")
        check_non_negative('global_weight', global_weight)
        check_positive('temperature', temperature)
        self.num_modality_layers = num_modality_layers
        self.num_hyper_layers = num_hyper_layers
        self.num_hyperedges = num_hyperedges
        self.keep_rate = keep_rate
        self.global_weight = global_weight
        self.temperature = temperature
        self.features = self.project(modality_x_dict, embedding_dim, bias=False)
        self.hyperedges = self.project(modality_x_dict, num_hyperedges, bias=False)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self._unweighted: GraphCache[CSRPair] = GraphCache(_unweighted)

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        interactions = self._unweighted(adj.to_user)
        user_ids, item_ids = self.smooth_ids(adj)
        users, items = [], []
        hyperedges = self.hyperedges().values()
        for x, logits in zip(self.features().values(), hyperedges, strict=True):
            user_local, item_local = self._local(adj, interactions, x)
            user_global, item_global = self._global(interactions, logits, item_ids)
            users.append(torch.cat([user_local, user_global], dim=1))
            items.append(torch.cat([item_local, item_global], dim=1))
        return self.output(
            self._sum(user_ids, users), self._sum(item_ids, items), users, items
        )

    def _local(
        self, adj: Bipartite[CSRPair], interactions: CSRPair, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        degree = interactions.row_degree().clamp_min(1).unsqueeze(1)
        user, item = (interactions @ x) / degree, x
        for _ in range(self.num_modality_layers):
            user, item = adj.to_user @ item, adj.to_item @ user
        return l2_normalize(user), l2_normalize(item)

    def _global(
        self, interactions: CSRPair, logits: Tensor, item_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        user_edges = self._members(interactions @ logits)
        item_edges = self._members(logits)
        latent = item_edges.t() @ item_ids
        for _ in range(self.num_hyper_layers - 1):
            latent = item_edges.t() @ (item_edges @ latent)
        return user_edges @ latent, item_edges @ latent

    def _members(self, logits: Tensor) -> Tensor:
        """The share of each hyperedge in each node, ``[N, H]``."""
        if not self.training:
            return (logits / _TEMPERATURE).softmax(dim=1)
        gumbel = -torch.empty_like(logits).exponential_().log()
        shares = ((logits + gumbel) / _TEMPERATURE).softmax(dim=1)
        return dropout(shares, 1 - self.keep_rate)

    def _sum(self, ids: Tensor, views: list[Tensor]) -> Tensor:
        width = ids.size(1)
        local, hyper = torch.stack(views).sum(dim=0).split(width, dim=1)
        out: Tensor = ids + local + self.global_weight * l2_normalize(hyper)
        return out

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        r"""The losses of one batch, as released: ``bpr``; ``contrast``, InfoNCE from
        :math:`\mathbf{g}^m` to that of the next modality with all nodes as negatives,
        summed over the users of the batch and over its positives, with repeats; and
        ``l2``, the sum of the Frobenius norms, not squared, of the batch's final
        embeddings of users, positives and negatives, divided by its size. The sum over
        a larger batch than the published 2,048 is scaled to that size.

        For more than two modalities, the sum over neighbors in their order is our
        generalization.
        """
        user_x, item_x = output.x_dict[self.user], output.x_dict[self.item]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'contrast': self.hyper_contrast(output, self.user, batch.user)
            + self.hyper_contrast(output, self.item, batch.positive),
            'l2': unsquared_norm(
                rows(user_x, batch.user),
                rows(item_x, batch.positive),
                rows(item_x, batch.negative),
            ),
        }

    def hyper_contrast(
        self, output: TeacherOutput, node_type: NodeType, index: Tensor
    ) -> Tensor:
        """The contrast between modalities of nodes ``[B]`` of one node type."""
        index, count = index.unique(return_counts=True)
        hyper = [
            l2_normalize(x_dict[node_type].chunk(2, dim=1)[1])
            for x_dict in output.modality_x_dict.values()
        ]
        total = hyper[0].new_zeros(())
        for first, second in pairwise(hyper):
            anchor = rows(first, index)
            own = (anchor * rows(second, index)).sum(dim=1) / self.temperature
            logsumexp, _ = cosine_logsumexp(anchor, second, self.temperature)
            total = total + (count * (logsumexp - own)).sum()
        return total * min(1.0, ROWS / int(count.sum()))


def _unweighted(adj: CSRPair) -> CSRPair:
    target, source = adj.edges()
    return CSRPair.from_edge_index(torch.stack([source, target]), size=adj.shape[::-1])
