"""The same list for everybody."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS, FeatureDict
from promptmm_pyg.models.base import GraphRecommender, features_or_none
from promptmm_pyg.nn import as_csr_pair
from promptmm_pyg.nn.csr import Adjacency
from promptmm_pyg.targets import TeacherOutput


class Popularity(GraphRecommender):
    """Scores an item by the number of its interactions; vectors of width 1, ones for
    users and the degree for items.

    Degrees count the edges the model is called with, whatever their weights. There
    is nothing to train.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Ignored; the model reads no features. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair`
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` without modalities

    Raises:
        ValueError: If ``edge_type`` does not fit the nodes or has no edges.

    Example:
        >>> edge_type = ('user', 'buys', 'item')
        >>> model = Popularity({'user': 2, 'item': 2}, edge_type=edge_type)
        >>> model({edge_type: torch.tensor([[0, 1, 1], [0, 0, 1]])}).x_dict['item']
        tensor([[2.],
                [1.]])
    """

    loss_weights: ClassVar[Mapping[str, float]] = {}

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: FeatureDict | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 1,
    ) -> None:
        super().__init__(num_nodes_dict, edge_type)
        features_or_none(modality_x_dict)
        if embedding_dim != 1:
            raise ValueError(
                f"'embedding_dim' must be 1, the width of a count (got {embedding_dim})"
            )
        for key in (self.user, self.item):
            check_positive(f"num_nodes_dict['{key}']", num_nodes_dict[key])
        self.num_nodes_dict = dict(num_nodes_dict)

    def forward(
        self,
        edge_index_dict: dict[EdgeType, Adjacency],
        edge_weight_dict: object = None,  # noqa: ARG002
    ) -> TeacherOutput:
        if self.edge_type not in edge_index_dict:
            raise ValueError(
                f"'edge_index_dict' requires edges of {self.edge_type} (got "
                f'{list(edge_index_dict)})'
            )
        size = (self.num_nodes_dict[self.user], self.num_nodes_dict[self.item])
        adj = as_csr_pair(edge_index_dict[self.edge_type], size=size)
        by_item, _ = adj.matrices(torch.float)
        degree = by_item.crow_indices().diff().float().unsqueeze(1)
        return TeacherOutput(
            {self.user: degree.new_ones(size[0], 1), self.item: degree}, {}
        )

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.edge_type})'
