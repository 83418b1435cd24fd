"""Operators that models build from the edges of a graph."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch_geometric.typing import EdgeType, NodeType
from torch_geometric.utils import coalesce

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn._feature_checks import as_tensor
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures
from promptmm_pyg.nn.csr import Adjacency, CSRPair, csr_pair_dict
from promptmm_pyg.nn.knn import cached_knn_graph, knn_graph

EdgeDict = dict[EdgeType, Adjacency] | Adjacency
WeightDict = dict[EdgeType, Tensor] | Tensor | None


class Operator(Protocol):
    """A constant linear map that is applied from the left."""

    def __matmul__(self, x: Tensor, /) -> Tensor: ...


O_co = TypeVar('O_co', bound=Operator, covariant=True)


class Bipartite(NamedTuple, Generic[O_co]):
    """The operators between users and items."""

    to_item: O_co
    to_user: O_co

    def smooth(
        self, user: Tensor, item: Tensor, num_layers: int
    ) -> tuple[Tensor, Tensor]:
        """The mean over layers ``0`` to ``num_layers``, as in LightGCN."""
        user_sum, item_sum = user, item
        for _ in range(num_layers):
            user, item = self.to_user @ item, self.to_item @ user
            user_sum, item_sum = user_sum + user, item_sum + item
        return user_sum / (num_layers + 1), item_sum / (num_layers + 1)


def reverse_type(
    edge_types: Iterable[EdgeType], edge_type: EdgeType
) -> EdgeType | None:
    """The edge type that mirrors ``edge_type``: the one with PyG's prefix ``rev_``, or
    else the only one that leads back.
    """
    src, rel, dst = edge_type
    back = [key for key in edge_types if (key[0], key[2]) == (dst, src)]
    if (dst, f'rev_{rel}', src) in back:
        return dst, f'rev_{rel}', src
    return back[0] if len(back) == 1 else None


def weights_by_type(edge_weight_dict: WeightDict) -> dict[EdgeType, Tensor] | None:
    """Weights as a dictionary.

    Raises:
        TypeError: If they are a tensor, where edges are a dictionary.
    """
    if isinstance(edge_weight_dict, Tensor):
        raise TypeError(
            "'edge_weight_dict' must be a dictionary {edge_type: Tensor} (got a "
            'tensor). '
            "A tensor goes with the edges of one type alone, 'model(edge_index, "
            "weight)'"
        )
    return edge_weight_dict


def bipartite(
    edge_index_dict: EdgeDict,
    edge_weight_dict: WeightDict = None,
    *,
    edge_type: EdgeType,
    num_nodes_dict: dict[NodeType, int],
) -> Bipartite[CSRPair]:
    """Converts both directions of ``edge_type``; a reverse that is not found
    (:func:`reverse_type`) is the transpose. Other edge types are ignored.

    Args:
        edge_index_dict: Edges per type, or those of ``edge_type`` alone, in any form of
            :func:`~promptmm_pyg.nn.as_csr_pair`.
        edge_weight_dict: Their weights. (default: ``None``)
        edge_type: ``(user, relation, item)``.
        num_nodes_dict: The number of nodes per node type.

    Raises:
        ValueError: If there are no edges of ``edge_type``.
    """
    if not isinstance(edge_index_dict, Mapping):
        edge_index_dict = {edge_type: edge_index_dict}
        if isinstance(edge_weight_dict, Tensor):
            edge_weight_dict = {edge_type: edge_weight_dict}
    if edge_type not in edge_index_dict:
        raise ValueError(
            f"'edge_index_dict' requires the edge type {edge_type} (got "
            f'{list(edge_index_dict)})'
        )
    mirrored = reverse_type(edge_index_dict, edge_type)
    names = [edge_type, *([] if mirrored is None else [mirrored])]
    adj_dict = csr_pair_dict(
        {name: edge_index_dict[name] for name in names},
        weights_by_type(edge_weight_dict),
        num_nodes_dict=num_nodes_dict,
    )
    to_item = adj_dict[edge_type]
    to_user = to_item.t() if mirrored is None else adj_dict[mirrored]
    return Bipartite(to_item, to_user)


T = TypeVar('T')


class GraphCache(Generic[T]):
    """Remembers what was built from the operator seen last.

    Operators are told apart by identity: convert edges once
    (:func:`~promptmm_pyg.nn.csr_pair_dict`), or it is built at every call. A plain
    attribute of a model, no part of its state; copies of the model start without.

    Args:
        build: Called with an operator that is new.
    """

    def __init__(self, build: Callable[[CSRPair], T]) -> None:
        self._build = build
        self._last: tuple[CSRPair, T] | None = None

    def __call__(self, adj: CSRPair) -> T:
        if self._last is None or self._last[0] is not adj:
            self._last = (adj, self._build(adj))
        return self._last[1]

    def __deepcopy__(self, _: Any) -> 'GraphCache[T]':
        return GraphCache(self._build)

    def __getstate__(self) -> dict[str, Any]:
        return {'_build': self._build, '_last': None}


_SAMPLED = (torch.float, torch.double)  # What `sampled_addmm` takes on a CPU.


class EdgePattern:
    r"""Where edges are, while their weights come and go: what
    :class:`~promptmm_pyg.nn.CSRPair` does for constant weights.

    Both products are sparse ones forward and backward; no message per edge is kept.
    First derivatives only.

    Args:
        edge_index: Source and destination of each edge, ``[2, E]``; the attributes
            ``source`` and ``target`` are sorted by destination, and so are weights.
        size: ``(num_src, num_dst)``.
    """

    def __init__(self, edge_index: Tensor, size: tuple[int, int]) -> None:
        order = (edge_index[1] * size[0] + edge_index[0]).argsort()
        self.source, self.target = edge_index[:, order]
        self.size = size
        self._turned = (self.source * size[1] + self.target).argsort()
        self._forward = _row_pointers(self.target, self.source, size[1])
        self._transpose = _row_pointers(
            self.source[self._turned], self.target[self._turned], size[0]
        )

    @classmethod
    def of(cls, adj: CSRPair) -> 'EdgePattern':
        """The edges of an operator, whatever their weights."""
        matrix = adj.matrices(torch.float)[0]
        rows = torch.arange(adj.shape[0], device=matrix.device)
        target = rows.repeat_interleave(matrix.crow_indices().diff().long())
        edge_index = torch.stack([matrix.col_indices().long(), target])
        return cls(edge_index, (adj.shape[1], adj.shape[0]))

    def pair(self, weight: Tensor) -> CSRPair:
        """The operator with given weights, which get no gradient through it."""
        num_src, num_dst = self.size
        weight = weight.detach()
        return CSRPair(
            _from_rows(self._forward, weight, (num_dst, num_src)),
            _from_rows(self._transpose, weight[self._turned], (num_src, num_dst)),
            reused=False,
        )

    def sum(self, weight: Tensor, source_x: Tensor) -> Tensor:
        """The weighted sum of source rows per destination, ``[num_dst, D]``."""
        out: Tensor = _Sum.apply(weight, source_x, self)  # type: ignore[no-untyped-call]
        return out

    def dot(self, source_x: Tensor, target_x: Tensor) -> Tensor:
        """The inner product of both ends of each edge, ``[E]``."""
        out: Tensor = _Dot.apply(source_x, target_x, self)  # type: ignore[no-untyped-call]
        return out

    def products(self, source_x: Tensor, target_x: Tensor) -> Tensor:
        """Like :meth:`dot`, as a constant."""
        if source_x.dtype in _SAMPLED and source_x.device.type == 'cpu':
            # One pass, an order of magnitude faster than both gathers.
            places = source_x.new_zeros(self.source.numel())
            pattern = _from_rows(self._forward, places, (self.size[1], self.size[0]))
            sampled = torch.sparse.sampled_addmm(
                pattern, target_x.contiguous(), source_x.t(), beta=0.0
            )
            values: Tensor = sampled.values()
            return values
        out: Tensor = torch.linalg.vecdot(source_x[self.source], target_x[self.target])
        return out


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, pattern: EdgePattern) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.pattern = pattern
        return pattern.pair(weight) @ x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, x = ctx.saved_tensors
        pattern: EdgePattern = ctx.pattern
        grad = grads[0].contiguous()
        return pattern.products(x, grad), pattern.pair(weight).t() @ grad, None


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, source_x: Tensor, target_x: Tensor, pattern: EdgePattern
    ) -> Tensor:
        ctx.save_for_backward(source_x, target_x)
        ctx.pattern = pattern
        return pattern.products(source_x, target_x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        source_x, target_x = ctx.saved_tensors
        pair = ctx.pattern.pair(grads[0])
        return pair.t() @ target_x, pair @ source_x, None


def _row_pointers(row: Tensor, col: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    ptr = row.new_zeros(num_rows + 1)
    torch.cumsum(torch.bincount(row, minlength=num_rows), dim=0, out=ptr[1:])
    return ptr.int(), col.int()


def _from_rows(
    rows: tuple[Tensor, Tensor], weight: Tensor, size: tuple[int, int]
) -> Tensor:
    return torch.sparse_csr_tensor(*rows, weight, size, check_invariants=False)


class EdgeSampler:
    r"""Draws a fixed share of the edges of an operator without replacement, an edge
    between nodes of degree :math:`d_u` and :math:`d_i` in proportion to
    :math:`1 / \sqrt{d_u d_i}`, and normalizes what is left symmetrically.

    Draws are those of the Efraimidis-Spirakis scheme: the edges with the smallest
    :math:`E_e / p_e`, :math:`E_e` exponential. The order of both matrices is known
    once, so a draw sorts nothing. Randomness is the global generator's, like that of
    dropout. The weights of the operator itself do not matter.

    Args:
        adj: The operator, one entry an edge.
    """

    def __init__(self, adj: CSRPair) -> None:
        matrix = adj.matrices(torch.float)[0]
        self.size = adj.shape
        col = matrix.col_indices().long()
        counts = matrix.crow_indices().diff().long()
        ids = torch.arange(self.size[0], device=col.device)
        self._row, self._col = ids.repeat_interleave(counts), col
        self._transposed = (col * self.size[0] + self._row).argsort()
        row_degree, col_degree = self._degrees(self._row, self._col)
        # In double: two keys that tie would both stay.
        product = row_degree.double()[self._row] * col_degree.double()[self._col]
        self._root = product.sqrt()

    def sample(self, keep_ratio: float) -> CSRPair:
        """The operator of one subgraph.

        Args:
            keep_ratio: The share of edges that stay, in (0, 1]; at least one does.
        """
        num_edges = self._row.numel()
        num_kept = max(1, round(keep_ratio * num_edges))
        keep = torch.ones_like(self._row, dtype=torch.bool)
        if num_kept < num_edges:
            key = torch.empty_like(self._root).exponential_() * self._root
            keep = key <= key.kthvalue(num_kept).values
        row_degree, col_degree = self._degrees(self._row[keep], self._col[keep])
        scale = row_degree.float()[self._row] * col_degree.float()[self._col]
        weight = scale.rsqrt()
        other = self._transposed
        return CSRPair(
            _csr(self._row, self._col, weight, keep, self.size),
            _csr(
                self._col[other],
                self._row[other],
                weight[other],
                keep[other],
                self.size[::-1],
            ),
            reused=False,
        )

    def _degrees(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.bincount(row, minlength=self.size[0]),
            torch.bincount(col, minlength=self.size[1]),
        )


def _csr(
    row: Tensor, col: Tensor, weight: Tensor, keep: Tensor, size: tuple[int, int]
) -> Tensor:
    ptr = row.new_zeros(size[0] + 1)
    torch.cumsum(torch.bincount(row[keep], minlength=size[0]), dim=0, out=ptr[1:])
    small = max(*size, row.numel()) < 2**31
    dtype = torch.int32 if small else torch.int64
    return torch.sparse_csr_tensor(
        ptr.to(dtype),
        col[keep].to(dtype),
        weight[keep],
        size,
        check_invariants=False,
    )


Edges = tuple[Tensor, Tensor]  # edge_index [2, E], edge_weight [E]


class FrozenGraph(torch.nn.Module):
    """Sums neighbors along edges that never change, layer by layer.

    The operator is built once, as buffers that follow the model to its device and are
    not saved: it is computed from features, which are not saved either.

    Args:
        edges: ``edge_index`` ``[2, E]`` and ``edge_weight`` ``[E]``.
        num_nodes: The number of nodes.
        num_layers: How often neighbors are summed. (default: ``1``)
    """

    def __init__(self, edges: Edges, num_nodes: int, num_layers: int = 1) -> None:
        super().__init__()
        check_positive('num_layers', num_layers)
        self.num_layers = num_layers
        self.num_nodes = num_nodes
        pair = CSRPair.from_edge_index(*edges, size=(num_nodes, num_nodes))
        matrices = pair.matrices(edges[1].dtype)
        for name, matrix in zip('ab', matrices, strict=True):
            self.register_buffer(f'{name}_ptr', matrix.crow_indices(), persistent=False)
            self.register_buffer(f'{name}_col', matrix.col_indices(), persistent=False)
            self.register_buffer(f'{name}_weight', matrix.values(), persistent=False)

    def operator(self) -> CSRPair:
        """The operator as views of the buffers; nothing is copied."""
        size = (self.num_nodes, self.num_nodes)
        matrices = [
            torch.sparse_csr_tensor(
                self.get_buffer(f'{name}_ptr'),
                self.get_buffer(f'{name}_col'),
                self.get_buffer(f'{name}_weight'),
                size,
                check_invariants=False,
            )
            for name in 'ab'
        ]
        return CSRPair(matrices[0], matrices[1], reused=False)

    def forward(self, x: Tensor) -> Tensor:
        adj = self.operator()
        for _ in range(self.num_layers):
            x = adj @ x
        return x

    def __repr__(self) -> str:
        num_edges = self.get_buffer('a_col').numel()
        return (
            f'{self.__class__.__name__}({self.num_nodes}, edges={num_edges}, '
            f'num_layers={self.num_layers})'
        )


def item_edges(
    x: Tensor | ChunkedFeatures,
    num_neighbors: int,
    mask: Tensor | None = None,
    folder: str | Path | None = None,
) -> Edges:
    """The nearest neighbors by features, with weights of single precision; with a
    folder, from there if they were computed before.
    """
    check_positive('num_neighbors', num_neighbors)
    x = as_tensor(x)
    if folder is None:
        edge_index, edge_weight = knn_graph(x, num_neighbors, mask=mask)
    else:
        edge_index, edge_weight = cached_knn_graph(folder, x, num_neighbors, mask=mask)
    return edge_index, edge_weight.float()


def mean_edges(graphs: list[Edges], num_nodes: int) -> Edges:
    """The mean of the weight matrices."""
    index, weight = _joined(graphs)
    return _coalesced(index, weight / len(graphs), num_nodes, 'sum')


def max_edges(graphs: list[Edges], num_nodes: int) -> Edges:
    """The elementwise maximum of the weight matrices, zero where no edge is."""
    index, weight = _joined(graphs)
    return _coalesced(index, weight, num_nodes, 'max')


def _joined(graphs: list[Edges]) -> Edges:
    index = torch.cat([edge_index for edge_index, _ in graphs], dim=1)
    return index, torch.cat([weight for _, weight in graphs])


def _coalesced(index: Tensor, weight: Tensor, num_nodes: int, how: str) -> Edges:
    out: Edges = coalesce(index, weight, num_nodes=num_nodes, reduce=how)
    return out
