"""LightGCN-M: LightGCN with features in the first layer of items."""

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.propagation import Blocks, check_reached, propagate_blocks
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput

_ID = 'id'  # The block of id embeddings; names of modalities get the prefix below.
_MODALITY = 'modality/'


class LightGCNM(ContentRecommender):
    r"""LightGCN-M, a common multi-modal baseline: the model of the `"LightGCN"
    <https://arxiv.org/abs/2002.02126>`_ paper with projected features in the first
    layer of items.

    .. math::
        \mathbf{x}_i^{(0)} = \mathbf{e}_i + \frac{1}{|M|} \sum_m (\mathbf{W}_m
        \mathbf{x}_i^m + \mathbf{b}_m), \qquad \mathbf{x}_u^{(0)} = \mathbf{e}_u

    As the propagation is linear, the final embeddings are those of the ids plus the
    mean over modalities of propagated features, which are returned as modality
    vectors. It has no paper of its own, and implementations differ.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: The number of propagation layers. (default: ``2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`, all of width
          :math:`D`

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    linear_start = 'xavier_uniform'
    search_space = trained_space(1e-3, num_layers=Choices(2, (1, 2, 3, 4)))

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        self.num_nodes_dict = dict(num_nodes_dict)
        self.embeddings = NodeEmbeddings(num_nodes_dict, embedding_dim, init_std)
        self.features = self.project(modality_x_dict, embedding_dim)

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj_dict = self.operators(edge_index_dict, edge_weight_dict)
        id_dict = self.embeddings()
        check_reached(id_dict, adj_dict)
        blocks: Blocks = {key: {_ID: x} for key, x in id_dict.items()}
        for modality, x in self.features().items():
            blocks[self.item][_MODALITY + modality] = x
        means = self._propagate(blocks, adj_dict)

        x_dict = {key: named[_ID] for key, named in means.items()}
        modality_x_dict: dict[str, dict[NodeType, Tensor]] = {}
        for key, named in means.items():
            parts = {
                name.removeprefix(_MODALITY): x
                for name, x in named.items()
                if name != _ID
            }
            for modality, x in parts.items():
                modality_x_dict.setdefault(modality, {})[key] = x
                x_dict[key] = torch.add(x_dict[key], x, alpha=1 / len(parts))
        return TeacherOutput(x_dict, modality_x_dict)

    def _propagate(self, blocks: Blocks, adj_dict: dict[EdgeType, CSRPair]) -> Blocks:
        """The mean over layers, block by block; absent blocks are zeros."""
        sums: Blocks = {key: dict(named) for key, named in blocks.items()}
        for _ in range(self.num_layers):
            blocks = propagate_blocks(blocks, adj_dict)
            for key, named in blocks.items():
                for name, x in named.items():
                    total = sums[key]
                    total[name] = total[name] + x if name in total else x
        return {
            key: {name: x / (self.num_layers + 1) for name, x in named.items()}
            for key, named in sums.items()
        }
