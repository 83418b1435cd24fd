"""Sampled neighborhoods of a batch, hop by hop."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_ids, check_positive, checked_edges


class Drawn(NamedTuple):
    """Sampled edges ``[n]``, sorted by node."""

    row: Tensor
    """The position of the target among the given nodes."""
    position: Tensor
    """The position of the edge in :class:`IncomingEdges`."""
    scale: Tensor
    """The degree of the target divided by its number of sampled edges."""


class IncomingEdges:
    """The edges of one type, sorted by their target.

    Args:
        edge_type: The edge type.
        edge_index: Source and target ``[2, E]``.
        edge_weight: Weights ``[E]``, or ``None``.
        num_nodes_dict: The number of nodes per node type.

    Raises:
        ValueError: If a node type is unknown, an id is out of range, or shapes do not
            fit.
    """

    def __init__(
        self,
        edge_type: EdgeType,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        num_nodes_dict: Mapping[NodeType, int],
    ) -> None:
        for node_type in (edge_type[0], edge_type[2]):
            if node_type not in num_nodes_dict:
                raise ValueError(
                    f"'num_nodes_dict' must have the node types of {edge_type} (got "
                    f'{sorted(num_nodes_dict)})'
                )
        self.edge_type = edge_type
        self.num_sources = num_nodes_dict[edge_type[0]]
        self.num_targets = num_nodes_dict[edge_type[2]]
        source, target = self._checked('edge_index_dict', edge_index)
        if edge_weight is not None and edge_weight.size() != source.size():
            raise ValueError(
                f"'edge_weight_dict' must have one weight per edge of {edge_type} (got "
                f'{list(edge_weight.size())} for {source.numel()} edges)'
            )
        self.e_id = target.argsort(stable=True)
        self.source = source[self.e_id]
        self.weight = None
        if edge_weight is not None:
            self.weight = edge_weight.detach()[self.e_id]
        self.degree = torch.bincount(target, minlength=self.num_targets)
        self.start = self.degree.cumsum(0) - self.degree

    def draw(self, nodes: Tensor, number: int, generator: torch.Generator) -> Drawn:
        """Draws at most ``number`` edges of each node without replacement; ``-1`` for
        all.
        """
        start, degree = self.start[nodes], self.degree[nodes]
        count = degree if number < 0 else degree.clamp_max(number)
        first = count.cumsum(0) - count
        row = torch.repeat_interleave(count)
        offset = torch.arange(row.numel(), device=row.device) - first[row]
        position = start[row] + offset
        partial = (degree > count).nonzero().view(-1)
        if number > 0 and partial.numel() > 0:
            drawn = distinct_below(degree[partial], number, generator)
            slot = first[partial] + torch.arange(number, device=row.device)[:, None]
            position[slot] = start[partial] + drawn
        return Drawn(row, position, degree[row] / count[row])

    def keys_of(self, name: str, pairs: Tensor) -> Tensor:
        """One number for each pair (source, target) ``[2, B]``."""
        source, target = self._checked(name, pairs)
        keys: Tensor = source * self.num_targets + target
        return keys

    def _checked(self, name: str, pairs: Tensor) -> Tensor:
        size = self.num_sources, self.num_targets
        return checked_edges(pairs, size, f'{name}[{self.edge_type}]')


def distinct_below(
    bound: Tensor, number: int, generator: torch.Generator | None = None
) -> Tensor:
    """Returns ``number`` different integers in ``[0, bound)`` for every bound, every
    set equally likely, by Floyd's algorithm.

    Each step adds one value to the range, draws from the range, and uses the new value
    if the draw is a repeat. The cost grows with ``number`` squared.

    Args:
        bound: Integers ``[R]``, at least ``number``.
        number: The number of draws.
        generator: Source of randomness. (default: the global one)

    Returns:
        Integers ``[number, R]``.
    """
    size = (number, bound.numel())
    # Double: a float has too few values for the longest lists.
    uniform = torch.rand(
        size, dtype=torch.double, generator=generator, device=bound.device
    )
    out = torch.empty(size, dtype=torch.long, device=bound.device)
    for step in range(number):
        newest = bound - number + step
        value = (uniform[step] * (newest + 1)).long()
        repeated = (out[:step] == value).any(dim=0)
        out[step] = torch.where(repeated, newest, value)
    return out


NumNeighbors = Sequence[int] | Mapping[EdgeType, Sequence[int]]
Pairs = Mapping[EdgeType, Tensor]  # edge type -> (source, target) of [2, B]


class HeteroNeighborSampler:
    r"""Samples the edges that point to the given nodes, then to their neighbors, hop by
    hop, and returns the subgraph.

    Of the :math:`d` incoming edges of a node of one type, every set of
    :math:`k = \min(d, \text{num\_neighbors})` is equally likely; the draws of
    different nodes are independent. As in PyG's loaders, the edges of a node are drawn
    once, in the hop after it was sampled, for all layers of a model. (PyG on
    torch-sparse 0.6.18 draws the last neighbor of a list too rarely, see
    ``rusty1s/pytorch_sparse#385``.)

    Weights are those of the whole graph. ``rescale`` multiplies them by :math:`d / k`,
    so that the expected sum over sampled edges is the sum over all edges. This holds
    for two hops of a bipartite graph. With more, the draw of one node can be used twice
    on a path, and nonlinear functions (a loss, a norm) are biased in any case.

    Args:
        edge_index_dict: Edges (source, target) ``[2, E]`` per type.
        num_nodes_dict: The number of nodes per node type.
        num_neighbors: Edges per node in each hop, ``-1`` for all; one list, or one per
            edge type, of the same length.
        edge_weight_dict: Weights ``[E]`` per edge type. (default: none)
        rescale: Whether weights are scaled up for the edges that were not sampled.
            (default: ``True``)
        seed: Seed of the draws. (default: ``0``)

    Raises:
        ValueError: If edges, weights or numbers do not fit.

    Example:
        >>> edge_type = ('item', 'to', 'user')
        >>> edges = {edge_type: torch.tensor([[0, 1, 2, 3], [0, 0, 0, 1]])}
        >>> sampler = HeteroNeighborSampler(edges, {'user': 2, 'item': 4}, [2])
        >>> out = sampler.sample({'user': torch.tensor([0])})
        >>> out[edge_type].edge_index
        tensor([[0, 1],
                [0, 0]])
        >>> out[edge_type].edge_weight  # Two of three edges are sampled.
        tensor([1.5000, 1.5000])
    """

    def __init__(
        self,
        edge_index_dict: Mapping[EdgeType, Tensor],
        num_nodes_dict: Mapping[NodeType, int],
        num_neighbors: NumNeighbors,
        *,
        edge_weight_dict: Mapping[EdgeType, Tensor] | None = None,
        rescale: bool = True,
        seed: int = 0,
    ) -> None:
        if not edge_index_dict:
            raise ValueError(
                "'edge_index_dict' must have at least one edge type (got none)"
            )
        for node_type, num_nodes in num_nodes_dict.items():
            check_positive(f"num_nodes_dict['{node_type}']", num_nodes)
        self.num_nodes_dict = dict(num_nodes_dict)
        self.num_neighbors = _per_edge_type(num_neighbors, list(edge_index_dict))
        self.rescale = rescale
        weights = edge_weight_dict or {}
        self._incoming = {
            edge_type: IncomingEdges(
                edge_type, edge_index, weights.get(edge_type), self.num_nodes_dict
            )
            for edge_type, edge_index in edge_index_dict.items()
        }
        device = next(iter(edge_index_dict.values())).device
        self.generator = torch.Generator(device=device).manual_seed(seed)
        # The position of each node in the batch, else -1; reset after every batch.
        self._position = {
            key: torch.full((num,), -1, dtype=torch.long, device=device)
            for key, num in self.num_nodes_dict.items()
        }

    @property
    def num_hops(self) -> int:
        """The number of hops."""
        return len(next(iter(self.num_neighbors.values())))

    def sample(
        self, seed_dict: Mapping[NodeType, Tensor], exclude_dict: Pairs | None = None
    ) -> HeteroData:
        """Returns the sampled subgraph around the given nodes.

        Every node type has ``n_id`` ``[n]``, the ids of nodes in the whole graph, first
        the given nodes (each once, ascending), and ``num_sampled_nodes``, the number of
        new nodes per hop, first that of the given nodes. Every edge type has
        ``edge_index`` in positions of ``n_id``, ``e_id``, the positions of edges in the
        whole graph, and ``edge_weight``, unless there are no weights and no
        ``rescale``. Features are not included: use ``x[n_id]``.

        Args:
            seed_dict: Node ids per node type; repeats count once.
            exclude_dict: Pairs (source, target) ``[2, B]`` per edge type whose edges
                are removed after the draw, such as the positives of a batch. Other
                weights do not change, so the expected sum over the other edges is still
                exact. (default: none)

        Raises:
            ValueError: If an id, a node type or an edge type is unknown.
        """
        excluded = self._check(seed_dict, exclude_dict or {})
        sampled = {key: _Nodes(position) for key, position in self._position.items()}
        try:
            for key, nodes in sampled.items():
                seeds = seed_dict.get(key, nodes.newest)
                nodes.add(seeds.long().to(nodes.position.device))
            drawn = self._draw(sampled, excluded)
            return self._graph(sampled, drawn)
        finally:
            for nodes in sampled.values():
                nodes.reset()

    def _draw(
        self, sampled: dict[NodeType, '_Nodes'], excluded: dict[EdgeType, Tensor]
    ) -> dict[EdgeType, list[Drawn]]:
        drawn: dict[EdgeType, list[Drawn]] = {key: [] for key in self._incoming}
        for hop in range(self.num_hops):
            reached: dict[NodeType, list[Tensor]] = {key: [] for key in sampled}
            for edge_type, incoming in self._incoming.items():
                source, _, target = edge_type
                nodes = sampled[target].newest
                edges = incoming.draw(
                    nodes, self.num_neighbors[edge_type][hop], self.generator
                )
                if edge_type in excluded:
                    pairs = incoming.source[edges.position] * incoming.num_targets
                    pairs += nodes[edges.row]
                    allowed = ~torch.isin(pairs, excluded[edge_type])
                    edges = Drawn(*(part[allowed] for part in edges))
                reached[source].append(incoming.source[edges.position])
                drawn[edge_type].append(
                    edges._replace(row=sampled[target].num_before + edges.row)
                )
            for key, sources in reached.items():
                empty = self._position[key].new_empty(0)
                sampled[key].add(torch.cat([empty, *sources]))
        return drawn

    def _graph(
        self, sampled: dict[NodeType, '_Nodes'], drawn: dict[EdgeType, list[Drawn]]
    ) -> HeteroData:
        data = HeteroData()
        for key, nodes in sampled.items():
            data[key].n_id = torch.cat(nodes.parts)
            data[key].num_nodes = data[key].n_id.numel()
            data[key].num_sampled_nodes = [part.numel() for part in nodes.parts]
        for edge_type, hops in drawn.items():
            incoming, store = self._incoming[edge_type], data[edge_type]
            row, index, scale = (torch.cat(parts) for parts in zip(*hops, strict=True))
            source = sampled[edge_type[0]].position[incoming.source[index]]
            store.edge_index = torch.stack([source, row])
            store.e_id = incoming.e_id[index]
            weight = incoming.weight
            if weight is not None:
                weight = weight[index]
            if self.rescale:
                weight = scale if weight is None else weight * scale.to(weight.dtype)
            if weight is not None:
                store.edge_weight = weight
        return data

    def _check(
        self, seed_dict: Mapping[NodeType, Tensor], exclude_dict: Pairs
    ) -> dict[EdgeType, Tensor]:
        for name, given, known in (
            ('seed_dict', set(seed_dict), set(self.num_nodes_dict)),
            ('exclude_dict', set(exclude_dict), set(self._incoming)),
        ):
            if not given <= known:
                raise ValueError(
                    f"'{name}' must have keys of {sorted(known)} (got {sorted(given)})"
                )
        for key, seeds in seed_dict.items():
            check_ids(f"seed_dict['{key}']", seeds, self.num_nodes_dict[key])
        return {
            edge_type: self._incoming[edge_type].keys_of('exclude_dict', pairs)
            for edge_type, pairs in exclude_dict.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The state of the next draws."""
        return {'generator': self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues with the draw after that of :meth:`state_dict`."""
        self.generator.set_state(state['generator'])

    def __repr__(self) -> str:
        edges = {key: x.source.numel() for key, x in self._incoming.items()}
        return (
            f'{self.__class__.__name__}({edges}, num_neighbors={self.num_neighbors}, '
            f'rescale={self.rescale})'
        )


class _Nodes:
    """The nodes of one type in a batch, in the order of the hops."""

    def __init__(self, position: Tensor) -> None:
        self.position = position
        self.parts: list[Tensor] = []
        self.num_before = 0  # The number of nodes before the newest.

    @property
    def newest(self) -> Tensor:
        return self.parts[-1] if self.parts else self.position.new_empty(0)

    def add(self, nodes: Tensor) -> None:
        self.num_before += self.newest.numel()
        new = nodes[self.position[nodes] < 0].unique()
        last = self.num_before + new.numel()
        self.parts.append(new)
        self.position[new] = torch.arange(self.num_before, last, device=new.device)

    def reset(self) -> None:
        for part in self.parts:
            self.position[part] = -1


def _per_edge_type(
    num_neighbors: NumNeighbors, edge_types: list[EdgeType]
) -> dict[EdgeType, list[int]]:
    if isinstance(num_neighbors, Mapping):
        if set(num_neighbors) != set(edge_types):
            raise ValueError(
                f"'num_neighbors' must have the edge types {sorted(edge_types)} (got "
                f'{sorted(num_neighbors)})'
            )
        out = {key: list(num_neighbors[key]) for key in edge_types}
    else:
        out = {key: list(num_neighbors) for key in edge_types}
    lengths = {len(numbers) for numbers in out.values()}
    fits = all(
        isinstance(n, int) and n >= -1 for numbers in out.values() for n in numbers
    )
    if lengths != {max(lengths)} or max(lengths) == 0 or not fits:
        raise ValueError(
            f"'num_neighbors' must have one whole number per hop, -1 for all, and as "
            f'many hops for every edge type (got {num_neighbors!r})'
        )
    return out
