"""Operators that models build from the edges of a graph."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch_geometric.typing import EdgeType, NodeType
from torch_geometric.utils import coalesce

from promptmm_pyg._utils import (
    check_non_negative,
    check_positive,
    check_probability,
)
from promptmm_pyg.nn._features import as_tensor
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures
from promptmm_pyg.nn.csr import (
    Adjacency,
    CSRPair,
    csr_matrix,
    csr_pair_dict,
    csr_pointers,
    from_pointers,
)
from promptmm_pyg.nn.knn import cached_knn_graph, knn_graph

EdgeDict = dict[EdgeType, Adjacency] | Adjacency
WeightDict = dict[EdgeType, Tensor] | Tensor | None


class Operator(Protocol):
    """A constant linear map, applied as ``operator @ x``."""

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
    """The reverse of ``edge_type``: the edge type with PyG's prefix ``rev_``, or else
    the only one in that direction.
    """
    src, rel, dst = edge_type
    candidates = [key for key in edge_types if (key[0], key[2]) == (dst, src)]
    if (dst, f'rev_{rel}', src) in candidates:
        return dst, f'rev_{rel}', src
    return candidates[0] if len(candidates) == 1 else None


def weights_by_type(edge_weight_dict: WeightDict) -> dict[EdgeType, Tensor] | None:
    """Raises a ``TypeError`` unless weights are a dictionary or ``None``."""
    if isinstance(edge_weight_dict, Tensor):
        raise TypeError(
            "'edge_weight_dict' must be a dictionary {edge_type: Tensor} (got a "
            'tensor). Pass a tensor with the edges of one type: '
            "'model(edge_index, weight)'"
        )
    return edge_weight_dict


def bipartite(
    edge_index_dict: EdgeDict,
    edge_weight_dict: WeightDict = None,
    *,
    edge_type: EdgeType,
    num_nodes_dict: dict[NodeType, int],
) -> Bipartite[CSRPair]:
    """Converts both directions of ``edge_type``; without a reverse edge type
    (:func:`reverse_type`) it is the transpose. Other edge types are ignored.

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
            f"'edge_index_dict' must have the edge type {edge_type} (got "
            f'{list(edge_index_dict)})'
        )
    reverse = reverse_type(edge_index_dict, edge_type)
    edge_types = [edge_type] if reverse is None else [edge_type, reverse]
    adj_dict = csr_pair_dict(
        {key: edge_index_dict[key] for key in edge_types},
        weights_by_type(edge_weight_dict),
        num_nodes_dict=num_nodes_dict,
    )
    to_item = adj_dict[edge_type]
    to_user = to_item.t() if reverse is None else adj_dict[reverse]
    return Bipartite(to_item, to_user)


T = TypeVar('T')


