"""What models in closed form share: they are fitted once, then asked."""

from abc import ABC, abstractmethod
from typing import Generic, Self, TypeVar

from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.models._sides import sides
from promptmm_pyg.targets import TeacherOutput

Fitted = TypeVar('Fitted')


class ClosedForm(ABC, Generic[Fitted]):
    """A model that nothing trains.

    Args:
        num_nodes_dict: The number of nodes per node type.
        edge_type: ``(user, relation, item)``, the interactions.

    Raises:
        ValueError: If a size does not fit.
    """

    def __init__(
        self, num_nodes_dict: dict[NodeType, int], edge_type: EdgeType
    ) -> None:
        self.user, self.item = sides(num_nodes_dict, edge_type)
        self.num_users = num_nodes_dict[self.user]
        self.num_items = num_nodes_dict[self.item]
        self._fitted: Fitted | None = None

    @abstractmethod
    def fit(self, edge_index: Tensor) -> Self:
        """Computes all that scores need of the training interactions and returns the
        model.

        Args:
            edge_index: (user, item) pairs ``[2, E]``; repeats count once.

        Raises:
            ValueError: If an index leaves the numbers of nodes.
        """

    @abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """The scores of every item, for :func:`~promptmm_pyg.ranking.rank_items` and
        :func:`~promptmm_pyg.evaluation.evaluate`.

        Args:
            users: Users ``[B]``.

        Returns:
            Scores ``[B, num_items]``.

        Raises:
            RuntimeError: If the model is not fitted.
            ValueError: If an index leaves the number of users.
        """

    @abstractmethod
    def as_output(self, width: int, seed: int = 0) -> TeacherOutput:
        """The tables of the given width whose inner products are closest to the
        scores of all users (truncated SVD, never the dense scores), to teach with.

        Args:
            width: The width of the tables.
            seed: Seed of the decomposition's start. (default: ``0``)

        Raises:
            RuntimeError: If the model is not fitted.
            ValueError: If ``width`` exceeds the number of users or items.
        """

    def _state(self) -> Fitted:
        if self._fitted is None:
            raise RuntimeError("the model is not fitted. Call 'fit(edge_index)' first")
        return self._fitted
