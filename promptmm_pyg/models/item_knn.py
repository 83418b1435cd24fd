"""ItemKNN: item-based collaborative filtering."""

from typing import Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models.closed_form import ClosedForm, Interactions, Product
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.search_space import Choices, SearchSpace


class ItemKNN(ClosedForm[tuple[Interactions, CSRPair]]):
    r"""Item-based collaborative filtering with cosines between the users of two
    items, after the `"Item-Based Top-N Recommendation Algorithms"
    <https://doi.org/10.1145/963770.963776>`_ paper, in closed form.

    .. math::
        s_{ij} = \frac{|\mathcal{U}_i \cap \mathcal{U}_j|}
        {\sqrt{|\mathcal{U}_i| \, |\mathcal{U}_j|} + \beta}, \qquad
        y_{ui} = \sum_{j \in \mathcal{I}_u \cap \mathcal{N}_k(i)} s_{ij}

    :math:`\mathcal{N}_k(i)` are the :math:`k` other items with the highest
    :math:`s_{ij} > 0`, the lower index first if they are equal. The similarities are
    computed in blocks of rows and stored as a sparse matrix.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Ignored. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The default width of :meth:`as_output`. (default: ``64``)
        k: Neighbors of an item. (default: ``20``)
        shrink: :math:`\beta`, which reduces similarities of items with few users.
            (default: ``0.0``)
        block_size: Rows of the similarity matrix computed at once.
            (default: ``1024``)

    Raises:
        ValueError: If a size does not fit.

    Example:
        >>> model = ItemKNN({'user': 2, 'item': 3}, edge_type=('user', 'buys', 'item'))
        >>> model.fit(torch.tensor([[0, 0, 1], [0, 1, 0]])).scores(torch.tensor([1]))
        tensor([[0.0000, 0.7071, 0.0000]])
    """

    search_space = SearchSpace(
        {
            'k': Choices(20, (5, 10, 20, 50, 100, 200)),
            'shrink': Choices(0.0, (0.0, 1.0, 3.0, 10.0, 30.0)),
        }
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        k: int = 20,
        shrink: float = 0.0,
        block_size: int = 1024,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, embedding_dim)
        check_positive('k', k)
        check_non_negative('shrink', shrink)
        check_positive('block_size', block_size)
        self.k = k
        self.shrink = shrink
        self.block_size = block_size

    def fit(self, edge_index: Tensor) -> Self:
        interactions = Interactions(edge_index, self.num_users, self.num_items)
        degree = interactions.item_degree.double()
        parts = []
        for start, block in interactions.cooccurrence(self.block_size):
            item, other = block.indices()
            item = item + start
            norm = (degree[item] * degree[other]).sqrt() + self.shrink
            # Rounded first: equal similarities may differ in their last digits, which
            # depend on the machine.
            value = (block.values().double() / norm).float()
            parts.append(top_entries(item, other, value, self.k))
        item, other, value = (torch.cat(part) for part in zip(*parts, strict=True))
        similarity = CSRPair.from_edge_index(
            torch.stack([other, item]),
            value,
            size=(self.num_items, self.num_items),
        )
        self._fitted = interactions, similarity
        return self

    @property
    def similarity(self) -> CSRPair:
        """The similarities as operator ``(num_items, num_items)``, one row per item."""
        return self._state()[1]

    def scores(self, users: Tensor) -> Tensor:
        interactions, similarity = self._state()
        row, item = interactions.histories(users)
        history = torch.zeros(self.num_items, users.numel(), device=row.device)
        history[item, row] = 1.0
        return (similarity @ history).t().contiguous()

    def _products(self) -> tuple[Product, Product, torch.device]:
        interactions, similarity = self._state()
        operator = interactions.operator
        return (
            lambda x: operator @ (similarity.t() @ x),
            lambda x: similarity @ (operator.t() @ x),
            interactions.item_degree.device,
        )

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(k={self.k}, shrink={self.shrink})'


def top_entries(
    item: Tensor, other: Tensor, value: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` highest values of each item; entries must be sorted."""
    different = item != other
    item, other, value = item[different], other[different], value[different]
    # Two stable sorts: by item, then by value, then by the other item.
    order = value.argsort(stable=True, descending=True)
    order = order[item[order].argsort(stable=True)]
    item, other, value = item[order], other[order], value[order]
    position = torch.arange(item.numel(), device=item.device)
    nearest = position - torch.searchsorted(item, item) < k
    return item[nearest], other[nearest], value[nearest]