class GraphCache(Generic[T]):
    """Caches what is built from an operator, for the last operator only.

    Operators are compared by identity: convert edges once
    (:func:`~promptmm_pyg.nn.csr_pair_dict`), or every call builds anew. The cache is
    not part of a model's state, and empty in its copies.

    Args:
        build: Called with every new operator.
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


_SAMPLED = (torch.float, torch.double)  # Of `sampled_addmm` on the CPU.


class EdgePattern:
    r"""Edges whose weights change at every step, with gradients to the weights;
    :class:`~promptmm_pyg.nn.CSRPair` is for constant weights.

    Forward and backward are sparse products; no message per edge is stored. First
    derivatives only.

    Args:
        edge_index: Source and destination of each edge, ``[2, E]``; the attributes
            ``source`` and ``target`` are sorted by destination, and so are weights.
        size: ``(num_src, num_dst)``.
    """

    def __init__(self, edge_index: Tensor, size: tuple[int, int]) -> None:
        order = (edge_index[1] * size[0] + edge_index[0]).argsort()
        self.source, self.target = edge_index[:, order]
        self.size = size
        self._by_source = (self.source * size[1] + self.target).argsort()
        source, target = self.source[self._by_source], self.target[self._by_source]
        self._forward = csr_pointers(self.target, self.source, size[::-1])
        self._transpose = csr_pointers(source, target, size)

    @classmethod
    def of(cls, adj: CSRPair) -> 'EdgePattern':
        """The edges of an operator, without their weights."""
        target, source = adj.edges()
        return cls(torch.stack([source, target]), adj.shape[::-1])

    def pair(self, weight: Tensor) -> CSRPair:
        """The operator with the given weights, which get no gradient through it."""
        weight = weight.detach()
        return CSRPair(
            from_pointers(*self._forward, weight, self.size[::-1]),
            from_pointers(*self._transpose, weight[self._by_source], self.size),
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
            zeros = source_x.new_zeros(self.source.numel())
            sampled = torch.sparse.sampled_addmm(
                from_pointers(*self._forward, zeros, self.size[::-1]),
                target_x.contiguous(),
                source_x.t(),
                beta=0.0,
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


class EdgeSampler:
    r"""Draws a fixed ratio of the edges of an operator without replacement, an edge
    between nodes of degree :math:`d_u` and :math:`d_i` in proportion to
    :math:`1 / \sqrt{d_u d_i}`, and normalizes the subgraph symmetrically.

    The scheme is that of Efraimidis and Spirakis: the edges with the smallest
    :math:`E_e / p_e`, :math:`E_e` exponential. Both matrices are sorted once, not per
    draw. Draws use torch's global generator, as dropout does. The weights of the
    operator are not used.

    Args:
        adj: The operator, one entry per edge.
    """

    def __init__(self, adj: CSRPair) -> None:
        self.size = adj.shape
        self._row, self._col = adj.edges()
        self._transposed = (self._col * self.size[0] + self._row).argsort()
        row_degree, col_degree = self._degrees(self._row, self._col)
        # In double precision: edges with equal keys would all be sampled.
        product = row_degree.double()[self._row] * col_degree.double()[self._col]
        self._root = product.sqrt()

    def sample(self, keep_ratio: float, *, uniform: bool = False) -> CSRPair:
        """The operator of one subgraph.

        Args:
            keep_ratio: The ratio of sampled edges, in (0, 1]; at least one edge.
            uniform: Whether all edges are equally likely. (default: ``False``)
        """
        num_edges = self._row.numel()
        num_sampled = max(1, round(keep_ratio * num_edges))
        sampled = torch.ones_like(self._row, dtype=torch.bool)
        if num_sampled < num_edges:
            key = torch.empty_like(self._root).exponential_()
            key = key if uniform else key * self._root
            sampled = key <= key.kthvalue(num_sampled).values
        row, col = self._row[sampled], self._col[sampled]
        row_degree, col_degree = self._degrees(row, col)
        scale = row_degree.float()[self._row] * col_degree.float()[self._col]
        weight = scale.rsqrt()
        order = self._transposed[sampled[self._transposed]]
        return CSRPair(
            csr_matrix(row, col, weight[sampled], self.size),
            csr_matrix(
                self._col[order], self._row[order], weight[order], self.size[::-1]
            ),
            reused=False,
        )

    def _degrees(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.bincount(row, minlength=self.size[0]),
            torch.bincount(col, minlength=self.size[1]),
        )


class EpochPruning(torch.nn.Module):
    """Removes a ratio of the edges from users to items in training, as
    :class:`EdgeSampler` does: a new subgraph when an epoch starts (``train()`` is
    called) and after :meth:`resample`. Eval mode uses all edges.

    Convert edges once (:func:`~promptmm_pyg.nn.csr_pair_dict`): others are a new graph,
    with a new subgraph, at every call. Copies draw their own subgraph.

    Args:
        prune_ratio: The ratio of removed edges, in [0, 1).
        alternate: Whether in every second epoch edges are drawn uniformly, not by the
            degrees of their nodes. (default: ``False``)

    Raises:
        ValueError: If ``prune_ratio`` is not in [0, 1).
    """

    def __init__(self, prune_ratio: float, *, alternate: bool = False) -> None:
        super().__init__()
        check_probability('prune_ratio', prune_ratio)
        self.prune_ratio = prune_ratio
        self.alternate = alternate
        self.epoch = 0
        """The number of subgraphs drawn so far."""
        self._sampler = GraphCache(EdgeSampler)
        self._last: tuple[CSRPair, CSRPair] | None = None  # Graph, subgraph.

    def resample(self) -> None:
        """Makes the next training step sample a new subgraph."""
        self._last = None

    def train(self, mode: bool = True) -> Self:
        """Like :meth:`torch.nn.Module.train`; also calls :meth:`resample`."""
        self.resample()
        return super().train(mode)

    def forward(self, adj: Bipartite[CSRPair]) -> Bipartite[CSRPair]:
        if not self.training or self.prune_ratio == 0:
            return adj
        graph = adj.to_item
        if self._last is None or self._last[0] is not graph:
            uniform = self.alternate and self.epoch % 2 == 1
            keep_ratio = 1 - self.prune_ratio
            subgraph = self._sampler(graph).sample(keep_ratio, uniform=uniform)
            self.epoch += 1
            self._last = graph, subgraph
        subgraph = self._last[1]
        return Bipartite(subgraph, subgraph.t())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_last': None}


Edges = tuple[Tensor, Tensor]  # edge_index [2, E], edge_weight [E]


class FrozenGraph(torch.nn.Module):
    """Sums neighbors along constant edges, layer by layer.

    The operator is built once, as buffers that move with the model and are not saved:
    they are computed from the features, which are not saved either.

    Args:
        edges: ``edge_index`` ``[2, E]`` and ``edge_weight`` ``[E]``.
        num_nodes: The number of nodes.
        num_layers: The number of layers. (default: ``1``)
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
        """The operator as views of the buffers."""
        size = (self.num_nodes, self.num_nodes)
        matrices = []
        for name in 'ab':
            ptr, col, weight = (
                self.get_buffer(f'{name}_{key}') for key in ('ptr', 'col', 'weight')
            )
            matrices.append(from_pointers(ptr, col, weight, size))
        return CSRPair(*matrices, reused=False)

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
    """The nearest neighbors by features, with weights in single precision; cached in
    ``folder`` if it is given.
    """
    check_positive('num_neighbors', num_neighbors)
    x = as_tensor(x)
    if folder is None:
        edge_index, edge_weight = knn_graph(x, num_neighbors, mask=mask)
    else:
        edge_index, edge_weight = cached_knn_graph(folder, x, num_neighbors, mask=mask)
    return edge_index, edge_weight.float()


