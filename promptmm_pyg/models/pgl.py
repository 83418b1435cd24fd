"""PGL: training on the principal subgraph."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_choice, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import (
    Bipartite,
    EdgeDict,
    EdgeSampler,
    GraphCache,
    Operator,
    WeightDict,
)
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.models.closed_form import LowRank, truncated_svd
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.dropout import dropout
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput


class PGL(ContentRecommender):
    r"""A teacher after the `"Mind Individual Information! Principal Graph Learning for
    Multimedia Recommendation" <https://doi.org/10.1609/aaai.v39i12.33429>`_ paper, in
    our notation.

    The embeddings of users and items are concatenations of one block of :math:`D`
    channels per modality: trained vectors for users, projected features at unit length
    for items, which have no ids. All blocks are propagated on the user-item graph, and
    those of items also on the frozen graph :math:`\mathbf{S}` of
    :class:`~promptmm_pyg.models.FREEDOM`.

    .. math::
        \mathbf{X} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{X}^{(l)}, \qquad
        \mathbf{X}_i \mathrel{+}= \mathbf{S}^K \mathbf{X}_i^{(0)}

    Training uses a principal subgraph of the user-item graph, eval mode all edges.

    * ``'local'``: a ratio ``keep_ratio`` of the edges, sampled in every forward, an
      edge between nodes of degree :math:`d_u` and :math:`d_i` in proportion to
      :math:`1 / \sqrt{d_u d_i}`, and normalized symmetrically (the edge weights are not
      used).
    * ``'global'``: the truncated SVD of the operator, of rank ``rank``, computed once
      per graph. It replaces both directions, so weights must be symmetric. A normalized
      graph has the singular value one in each connected component: with more components
      than ``rank``, the singular vectors mix them.

    :meth:`losses` has ``bpr``, ``l2`` and ``contrast``: InfoNCE between two copies of a
    final embedding with different masked channels, over the batch's users and over its
    positives, averaged. As in the released code, only ``bpr`` has a weight by default.
    Everything else is that of the released code, too, except that features are
    constants.

    Convert edges once with :func:`~promptmm_pyg.nn.csr_pair_dict`: what is computed
    once per graph is cached for the last operators only, and is not saved.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of a block; embeddings have
            :math:`|M| D` channels. (default: ``64``)
        num_layers: Layers :math:`L` along the user-item graph. (default: ``2``)
        num_item_layers: Layers :math:`K` along the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality, with itself.
            (default: ``10``)
        modality_weights: See FREEDOM. (default: as published)
        subgraph: ``'local'`` or ``'global'``. (default: ``'local'``)
        keep_ratio: The ratio of edges in a local subgraph. (default: ``0.3``)
        rank: The rank of a global one. (default: ``64``)
        mask_rate: The ratio of masked channels. (default: ``0.2``)
        temperature: Of the contrast. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with
          :math:`(N_t, |M| D)` embeddings, and the blocks of the modalities

    Raises:
        ValueError: If sizes, rows or options do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 0.0,
        'contrast': 0.0,
    }
    printed = ('num_layers', 'subgraph')
    search_space = trained_space(
        0.0,
        num_layers=Choices(2, (1, 2, 3, 4)),
        keep_ratio=Choices(0.3, (0.1, 0.3, 0.5)),
        contrast=Choices(0.0, (0.0, 1e-3, 1e-2, 0.1)),
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
        modality_weights: Mapping[str, float] | None = None,
        subgraph: Literal['local', 'global'] = 'local',
        keep_ratio: float = 0.3,
        rank: int = 64,
        mask_rate: float = 0.2,
        temperature: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_choice('subgraph', subgraph, ('local', 'global'))
        if not 0 < keep_ratio <= 1:
            raise ValueError(f"'keep_ratio' must be in (0, 1] (got {keep_ratio})")
        check_positive('rank', rank)
        check_probability('mask_rate', mask_rate)
        check_positive('temperature', temperature)
        self.subgraph = subgraph
        self.keep_ratio = keep_ratio
        self.mask_rate = mask_rate
        self.temperature = temperature
        self.preferences = self.user_tables(embedding_dim, init_std)
        self.features = self.project(modality_x_dict, embedding_dim)
        self.graph = self.item_graph(
            modality_x_dict, num_neighbors, num_item_layers, modality_weights
        )
        self._sampler: GraphCache[EdgeSampler] = GraphCache(EdgeSampler)
        self._low_rank: GraphCache[LowRank] = GraphCache(
            partial(truncated_svd, rank=rank)
        )

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        graph = self.bipartite(edge_index_dict, edge_weight_dict)
        adj: Bipartite[Operator] = (
            self._principal(graph.to_item) if self.training else graph
        )
        own = torch.cat(list(self.preferences().values()), dim=-1)
        start = torch.cat([l2_normalize(x) for x in self.features().values()], dim=-1)
        user_x, item_x = adj.smooth(own, start, self.num_layers)
        item_x = item_x + self.graph(start)
        num = len(self.modalities)
        users, items = (x.chunk(num, dim=-1) for x in (user_x, item_x))
        return self.output(user_x, item_x, users, items)

    def _principal(self, adj: CSRPair) -> Bipartite[Operator]:
        subgraph: CSRPair | LowRank
        if self.subgraph == 'local':
            subgraph = self._sampler(adj).sample(self.keep_ratio)
        else:
            subgraph = self._low_rank(adj)
        return Bipartite(subgraph, subgraph.t())

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """``bpr``, ``l2`` and ``contrast`` of one batch; the masks are drawn here."""

        def views(key: NodeType, nodes: Tensor) -> tuple[Tensor, Tensor]:
            x = output.x_dict[key][nodes]
            return dropout(x, self.mask_rate), dropout(x, self.mask_rate)

        contrast = self.contrast(batch, views, self.temperature).mean()
        return {**super().losses(output, batch), 'contrast': contrast}
