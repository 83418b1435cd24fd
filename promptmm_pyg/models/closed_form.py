"""The base of models in closed form, their interactions, and low-rank operators."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_ids, check_positive, checked_edges
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models.base import FromData, check_features, node_types
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.targets import TeacherOutput

Fitted = TypeVar('Fitted')
Product = Callable[[Tensor], Tensor]

_OVERSAMPLING = 10
_POWER_ITERATIONS = 8


class ClosedForm(FromData, ABC, Generic[Fitted]):
    """The base of models that are fitted in closed form, without training steps.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {node_type: [N_t, F_m]}}``; a model that
            reads none ignores them. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The default width of :meth:`as_output`. (default: ``64``)

    Raises:
        ValueError: If a size does not fit.
        TypeError: If ``modality_x_dict`` is not a dictionary.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {}
    """None: there is nothing to train."""

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
    ) -> None:
        check_features(modality_x_dict)
        check_positive('embedding_dim', embedding_dim)
        self.user, self.item = node_types(num_nodes_dict, edge_type)
        for key in (self.user, self.item):
            check_positive(f"num_nodes_dict['{key}']", num_nodes_dict[key])
        self.edge_type = edge_type
        self.embedding_dim = embedding_dim
        self.num_users = num_nodes_dict[self.user]
        self.num_items = num_nodes_dict[self.item]
        self._fitted: Fitted | None = None

    @abstractmethod
    def fit(self, edge_index: Tensor) -> Self:
        """Fits the model to the training interactions and returns it.

        Args:
            edge_index: (user, item) pairs ``[2, E]``; repeats count once.

        Raises:
            ValueError: If an index is out of bounds.
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
            ValueError: If an index is out of bounds.
        """

    def as_output(self, width: int | None = None, seed: int = 0) -> TeacherOutput:
        """Embeddings of the given width whose inner products are closest to the scores
        of all users, for distillation and serving (truncated SVD; the dense scores are
        never computed).

        Args:
            width: The width of the embeddings. (default: ``embedding_dim``, at most
                the number of users and of items)
            seed: Seed of the decomposition. (default: ``0``)

        Raises:
            RuntimeError: If the model is not fitted.
            ValueError: If ``width`` exceeds the number of users or items.
        """
        user_x, item_x = self._low_rank(width, seed)
        return TeacherOutput({self.user: user_x, self.item: item_x}, {})

    def _low_rank(self, width: int | None, seed: int) -> tuple[Tensor, Tensor]:
        if width is None:
            width = min(self.embedding_dim, self.num_users, self.num_items)
        product, transposed, device = self._products()
        return low_rank(
            product,
            transposed,
            (self.num_users, self.num_items),
            width,
            seed=seed,
            device=device,
        )

    @abstractmethod
    def _products(self) -> tuple[Product, Product, torch.device]:
        """The scores of all users as an operator: the product with item vectors, that
        of the transpose with user vectors, and the device of both.
        """

    def _state(self) -> Fitted:
        if self._fitted is None:
            raise RuntimeError("the model is not fitted. Call 'fit(edge_index)' first")
        return self._fitted


class Interactions:
    """A sparse binary user-item matrix.

    Args:
        edge_index: (user, item) pairs ``[2, E]``; repeats count once.
        num_users: The number of users.
        num_items: The number of items.

    Raises:
        ValueError: If the shape does not fit or an index is out of bounds.
    """

    def __init__(self, edge_index: Tensor, num_users: int, num_items: int) -> None:
        user, item = checked_edges(edge_index, (num_users, num_items))
        flat = torch.unique(item * num_users + user)
        self.num_users, self.num_items = num_users, num_items
        item, user = flat // num_users, flat % num_users
        self._by_item = torch.stack([item, user])
        self.item_degree = torch.bincount(item, minlength=num_items)
        self._item_end = self.item_degree.cumsum(0)
        order = user.argsort(stable=True)
        self._by_user = torch.stack([user[order], item[order]])
        self.user_degree = torch.bincount(user, minlength=num_users)
        self._user_end = self.user_degree.cumsum(0)
        self.operator = CSRPair.from_edge_index(
            self._by_item, size=(num_items, num_users)
        )
        """Sums item vectors per user, shape ``(num_users, num_items)``."""

    def check_users(self, users: Tensor) -> None:
        """Raises unless ``users`` are indices of users."""
        if users.dim() != 1:
            raise ValueError(f"'users' must have shape [B] (got {list(users.shape)})")
        check_ids('users', users, self.num_users)

    def histories(self, users: Tensor) -> Tensor:
        """The items of the given users, pairs (position in ``users``, item) ``[2, E]``.

        Raises:
            ValueError: If an index is out of bounds.
        """
        self.check_users(users)
        users = users.to(self.user_degree.device)
        count = self.user_degree[users]
        row = torch.repeat_interleave(count)
        offset = torch.arange(row.numel(), device=row.device)
        offset = offset - (count.cumsum(0) - count)[row]
        first = self._user_end[users] - count
        return torch.stack([row, self._by_user[1, first[row] + offset]])

    def history_operator(self, users: Tensor) -> CSRPair:
        """Sums item vectors per given user, shape ``(B, num_items)``; for one or two
        products.

        Raises:
            ValueError: If an index is out of bounds.
        """
        edge_index = self.histories(users).flip([0])
        size = (self.num_items, users.numel())
        return CSRPair.from_edge_index(edge_index, size=size, reused=False)

    def cooccurrence(self, block_size: int) -> Iterator[tuple[int, Tensor]]:
        """Yields the number of common users of every pair of items, in blocks of rows.

        Args:
            block_size: The number of rows in a block.

        Returns:
            The first row of each block and its counts, a coalesced sparse matrix
            ``[<= block_size, num_items]``.
        """
        by_user = self._sparse(self._by_user, (self.num_users, self.num_items))
        for start in range(0, self.num_items, block_size):
            size = min(block_size, self.num_items - start)
            begin = int(self._item_end[start] - self.item_degree[start])
            end = int(self._item_end[start + size - 1])
            rows = self._by_item[:, begin:end].clone()
            rows[0] -= start
            block = self._sparse(rows, (size, self.num_users))
            yield start, torch.sparse.mm(block, by_user).coalesce()

    @staticmethod
    def _sparse(index: Tensor, size: tuple[int, int]) -> Tensor:
        ones = torch.ones(index.size(1), device=index.device)
        return torch.sparse_coo_tensor(
            index, ones, size, is_coalesced=True, check_invariants=False
        )


