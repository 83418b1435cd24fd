"""SMORE: modalities denoised and fused in the frequency domain."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS, FeatureDict
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._bipartite import bipartite
from promptmm_pyg.models._contrast import contrast
from promptmm_pyg.models._frozen_graph import FrozenGraph, item_edges, max_edges
from promptmm_pyg.models._projected_features import ProjectedFeatures
from promptmm_pyg.models._spectral_fusion import SpectralFusion
from promptmm_pyg.models.base import GraphRecommender, features_or_none
from promptmm_pyg.nn.csr import Adjacency
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput


class SMORE(GraphRecommender):
    r"""A teacher after the `"Spectrum-based Modality Representation Fusion Graph
    Convolutional Network for Multimodal Recommendation"
    <https://arxiv.org/abs/2412.14978>`_ paper, in our formulas.

    Reduced features are filtered and fused among their frequencies
    (:math:`\hat{\mathbf{h}}^m`, :math:`\hat{\mathbf{h}}^f`), gate the items' id
    vectors, and travel along frozen item graphs: :math:`\mathbf{S}_m` joins nearest
    neighbors of one modality, :math:`\mathbf{S}_f` is the elementwise maximum of all.
    Users receive what they touched.

    .. math::
        \mathbf{H}_i^v = \mathbf{S}_v^K \big( \mathbf{E}_i \odot \sigma(G_v
        \hat{\mathbf{H}}^v) \big), \qquad \mathbf{H}_u^v = \mathbf{A} \mathbf{H}_i^v,
        \qquad v \in M \cup \{f\}

    Behavior :math:`\mathbf{c}`, the LightGCN vector of the ids, decides what counts:

    .. math::
        \mathbf{s} = \frac{1}{|M| + 1} \Big( \sum_m \sigma(P_m \mathbf{c}) \odot
        \mathrm{softmax}(Q_m \mathbf{h}^f) \odot \mathbf{h}^m + \sigma(P_f \mathbf{c})
        \odot \mathbf{h}^f \Big), \qquad \mathbf{x} = \mathbf{c} + \mathbf{s}

    where :math:`G` and :math:`P` are linear, :math:`Q` linear, tanh, linear, and the
    softmax runs over channels. The modality vectors of the output are the summands of
    the bracket, each with an equal share of the fused one, so :math:`\mathbf{s}` is
    their sum divided by :math:`|M| + 1`.

    :meth:`losses` has ``bpr``, ``l2`` and ``contrast``: InfoNCE, both ways, between
    :math:`\mathbf{s}` and :math:`\mathbf{c}` of the batch's users and positives.

    Features are part of the module as buffers that are not saved.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {item: [N, F_m]}}``.
        edge_type: The relation from users to items. (default: ``INTERACTS``)
        embedding_dim: The shared width :math:`D`. (default: ``64``)
        num_layers: Layers of the id propagation. (default: ``2``)
        num_item_layers: Layers :math:`K` of the item graphs. (default: ``1``)
        num_neighbors: Neighbors of an item. (default: ``10``)
        temperature: Of the contrast. (default: ``0.2``)
        init_std: Standard deviation of the id tables' start. (default: ``0.1``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`

    Raises:
        ValueError: If sizes or rows do not fit.
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
        temperature: float = 0.2,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(num_nodes_dict, edge_type)
        modality_x_dict = features_or_none(modality_x_dict)
        check_positive('num_layers', num_layers)
        check_positive('temperature', temperature)
        self.modalities = list(modality_x_dict)
        self.num_layers = num_layers
        self.temperature = temperature
        user, item = self.user, self.item
        self.num_nodes_dict = {key: num_nodes_dict[key] for key in (user, item)}
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.features = ProjectedFeatures(
            self.num_nodes_dict, item, modality_x_dict, embedding_dim
        )
        self.fusion = SpectralFusion(self.modalities, embedding_dim)
        graphs = [item_edges(x[item], num_neighbors) for x in modality_x_dict.values()]
        num_items = num_nodes_dict[item]
        self.graphs = torch.nn.ModuleList(
            FrozenGraph(edges, num_items, num_item_layers)
            for edges in [*graphs, max_edges(graphs, num_items)]
        )
        # Of the modalities in order, and of the fused view at the end.
        self.gates = _linears(len(graphs) + 1, embedding_dim)
        self.preferences = _linears(len(graphs) + 1, embedding_dim)
        self.shares = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Linear(embedding_dim, embedding_dim),
                torch.nn.Tanh(),
                torch.nn.Linear(embedding_dim, embedding_dim, bias=False),
            )
            for _ in self.modalities
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.embeddings.reset_parameters()
        self.fusion.reset_parameters()
        for part in self.modules():
            if isinstance(part, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    torch.nn.init.zeros_(part.bias)

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
        user, item = self.edge_type[0], self.edge_type[2]
        ids = self.embeddings()
        smooth = graph.smooth(ids[user], ids[item], self.num_layers)
        item_views = self._item_views(ids[item])
        # One product for all views.
        user_views = (graph.to_user @ torch.cat(item_views, dim=-1)).chunk(
            len(item_views), dim=-1
        )
        views = {
            user: self._preferred(list(user_views), smooth[0]),
            item: self._preferred(item_views, smooth[1]),
        }
        x_dict = {
            key: content + self._side(views[key])
            for key, content in zip((user, item), smooth, strict=True)
        }
        modality_x_dict = {
            modality: {key: views[key][place] for key in (user, item)}
            for place, modality in enumerate(self.modalities)
        }
        return TeacherOutput(x_dict, modality_x_dict)

    def _item_views(self, ids: Tensor) -> list[Tensor]:
        single, fused = self.fusion(torch.stack(list(self.features().values())))
        return [
            frozen(ids * gate(x).sigmoid())
            for x, gate, frozen in zip(
                [*single, fused], self.gates, self.graphs, strict=True
            )
        ]

    def _preferred(self, views: list[Tensor], content: Tensor) -> list[Tensor]:
        *single, fused = views
        *wanted, wanted_fused = (lin(content).sigmoid() for lin in self.preferences)
        rest = wanted_fused * fused / len(single)
        return [
            want * share(fused).softmax(dim=-1) * view + rest
            for share, view, want in zip(self.shares, single, wanted, strict=True)
        ]

    def _side(self, views: list[Tensor]) -> Tensor:
        return torch.stack(views).sum(dim=0) / (len(views) + 1)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch.

        Args:
            output: What the forward returned.
            batch: User, positive and negative items ``[B]``.
        """
        user, _, item = self.edge_type
        losses = []
        for key, ids in ((user, batch.user), (item, batch.positive)):
            index = ids.unique()
            views = [output.modality_x_dict[m][key][index] for m in self.modalities]
            side = self._side(views)
            content = output.x_dict[key][index] - side
            losses.append(contrast(side, content, self.temperature))
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


def _linears(number: int, channels: int) -> torch.nn.ModuleList:
    return torch.nn.ModuleList(
        torch.nn.Linear(channels, channels) for _ in range(number)
    )
