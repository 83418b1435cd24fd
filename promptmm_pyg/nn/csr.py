"""The sparse operator of message passing: a constant CSR matrix with its transpose.

``torch.sparse`` sorts the transpose anew in each backward pass, and a scatter writes
one message per edge to memory. A matrix that is used many times can avoid both.
"""

import warnings
from typing import Any, cast

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType

from promptmm_pyg._utils import checked_edges

Adjacency = Any  # edge_index, torch.sparse, SparseTensor or CSRPair

_INT32_MAX = 2**31 - 1


TILE_BYTES = 2**23  # Of `x`: about the last-level cache of a laptop.


class TiledCSR:
    """A ``torch.sparse_csr`` matrix that is multiplied in tiles of its columns, on the
    CPU and where ``x`` has more than ``TILE_BYTES``. Tiles are built on first use, at
    the cost of a few products, and cached: 8 bytes per edge in single precision, and 4
    per row and tile.

    Args:
        matrix: Of any size and precision.
        tile: Whether to use tiles.
    """

    def __init__(self, matrix: Tensor, tile: bool) -> None:
        self.matrix = matrix
        self.tile = tile
        self._tiles: dict[int, list[Tensor]] = {1: [matrix]}

    def matmul(self, x: Tensor, added_to: Tensor | None = None) -> Tensor:
        """The product with ``x``, ``[num_columns, F]``; added in place to ``added_to``,
        contiguous ``[num_rows, F]``, if that is given.
        """
        num_tiles = self._num_tiles(x)
        if not _writes_into(x) or (num_tiles == 1 and added_to is None):
            product = csr_matmul(self.matrix, x)
            return product if added_to is None else added_to.add_(product)
        x, out, add = x.contiguous(), added_to, added_to is not None
        if out is None:
            out = x.new_empty(self.matrix.size(0), x.size(1))
        first = 0
        for tile in self._in_tiles(num_tiles):
            last = first + tile.size(1)
            _write_product(out, tile, x[first:last], add=add or first > 0)
            first = last
        return out

    def _num_tiles(self, x: Tensor) -> int:
        """A power of two, so that different widths share tiles."""
        if not self.tile:
            return 1
        needed = -(-x.numel() * x.element_size() // TILE_BYTES)
        # Every further tile reads and writes the result again, which pays off with at
        # least two edges per row and tile.
        limit = self.matrix.values().numel() // (2 * max(1, self.matrix.size(0)))
        limit = min(limit, self.matrix.size(1))
        num_tiles = 1
        while num_tiles < needed and 2 * num_tiles <= limit:
            num_tiles *= 2
        return num_tiles

    def _in_tiles(self, num_tiles: int) -> list[Tensor]:
        if num_tiles not in self._tiles:
            self._tiles[num_tiles] = column_tiles(self.matrix, num_tiles)
        return self._tiles[num_tiles]


def column_tiles(matrix: Tensor, num_tiles: int) -> list[Tensor]:
    """Cuts a CSR matrix into blocks of columns."""
    num_rows, num_columns = matrix.shape
    row, col = csr_indices(matrix)
    width = -(-num_columns // num_tiles)
    tiles = []
    for first in range(0, num_columns, width):
        last = min(first + width, num_columns)
        index = ((col >= first) & (col < last)).nonzero().flatten()
        size = num_rows, last - first
        weight = matrix.values()[index]
        tiles.append(csr_matrix(row[index], col[index] - first, weight, size))
    return tiles


def csr_matrix(
    row: Tensor, col: Tensor, weight: Tensor, size: tuple[int, int]
) -> Tensor:
    """A ``torch.sparse_csr`` matrix of entries that are sorted by row."""
    return from_pointers(*csr_pointers(row, col, size), weight, size)


def csr_pointers(
    row: Tensor, col: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The row pointers and columns of a CSR matrix, 32-bit where they fit."""
    rowptr = row.new_zeros(size[0] + 1)
    torch.cumsum(torch.bincount(row, minlength=size[0]), dim=0, out=rowptr[1:])
    small = max(*size, row.numel()) <= _INT32_MAX
    dtype = torch.int32 if small else torch.int64
    return rowptr.to(dtype), col.to(dtype)


def from_pointers(
    rowptr: Tensor, col: Tensor, weight: Tensor, size: tuple[int, int]
) -> Tensor:
    """A ``torch.sparse_csr`` matrix that shares all memory with its parts."""
    with warnings.catch_warnings():
        # torch calls its CSR layout a prototype; what is used of it here is tested.
        warnings.filterwarnings('ignore', 'Sparse CSR tensor support', UserWarning)
        return torch.sparse_csr_tensor(
            rowptr, col, weight, size, check_invariants=False
        )


def csr_indices(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of every entry of a CSR matrix, 64-bit."""
    rows = torch.arange(matrix.size(0), device=matrix.device)
    counts = matrix.crow_indices().diff().long()
    return rows.repeat_interleave(counts), matrix.col_indices().long()


def csr_matmul(matrix: Tensor, x: Tensor) -> Tensor:
    """The product of a ``torch.sparse_csr`` matrix with a dense one, without tiles."""
    if x.device.type != 'cpu':
        return matrix @ x
    x = x.contiguous()
    if _writes_into(x):
        out = x.new_empty(matrix.size(0), x.size(1))
        _write_product(out, matrix, x, add=False)
        return out
    if matrix.values().numel() == 0:
        return x.new_zeros(matrix.size(0), x.size(1))
    return cast(Tensor, torch.sparse.mm(matrix, x, 'sum'))


def _writes_into(x: Tensor) -> bool:
    """Whether a product with ``x`` can be written into a given matrix."""
    mkl = x.device.type == 'cpu' and torch.backends.mkl.is_available()
    return mkl and x.dtype in (torch.float, torch.double)


def _write_product(out: Tensor, matrix: Tensor, x: Tensor, *, add: bool) -> None:
    """Three times as fast as ``matrix @ x``, which copies its result."""
    if matrix.values().numel():
        torch.addmm(out, matrix, x, beta=float(add), out=out)
    elif not add:
        out.zero_()


class CSRPair:
    r"""A constant sparse matrix :math:`\mathbf{A}` of shape ``(num_dst, num_src)``
    that is stored with its transpose, so that ``A @ x`` and its gradient
    :math:`\mathbf{A}^{\top} \mathbf{g}` both read rows in order.

    Gradients flow to ``x``, not to the weights of the edges. Indices are 32-bit where
    they fit. On the CPU, features larger than the cache are read in tiles, from further
    copies of the edges. Build one with :meth:`from_edge_index` or :func:`as_csr_pair`.

    Args:
        forward: :math:`\mathbf{A}` as ``torch.sparse_csr`` tensor.
        transpose: :math:`\mathbf{A}^{\top}` as ``torch.sparse_csr`` tensor.
        reused: Whether there are enough products for such copies to pay off;
            ``False`` for an operator that is built at every step. (default: ``True``)

    Shapes:
        - **matmul:** dense :math:`(N_{src}, F)` to dense :math:`(N_{dst}, F)`

    Example:
        >>> import torch
        >>> adj = CSRPair.from_edge_index(torch.tensor([[0, 2], [1, 1]]), size=(3, 2))
        >>> adj @ torch.tensor([[1.0], [2.0], [3.0]])
        tensor([[0.],
                [4.]])
    """

    def __init__(
        self, forward: Tensor, transpose: Tensor, *, reused: bool = True
    ) -> None:
        if forward.layout != torch.sparse_csr or transpose.layout != torch.sparse_csr:
            raise TypeError(
                f"'forward' and 'transpose' must be 'torch.sparse_csr' tensors "
                f'(got {forward.layout} and {transpose.layout}). Use '
                f"'as_csr_pair' to convert other layouts"
            )
        self._reused = reused
        self._dtype = forward.dtype
        self._by_dtype = {forward.dtype: self._pair(forward, transpose)}

    def _pair(self, forward: Tensor, transpose: Tensor) -> tuple[TiledCSR, TiledCSR]:
        return TiledCSR(forward, self._reused), TiledCSR(transpose, self._reused)

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        edge_weight: Tensor | None = None,
        *,
        size: tuple[int, int],
        reused: bool = True,
    ) -> 'CSRPair':
        """Builds the operator that sums source rows into destination rows.

        Args:
            edge_index: Source and destination of each edge, ``[2, E]``.
            edge_weight: Weight of each edge, ``[E]``; ``None`` means ones.
            size: ``(num_src, num_dst)``, in PyG's order.
            reused: Whether there are many products. (default: ``True``)

        Raises:
            ValueError: If an index is not an integer or outside ``size``, or the
                weights do not match the edges.
        """
        src, dst = checked_edges(edge_index, size)
        if edge_weight is None:
            edge_weight = torch.ones(src.numel(), device=src.device)
        if edge_weight.shape != src.shape:
            raise ValueError(
                f"'edge_weight' must have one value per edge (got "
                f'{list(edge_weight.shape)} for {src.numel()} edges)'
            )
        matrices = []
        for row, col, shape in ((dst, src, size[::-1]), (src, dst, size)):
            order = torch.argsort(row * shape[1] + col)
            weight = edge_weight.detach()[order]
            matrices.append(csr_matrix(row[order], col[order], weight, shape))
        return cls(*matrices, reused=reused)

    @property
    def shape(self) -> tuple[int, int]:
        """``(num_dst, num_src)``."""
        num_dst, num_src = self.matrices(self._dtype)[0].shape
        return int(num_dst), int(num_src)

    @property
    def num_edges(self) -> int:
        """The number of stored weights."""
        return int(self.matrices(self._dtype)[0].values().numel())

    def edges(self) -> tuple[Tensor, Tensor]:
        """Destination and source of each edge ``[E]``, by destination."""
        return csr_indices(self.matrices(self._dtype)[0])

    def row_degree(self) -> Tensor:
        """The number of edges into each destination, ``[num_dst]``."""
        return self.matrices(self._dtype)[0].crow_indices().diff()

    def t(self) -> 'CSRPair':
        """The transpose; shares all memory with this operator."""
        out = CSRPair.__new__(CSRPair)
        out._reused, out._dtype = self._reused, self._dtype
        out._by_dtype = {key: (b, a) for key, (a, b) in self._by_dtype.items()}
        return out

    def to(self, *args: Any, **kwargs: Any) -> 'CSRPair':
        """Like :meth:`torch.Tensor.to`, for both matrices."""
        forward, transpose = self.matrices(self._dtype)
        moved = [matrix.to(*args, **kwargs) for matrix in (forward, transpose)]
        return CSRPair(moved[0], moved[1], reused=self._reused)

    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The operator and its transpose with weights of ``dtype``."""
        forward, transpose = self._tiled(dtype)
        return forward.matrix, transpose.matrix

    def _tiled(self, dtype: torch.dtype) -> tuple[TiledCSR, TiledCSR]:
        if dtype not in self._by_dtype:
            forward, transpose = self.matrices(self._dtype)
            self._by_dtype[dtype] = self._pair(forward.to(dtype), transpose.to(dtype))
        return self._by_dtype[dtype]

    def __matmul__(self, x: Tensor) -> Tensor:
        self._check_source(x)
        out: Tensor = _matmul(x, *self._tiled(x.dtype))
        return out

    @torch.no_grad()
    def add_product_(self, out: Tensor, x: Tensor) -> Tensor:
        """Adds ``A @ x`` to ``out`` in place, without a gradient.

        Args:
            out: Contiguous, ``[num_dst, F]``.
            x: ``[num_src, F]``.

        Raises:
            ValueError: If ``x`` does not fit.
        """
        self._check_source(x)
        return self._tiled(x.dtype)[0].matmul(x, added_to=out)

    def _check_source(self, x: Tensor) -> None:
        if x.dim() != 2 or x.size(0) != self.shape[1]:
            raise ValueError(
                f"'x' must have shape [{self.shape[1]}, F], one row per source "
                f'node (got {list(x.shape)})'
            )

    def __repr__(self) -> str:
        num_dst, num_src = self.shape
        return (
            f'{self.__class__.__name__}({num_dst}, {num_src}, edges={self.num_edges})'
        )


class _CSRMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: TiledCSR, transpose: TiledCSR) -> Tensor:
        ctx.matrices = (forward, transpose)
        return forward.matmul(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        forward, transpose = ctx.matrices
        # Through `apply` again, so that second derivatives exist.
        return _matmul(grad[0], transpose, forward), None, None


_matmul: Any = _CSRMatmul.apply


def as_csr_pair(
    adjacency: Adjacency,
    edge_weight: Tensor | None = None,
    *,
    size: tuple[int, int],
) -> CSRPair:
    """Converts edges in any of PyG's forms to a :class:`CSRPair`.

    Args:
        adjacency: A :class:`CSRPair` (returned unchanged), an ``edge_index``
            ``[2, E]``, or a transposed sparse matrix ``adj_t`` of shape
            ``[num_dst, num_src]`` (``torch.sparse`` of any layout, or
            ``torch_sparse.SparseTensor``).
        edge_weight: Weights ``[E]`` of an ``edge_index``.
        size: ``(num_src, num_dst)``, in PyG's order.

    Raises:
        TypeError: If ``adjacency`` is none of these.
        ValueError: If its shape does not match ``size``.
    """
    if isinstance(adjacency, CSRPair):
        pair = adjacency
    elif _is_edge_index(adjacency):
        return CSRPair.from_edge_index(
            adjacency.as_subclass(Tensor), edge_weight, size=size
        )
    else:
        pair = _from_sparse(adjacency)
    if pair.shape != (size[1], size[0]):
        raise ValueError(
            f"'adjacency' must have shape [{size[1]}, {size[0]}], (destinations, "
            f'sources) (got {list(pair.shape)}). Pass the transposed matrix'
        )
    return pair


def _from_sparse(adjacency: Adjacency) -> CSRPair:
    if isinstance(adjacency, Tensor):
        coo = adjacency.to_sparse_coo().coalesce()
        dst, src = coo.indices()
        weight, shape = coo.values(), coo.shape
    elif hasattr(adjacency, 'coo') and hasattr(adjacency, 'sparse_sizes'):
        dst, src, weight = adjacency.coo()
        shape = adjacency.sparse_sizes()
    else:
        raise TypeError(
            f"'adjacency' must be an edge_index, a torch.sparse tensor, a "
            f'SparseTensor or a CSRPair (got {type(adjacency).__name__})'
        )
    index = torch.stack([src, dst])
    return CSRPair.from_edge_index(index, weight, size=(int(shape[1]), int(shape[0])))


def csr_pair_dict(
    edge_index_dict: dict[EdgeType, Adjacency],
    edge_weight_dict: dict[EdgeType, Tensor] | None = None,
    *,
    num_nodes_dict: dict[str, int],
) -> dict[EdgeType, CSRPair]:
    """Converts every edge type once; reverse edge types share memory.

    Args:
        edge_index_dict: Edges per type, in any form of :func:`as_csr_pair`.
        edge_weight_dict: Weights per edge type.
        num_nodes_dict: The number of nodes per node type.
    """
    weights = edge_weight_dict or {}
    pairs: dict[EdgeType, CSRPair] = {}
    for edge_type, adjacency in edge_index_dict.items():
        src, _, dst = edge_type
        size = (num_nodes_dict[src], num_nodes_dict[dst])
        weight = weights.get(edge_type)
        for other in pairs:
            if (other[0], other[2]) == (dst, src) and _mirrored(
                adjacency, weight, edge_index_dict[other], weights.get(other)
            ):
                pairs[edge_type] = pairs[other].t()
                break
        else:
            pairs[edge_type] = as_csr_pair(adjacency, weight, size=size)
    return pairs


def _mirrored(
    a: Adjacency, w_a: Tensor | None, b: Adjacency, w_b: Tensor | None
) -> bool:
    if not (_is_edge_index(a) and _is_edge_index(b)) or a.shape != b.shape:
        return False
    if w_a is None or w_b is None:
        return w_a is w_b and torch.equal(a, b.flip([0]))
    return torch.equal(w_a, w_b) and torch.equal(a, b.flip([0]))


def _is_edge_index(adjacency: Adjacency) -> bool:
    return isinstance(adjacency, Tensor) and adjacency.layout == torch.strided
