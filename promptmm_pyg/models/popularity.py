"""Popularity: the same list for every user."""

from typing import Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models.closed_form import ClosedForm, Interactions, Product
from promptmm_pyg.nn._features import Features
from promptmm_pyg.targets import TeacherOutput


class Popularity(ClosedForm[Interactions]):
    """Scores an item by the number of its users.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Ignored. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The default width of ``as_output``; columns beyond the first
            are zero. (default: ``1``)

    Raises:
        ValueError: If ``edge_type`` or a size does not fit.

    Example:
        >>> model = Popularity({'user': 2, 'item': 2})
        >>> model.fit(torch.tensor([[0, 1, 1], [0, 0, 1]])).scores(torch.tensor([0]))
        tensor([[2., 1.]])
    """

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 1,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, embedding_dim)

    def fit(self, edge_index: Tensor) -> Self:
        self._fitted = Interactions(edge_index, self.num_users, self.num_items)
        return self

    def scores(self, users: Tensor) -> Tensor:
        interactions = self._state()
        interactions.check_users(users)
        return interactions.item_degree.float().repeat(users.numel(), 1)

    def as_output(self, width: int | None = None, seed: int = 0) -> TeacherOutput:  # noqa: ARG002
        degree = self._state().item_degree.float()
        width = self.embedding_dim if width is None else width
        user_x = degree.new_zeros(self.num_users, width)
        item_x = degree.new_zeros(self.num_items, width)
        user_x[:, 0], item_x[:, 0] = 1.0, degree
        return TeacherOutput({self.user: user_x, self.item: item_x}, {})

    def _products(self) -> tuple[Product, Product, torch.device]:
        raise NotImplementedError  # Scores of rank one need no decomposition.

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}()'
