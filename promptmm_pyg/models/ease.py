"""EASE: a linear item-item model in closed form."""

from typing import Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.limits import check_memory
from promptmm_pyg.models.closed_form import ClosedForm, Interactions, Product
from promptmm_pyg.nn._features import Features
from promptmm_pyg.search_space import Range, SearchSpace

_BLOCK_SIZE = 1024
_ALTERNATIVES = "Use 'ItemKNN' (a sparse matrix) or 'GraphFilter' (none)"


class EASE(ClosedForm[tuple[Interactions, Tensor]]):
    r"""The item-item weights that best predict each item of a user from the other
    items of this user, in closed form, from the `"Embarrassingly Shallow Autoencoders
    for Sparse Data" <https://arxiv.org/abs/1905.03375>`_ paper.

    .. math::
        \min_{\mathbf{B}} \|\mathbf{A} - \mathbf{A} \mathbf{B}\|_F^2 + \lambda
        \|\mathbf{B}\|_F^2 \;\; \text{s.t. } \mathrm{diag}(\mathbf{B}) = 0, \qquad
        B_{ij} = - \frac{P_{ij}}{P_{jj}}, \; \mathbf{P} = (\mathbf{A}^{\top}
        \mathbf{A} + \lambda \mathbf{I})^{-1}

    :math:`\mathbf{B}` is dense, and fitting needs two such matrices in double
    precision, so ``max_items`` limits the size of the catalogue. Beyond it,
    :class:`~promptmm_pyg.models.ItemKNN` has a sparse matrix, and
    :class:`~promptmm_pyg.models.GraphFilter` none.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Ignored. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The default width of :meth:`as_output`. (default: ``64``)
        l2: :math:`\lambda`. (default: ``250.0``)
        max_items: The most items a catalogue may have. (default: ``20000``)

    Raises:
        ValueError: If a size does not fit, there are more than ``max_items`` items,
            or the matrices do not fit into free memory.

    Example:
        >>> model = EASE({'user': 2, 'item': 2}, l2=1.0)
        >>> model.fit(torch.tensor([[0, 0, 1], [0, 1, 0]])).scores(torch.tensor([1]))
        tensor([[0.0000, 0.3333]])
    """

    search_space = SearchSpace({'l2': Range(250.0, 1.0, 5000.0)})

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        l2: float = 250.0,
        max_items: int = 20000,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, embedding_dim)
        check_positive('l2', l2)
        needed = 16 * self.num_items**2
        if self.num_items > max_items:
            raise ValueError(
                f"'num_nodes_dict' must have at most max_items={max_items} items (got "
                f'{self.num_items}, which require {needed / 2**30:.1f} GiB to fit). '
                f"{_ALTERNATIVES}, or raise 'max_items'"
            )
        name = f'EASE of {self.num_items} items'
        check_memory(name, needed, _ALTERNATIVES)
        self.l2 = l2

    def fit(self, edge_index: Tensor) -> Self:
        interactions = Interactions(edge_index, self.num_users, self.num_items)
        size = (self.num_items, self.num_items)
        gram = torch.empty(size, dtype=torch.double, device=edge_index.device)
        for start, block in interactions.cooccurrence(_BLOCK_SIZE):
            gram[start : start + block.size(0)] = block.to_dense()
        gram.diagonal().add_(self.l2)
        factor = torch.linalg.cholesky(gram)
        del gram  # At most two matrices at a time.
        weight = torch.cholesky_inverse(factor)
        del factor
        weight.div_(-weight.diagonal().clone())  # Of each column.
        weight.fill_diagonal_(0.0)
        self._fitted = interactions, weight.float()
        return self

    @property
    def weight(self) -> Tensor:
        r"""The weights :math:`\mathbf{B}`, ``[num_items, num_items]``."""
        return self._state()[1]

    def scores(self, users: Tensor) -> Tensor:
        interactions, weight = self._state()
        return interactions.history_operator(users) @ weight

    def _products(self) -> tuple[Product, Product, torch.device]:
        interactions, weight = self._state()
        operator = interactions.operator
        return (
            lambda x: operator @ (weight @ x),
            lambda x: weight.t() @ (operator.t() @ x),
            weight.device,
        )

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(l2={self.l2})'