def max_edges(graphs: list[Edges], num_nodes: int) -> Edges:
    """The elementwise maximum of the weight matrices, in which missing edges are 0."""
    out: Edges = coalesce(*concat_edges(graphs), num_nodes=num_nodes, reduce='max')
    return out


def concat_edges(graphs: list[Edges]) -> Edges:
    """The edges of all graphs; weights of an edge in several graphs add up."""
    edge_index, weight = zip(*graphs, strict=True)
    return torch.cat(edge_index, dim=1), torch.cat(weight)


def modality_shares(
    modalities: list[str], weights: Mapping[str, float] | None = None
) -> list[float]:
    """The weights of the item graphs of modalities, in their order, scaled to sum to
    one.

    Args:
        modalities: Their names.
        weights: Weights by name. (default: as published, .9 for ``'text'`` and .1 for
            the others together; equal weights if there is no text)
    """
    if weights is None:
        rest = 0.1 / max(len(modalities) - 1, 1)
        has_text = 'text' in modalities
        weights = {m: rest if has_text and m != 'text' else 0.9 for m in modalities}
    if set(weights) != set(modalities):
        raise ValueError(
            f"'modality_weights' must have the modalities {sorted(modalities)} (got "
            f'{sorted(weights)})'
        )
    for modality, weight in weights.items():
        check_non_negative(f"modality_weights['{modality}']", weight)
    total = sum(weights.values())
    check_positive('sum(modality_weights)', total)
    return [weights[modality] / total for modality in modalities]


def mean_operator(adj: CSRPair, *, self_loops: bool = False) -> CSRPair:
    """The operator on users, then items, that averages the neighbors of a node, with
    ``self_loops`` the node itself, too; weights are not used.

    Args:
        adj: The operator from users to items, one entry per edge.
        self_loops: Whether nodes are their own neighbors. (default: ``False``)
    """
    num_items, num_users = adj.shape
    num_nodes = num_users + num_items
    item, user = adj.edges()
    source, target = (
        torch.cat([user, item + num_users]),
        torch.cat([item + num_users, user]),
    )
    if self_loops:
        nodes = torch.arange(num_nodes, device=source.device)
        source, target = torch.cat([source, nodes]), torch.cat([target, nodes])
    degree = torch.bincount(target, minlength=num_nodes)
    weight = degree[target].to(torch.get_default_dtype()).reciprocal()
    index = torch.stack([source, target])
    return CSRPair.from_edge_index(index, weight, size=(num_nodes, num_nodes))