def low_rank(
    product: Product,
    transposed: Product,
    shape: tuple[int, int],
    width: int,
    *,
    seed: int = 0,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Two tables whose inner products are closest to a matrix :math:`\mathbf{M}`, by
    the truncated singular value decomposition.

    .. math::
        \mathbf{M} \approx \mathbf{Q} \mathbf{Q}^{\top} \mathbf{M} \approx (\mathbf{U}
        \sqrt{\mathbf{\Sigma}}) (\mathbf{V} \sqrt{\mathbf{\Sigma}})^{\top}

    The range :math:`\mathbf{Q}` is computed by subspace iteration from a random start
    (`"Finding Structure with Randomness" <https://arxiv.org/abs/0909.4061>`_), for
    which :math:`\mathbf{M}` can be an operator (:func:`torch.svd_lowrank` requires the
    matrix).

    Args:
        product: ``[num_cols, R]`` to :math:`\mathbf{M}` times it, ``[num_rows, R]``.
        transposed: ``[num_rows, R]`` to :math:`\mathbf{M}^{\top}` times it.
        shape: ``(num_rows, num_cols)``.
        width: The width :math:`D` of the tables, at most the smaller size.
        seed: Seed of the start. (default: ``0``)
        device: Where the operator is. (default: CPU)

    Returns:
        Tables ``[num_rows, D]`` and ``[num_cols, D]``.

    Raises:
        ValueError: If ``width`` is not positive or larger than a side.

    Example:
        >>> m = torch.diag(torch.tensor([4.0, 1.0]))
        >>> rows, cols = low_rank(lambda x: m @ x, lambda x: m.t() @ x, (2, 2), 1)
        >>> (rows @ cols.t()).round(decimals=3).abs()
        tensor([[4., 0.],
                [0., 0.]])
    """
    check_positive('width', width)
    if width > min(shape):
        raise ValueError(
            f"'width' must be at most {min(shape)}, the smaller side of the score "
            f'matrix (got {width})'
        )
    rank = min(width + _OVERSAMPLING, *shape)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(shape[1], rank, generator=generator).to(device)
    basis = _orthonormal(product(start))
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(product(_orthonormal(transposed(basis))))
    right, sigma, left = torch.linalg.svd(transposed(basis), full_matrices=False)
    root = sigma[:width].sqrt()
    return (basis @ left.mT)[:, :width] * root, right[:, :width] * root


def _orthonormal(x: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(x).Q
    return q


class LowRank:
    r"""The operator :math:`\mathbf{L} \mathbf{R}^{\top}`; its entries are never
    computed.

    Args:
        left: :math:`\mathbf{L}`, ``[num_dst, r]``.
        right: :math:`\mathbf{R}`, ``[num_src, r]``.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left = left
        self.right = right

    def t(self) -> 'LowRank':
        """The transpose; shares all memory with this operator."""
        return LowRank(self.right, self.left)

    def __matmul__(self, x: Tensor) -> Tensor:
        return self.left.to(x.dtype) @ (self.right.to(x.dtype).t() @ x)


def truncated_svd(adj: CSRPair, rank: int) -> LowRank:
    """The truncated SVD of an operator.

    Args:
        adj: The operator ``[num_dst, num_src]``.
        rank: The number of singular values; all if there are fewer.
    """
    transposed = adj.t()
    left, right = low_rank(
        lambda x: adj @ x,
        lambda x: transposed @ x,
        adj.shape,
        min(rank, *adj.shape),
        device=adj.matrices(torch.float)[0].device,
    )
    return LowRank(left, right)
