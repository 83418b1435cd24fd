"""MMGCN: one graph convolution per modality."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize, rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, GraphCache, mean_operator
from promptmm_pyg.models._projected_features import LinearStart, reset_linear
from promptmm_pyg.models.base import ContentRecommender, normal_std
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput


class MMGCN(ContentRecommender):
    r"""One graph convolution per modality, connected by shared id embeddings, after the
    `"MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of
    Micro-video" <https://doi.org/10.1145/3343031.3351034>`_ paper.

    .. math::
        \mathbf{h}_v^{m} = \phi \Big( \mathrm{mean}_{w \in \mathcal{N}(v)} \,
        \mathbf{W}_1^{m} \mathbf{x}_w^{m} \Big), \qquad \mathbf{x}_v^{m \prime} = \phi
        \left( \mathbf{W}_3^{m} [\mathbf{h}_v^{m} \, \| \, \phi(\mathbf{W}_2^{m}
        \mathbf{x}_v^{m}) + \mathbf{e}_v] \right), \qquad \mathbf{x}_v = \frac{1}{M}
        \sum_m \mathbf{x}_v^m

    with :math:`\phi` a leaky ReLU and :math:`\mathbf{e}` the ids. Items start from
    their features, those of ``'image'`` after a linear map to ``image_channels``, and
    users from one table of preferences per modality, all at unit length. Edge weights
    are not used.

    Everything is that of the released code, also where it differs from the paper
    (concatenation in place of a sum, modalities averaged, three layers), except that
    ids and preferences are trained: there they are not registered as parameters and
    keep their initial values.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of every layer's output. (default: ``64``)
        num_layers: Convolutions per modality. (default: ``3``)
        image_channels: The width to which ``'image'`` is projected. (default: ``256``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier normal, as published)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair`
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, also per modality

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    reads_weights = False
    search_space = trained_space(1e-3, num_layers=Choices(3, (1, 2, 3)))

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 3,
        image_channels: int = 256,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('image_channels', image_channels)
        widths = {m: image_channels if m == 'image' else None for m in self.modalities}
        self.features = self.project(modality_x_dict, widths)
        num_nodes = self.num_users + self.num_items
        std = normal_std(init_std, num_nodes, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, std)
        self.preferences = torch.nn.ModuleDict()
        self.convs = torch.nn.ModuleDict()
        start: LinearStart = 'xavier_normal'
        for modality, width in self.features.widths.items():
            std = normal_std(init_std, self.num_users, width)
            users = {self.user: self.num_users}
            self.preferences[f'user_{modality}'] = NodeEmbeddings(users, width, std)
            widths_in = [width, *[embedding_dim] * (num_layers - 1)]
            self.convs[f'conv_{modality}'] = torch.nn.ModuleList(
                # The later layers keep PyTorch's default start.
                _Convolution(channels, embedding_dim, 'default' if layer else start)
                for layer, channels in enumerate(widths_in)
            )
        self._operator = GraphCache(mean_operator)
        self.reset_parameters()

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: object = None,  # noqa: ARG002
    ) -> TeacherOutput:
        adj = self._operator(self.bipartite(edge_index_dict).to_item)
        id_dict, views = self.embeddings(), []
        ids = torch.cat([id_dict[self.user], id_dict[self.item]])
        for modality, features in self.features().items():
            table = self.preferences[f'user_{modality}']()[self.user]
            x = l2_normalize(torch.cat([table, features]))
            convs = self.convs[f'conv_{modality}']
            assert isinstance(convs, torch.nn.ModuleList)
            for conv in convs:
                x = conv(adj, x, ids)
            views.append(x.split([self.num_users, self.num_items]))
        users, items = zip(*views, strict=True)
        user_x, item_x = (torch.stack(x).mean(dim=0) for x in (users, items))
        return self.output(user_x, item_x, users, items)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` and ``l2`` of one batch. ``l2`` is the mean square of the id rows of
        users, plus that of items (positives and negatives), plus that of all
        preferences of ``'image'`` (of the first modality, if there is none).
        """
        id_dict = self.embeddings()
        preferences = self.preferences[f'user_{self.lead_modality}']()[self.user]
        parts = (
            rows(id_dict[self.user], batch.user),
            rows(id_dict[self.item], torch.cat([batch.positive, batch.negative])),
            preferences,
        )
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': torch.stack([x.square().mean() for x in parts]).sum(),
        }


class _Convolution(torch.nn.Module):
    """Combines the neighbors of a node, the node itself and its id."""

    def __init__(
        self, in_channels: int, out_channels: int, out_start: LinearStart
    ) -> None:
        super().__init__()
        self.out_start: LinearStart = out_start
        self.neighbor_lin = torch.nn.Linear(in_channels, in_channels, bias=False)
        self.self_lin = torch.nn.Linear(in_channels, out_channels)
        self.out_lin = torch.nn.Linear(in_channels + out_channels, out_channels)

    def reset_parameters(self) -> None:
        reset_linear(self.neighbor_lin, 'xavier_normal')
        reset_linear(self.self_lin, 'xavier_normal')
        reset_linear(self.out_lin, self.out_start)

    def forward(self, adj: CSRPair, x: Tensor, ids: Tensor) -> Tensor:
        h = F.leaky_relu(adj @ self.neighbor_lin(x))
        own = F.leaky_relu(self.self_lin(x)) + ids
        return F.leaky_relu(self.out_lin(torch.cat([h, own], dim=1)))
