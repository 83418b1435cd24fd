"""PGL: training on the part of the graph that says most about individuals."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_choice, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS, FeatureDict
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._bipartite import Bipartite, Operator, bipartite
from promptmm_pyg.models._contrast import contrast
from promptmm_pyg.models._edge_sampler import EdgeSampler
from promptmm_pyg.models._frozen_graph import FrozenGraph, item_edges, mean_edges
from promptmm_pyg.models._low_rank import LowRank, truncated_svd
from promptmm_pyg.models._per_graph import GraphCache
from promptmm_pyg.models._projected_features import ProjectedFeatures
from promptmm_pyg.models.base import GraphRecommender, features_or_none
from promptmm_pyg.nn.csr import Adjacency, CSRPair
from promptmm_pyg.nn.dropout import dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput

Subgraph = Literal['local', 'global']


class PGL(GraphRecommender):
    r"""A teacher after the `"Mind Individual Information! Principal Graph Learning for
    Multimedia Recommendation" <https://doi.org/10.1609/aaai.v39i12.33429>`_ paper, in
    our formulas.

    Users and items hold one block of :math:`D` channels for ids and one for each
    modality, side by side: users trained vectors throughout, items an id vector and
    their reduced features. All blocks travel along the user-item graph, and those of
    items along a frozen graph :math:`\mathbf{S}` of nearest neighbors, averaged over
    the modalities.

    .. math::
        \mathbf{X} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{X}^{(l)}, \qquad
        \mathbf{X}_i \mathrel{+}= \mathbf{S}^K \mathbf{X}_i^{(0)}

    While training, the user-item graph is its principal part; in eval mode it is whole.

    * ``'local'``: a share ``keep_ratio`` of the edges, drawn anew in every forward, an
      edge between nodes of degree :math:`d_u` and :math:`d_i` in proportion to
      :math:`1 / \sqrt{d_u d_i}`, then normalized symmetrically (the graph's own weights
      play no part).
    * ``'global'``: the ``rank`` largest singular directions of the graph's operator,
      found once per graph. It takes the place of both directions, so it goes with
      symmetric weights. Normalized, each connected component has one singular value
      of one: with more components than ``rank``, what is kept mixes them.

    :meth:`losses` has ``bpr``, ``l2`` and ``contrast``: InfoNCE, both ways, between two
    copies of a final embedding of which different channels are masked, over the batch's
    users and over its positives.

    What is found once per graph is remembered for the operators seen last, in a plain
    attribute that is neither saved nor copied: convert edges once with
    :func:`~promptmm_pyg.nn.csr_pair_dict`. Features are part of the module as buffers
    that are not saved.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {item: [N, F_m]}}``.
        edge_type: The relation from users to items. (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of a block; embeddings have
            :math:`(|M| + 1) D` channels. (default: ``64``)
        num_layers: Layers :math:`L` along the user-item graph. (default: ``2``)
        num_item_layers: Layers :math:`K` along the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item. (default: ``10``)
        subgraph: ``'local'`` or ``'global'``. (default: ``'local'``)
        keep_ratio: Share of edges that a local subgraph keeps. (default: ``0.3``)
        rank: Directions that a global one keeps. (default: ``64``)
        mask_rate: Share of masked channels. (default: ``0.2``)
        temperature: Of the contrast. (default: ``0.2``)
        init_std: Standard deviation of the tables' start. (default: ``0.1``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with
          :math:`(N_t, (|M| + 1) D)` embeddings; a modality's vectors are its block

    Raises:
        ValueError: If sizes, rows or options do not fit.
    """

    reads_features = True
    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-3,
        'contrast': 0.01,
    }

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: FeatureDict | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        num_neighbors: int = 10,
        subgraph: Subgraph = 'local',
        keep_ratio: float = 0.3,
        rank: int = 64,
        mask_rate: float = 0.2,
        temperature: float = 0.2,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(num_nodes_dict, edge_type)
        modality_x_dict = features_or_none(modality_x_dict)
        check_positive('num_layers', num_layers)
        check_choice('subgraph', subgraph, ('local', 'global'))
        if not 0 < keep_ratio <= 1:
            raise ValueError(f"'keep_ratio' must be in (0, 1] (got {keep_ratio})")
        check_positive('rank', rank)
        check_probability('mask_rate', mask_rate)
        check_positive('temperature', temperature)
        self.modalities = list(modality_x_dict)
        self.num_layers = num_layers
        self.subgraph = subgraph
        self.keep_ratio = keep_ratio
        self.mask_rate = mask_rate
        self.temperature = temperature
        user, item = self.user, self.item
        self.num_nodes_dict = {key: num_nodes_dict[key] for key in (user, item)}
        width = (len(modality_x_dict) + 1) * embedding_dim
        self.user_blocks = NodeEmbeddings({user: num_nodes_dict[user]}, width, init_std)
        self.item_ids = NodeEmbeddings(
            {item: num_nodes_dict[item]}, embedding_dim, init_std
        )
        self.features = ProjectedFeatures(
            self.num_nodes_dict, item, modality_x_dict, embedding_dim
        )
        num_items = num_nodes_dict[item]
        graphs = [item_edges(x[item], num_neighbors) for x in modality_x_dict.values()]
        self.item_graph = FrozenGraph(
            mean_edges(graphs, num_items), num_items, num_item_layers
        )
        self._sampler: GraphCache[EdgeSampler] = GraphCache(EdgeSampler)
        self._low_rank: GraphCache[LowRank] = GraphCache(
            partial(truncated_svd, rank=rank)
        )

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.user_blocks.reset_parameters()
        self.item_ids.reset_parameters()
        self.features.reset_parameters()

    def forward(
        self,
        edge_index_dict: dict[EdgeType, Adjacency],
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,
    ) -> TeacherOutput:
        whole = bipartite(
            edge_index_dict,
            edge_weight_dict,
            edge_type=self.edge_type,
            num_nodes_dict=self.num_nodes_dict,
        )
        graph: Bipartite[Operator] = (
            self._principal(whole.to_item) if self.training else whole
        )
        user, item = self.edge_type[0], self.edge_type[2]
        start = torch.cat([self.item_ids()[item], *self.features().values()], dim=-1)
        user_x, item_x = graph.smooth(self.user_blocks()[user], start, self.num_layers)
        x_dict = {user: user_x, item: item_x + self.item_graph(start)}
        num = len(self.modalities) + 1
        parts = {key: x.chunk(num, dim=-1) for key, x in x_dict.items()}
        modality_x_dict = {
            modality: {key: part[place] for key, part in parts.items()}
            for place, modality in enumerate(self.modalities, start=1)
        }
        return TeacherOutput(x_dict, modality_x_dict)

    def _principal(self, adj: CSRPair) -> Bipartite[Operator]:
        part: CSRPair | LowRank
        if self.subgraph == 'local':
            part = self._sampler(adj).sample(self.keep_ratio)
        else:
            part = self._low_rank(adj)
        return Bipartite(part, part.t())

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch; what is masked is drawn here.

        Args:
            output: What the forward returned.
            batch: User, positive and negative items ``[B]``.
        """
        user, _, item = self.edge_type
        losses = []
        for key, ids in ((user, batch.user), (item, batch.positive)):
            x = output.x_dict[key][ids.unique()]
            views = [dropout(x, self.mask_rate) for _ in range(2)]
            losses.append(contrast(views[0], views[1], self.temperature))
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': self.l2(output.x_dict, batch),
            'contrast': torch.stack(losses).mean(),
        }

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.user_blocks}, {self.item_ids}, '
            f"modalities={sorted(self.modalities)}, subgraph='{self.subgraph}')"
        )
