"""MMGCN: one graph convolution per modality."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender, reset
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput


class MMGCN(ContentRecommender):
    r"""One graph convolution per modality, connected by shared id embeddings, after the
    `"MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of
    Micro-video" <https://doi.org/10.1145/3343031.3351034>`_ paper.

    .. math::
        \mathbf{h}_v^{m} = \phi \Big( \mathbf{W}_1^{m} \sum_{w \in \mathcal{N}(v)}
        a_{wv} \mathbf{x}_w^{m} \Big), \qquad \mathbf{x}_v^{m \prime} = \phi \left(
        \mathbf{W}_3^{m} \mathbf{h}_v^{m} + \phi(\mathbf{W}_2^{m} \mathbf{x}_v^{m}) +
        \mathbf{e}_v \right), \qquad \mathbf{x}_v = \frac{1}{M} \sum_m \mathbf{x}_v^m

    with :math:`\phi` a leaky ReLU and :math:`\mathbf{e}` the ids. Items start from
    projected features, users from one table per modality. :math:`a` are the edge
    weights (symmetric normalization here, the mean in the paper); modalities are
    averaged, not added as in the paper. ``l2`` is that of the rows of all tables.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of every part. (default: ``64``)
        num_layers: Convolutions per modality. (default: ``2``)
        negative_slope: Of the leaky ReLU. (default: ``0.01``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, also per modality

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    l2_tables = ('embeddings', 'tastes')

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        negative_slope: float = 0.01,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_non_negative('negative_slope', negative_slope)
        self.features = self.project(modality_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        # One table, the concatenation of all modalities.
        self.tastes = self.user_table(len(self.modalities) * embedding_dim, init_std)
        self.convs = torch.nn.ModuleList(
            torch.nn.ModuleList(
                _Combination(embedding_dim, negative_slope) for _ in self.modalities
            )
            for _ in range(num_layers)
        )

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        id_dict = self.embeddings()
        width = self.embeddings.embedding_dim
        users = list(self.tastes()[self.user].split(width, dim=1))
        items = list(self.features().values())
        for convs in self.convs:
            # All modalities share one product in each direction.
            to_users = (adj.to_user @ torch.cat(items, dim=1)).split(width, dim=1)
            to_items = (adj.to_item @ torch.cat(users, dim=1)).split(width, dim=1)
            assert isinstance(convs, torch.nn.ModuleList)
            for m, conv in enumerate(convs):
                users[m] = conv(to_users[m], users[m], id_dict[self.user])
                items[m] = conv(to_items[m], items[m], id_dict[self.item])
        user_x, item_x = (torch.stack(x).mean(dim=0) for x in (users, items))
        return self.output(user_x, item_x, users, items)


class _Combination(torch.nn.Module):
    """Combines the neighbors of a node, the node itself and its id."""

    def __init__(self, channels: int, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.neighbor_lin = torch.nn.Linear(channels, channels, bias=False)
        self.self_lin = torch.nn.Linear(channels, channels)
        self.out_lin = torch.nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for lin in (self.neighbor_lin, self.self_lin, self.out_lin):
            reset(lin)

    def forward(self, neighbors: Tensor, x: Tensor, ids: Tensor) -> Tensor:
        h = F.leaky_relu(self.neighbor_lin(neighbors), self.negative_slope)
        own = F.leaky_relu(self.self_lin(x), self.negative_slope) + ids
        return F.leaky_relu(self.out_lin(h) + own, self.negative_slope)
