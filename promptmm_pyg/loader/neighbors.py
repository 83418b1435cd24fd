"""Sampled neighborhoods of a batch, hop by hop."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_ids, check_positive, checked_edges


class Drawn(NamedTuple):
    """Edges ``[n]``, those of one node after those of another."""

    row: Tensor
    """Which of the nodes asked for the edge points to."""
    place: Tensor
    """The edge's place in :class:`IncomingEdges`."""
    scale: Tensor
    """How many edges it stands for: those there are by those drawn."""


class IncomingEdges:
    """The edges of one type, sorted by their target.

    Args:
        edge_type: For messages, and for its node types.
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
                    f"'num_nodes_dict' requires the node types of {edge_type} (got "
                    f'{sorted(num_nodes_dict)})'
                )
        self.edge_type = edge_type
        self.num_sources = num_nodes_dict[edge_type[0]]
        self.num_targets = num_nodes_dict[edge_type[2]]
        source, target = self._checked('edge_index_dict', edge_index)
        if edge_weight is not None and edge_weight.size() != source.size():
            raise ValueError(
                f"'edge_weight_dict' requires one weight per edge of {edge_type} (got "
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
        """Draws ``number`` edges of each node, all where it has no more, without
        replacement; ``-1`` draws all.
        """
        start, degree = self.start[nodes], self.degree[nodes]
        count = degree if number < 0 else degree.clamp_max(number)
        first = count.cumsum(0) - count
        row = torch.repeat_interleave(count)
        within = torch.arange(row.numel(), device=row.device) - first[row]
        place = start[row] + within
        some = (degree > count).nonzero().view(-1)
        if number > 0 and some.numel() > 0:
            chosen = distinct_below(degree[some], number, generator)
            slot = first[some] + torch.arange(number, device=row.device)[:, None]
            place[slot] = start[some] + chosen
        return Drawn(row, place, degree[row] / count[row])

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

    The step that admits one more value draws among all admitted so far and takes the
    new one in place of a value it already has. Costs grow with ``number`` squared, not
    with the bounds.

    Args:
        bound: Integers ``[R]``, none below ``number``.
        number: How many.
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
        taken = (out[:step] == value).any(dim=0)
        out[step] = torch.where(taken, newest, value)
    return out


NumNeighbors = Sequence[int] | Mapping[EdgeType, Sequence[int]]
Pairs = Mapping[EdgeType, Tensor]  # edge type -> (source, target) of [2, B]


class HeteroNeighborSampler:
    r"""Draws the edges that point to the given nodes, then those that point to the
    nodes found, hop by hop, and returns the graph they make.

    Of a node's :math:`d` incoming edges of one type, every set of
    :math:`k = \min(d, \text{num\_neighbors})` is equally likely; the draws of
    different nodes are independent. As in PyG's loaders, a node's edges are drawn once,
    in the hop that follows the one that found it, and serve every layer of a model.
    (PyG on torch-sparse 0.6.18 draws the last neighbor of a list too rarely, see
    ``rusty1s/pytorch_sparse#385``; here all are equal.)

    Weights are those of the whole graph. With ``rescale`` an edge weighs :math:`d / k`
    times as much, so that the sum over the edges drawn is, on average, the sum over all
    edges. It stays so through two hops of a bipartite graph; with more, a node's own
    draw can come up twice on one path, and what is not linear (a loss, a norm) is
    estimated with an error either way.

    Args:
        edge_index_dict: Edges (source, target) ``[2, E]`` per type; the only edges that
            ever come out.
        num_nodes_dict: The number of nodes per node type.
        num_neighbors: Edges per node in each hop, ``-1`` for all; one list, or one per
            edge type, of the same length.
        edge_weight_dict: Weights ``[E]`` per edge type. (default: none)
        rescale: Whether weights make up for the edges left out. (default: ``True``)
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
        >>> out[edge_type].edge_weight  # Two of three were drawn.
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
                "'edge_index_dict' requires at least one edge type (got none)"
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
        # Where a node stands in the batch, -1 outside of it; reset after every batch.
        self._place = {
            key: torch.full((num,), -1, dtype=torch.long, device=device)
            for key, num in self.num_nodes_dict.items()
        }

    @property
    def num_hops(self) -> int:
        """How many hops are drawn."""
        return len(next(iter(self.num_neighbors.values())))

    def sample(
        self, seed_dict: Mapping[NodeType, Tensor], exclude_dict: Pairs | None = None
    ) -> HeteroData:
        """Returns the graph around the given nodes.

        Every node type has ``n_id`` ``[n]``, the nodes' ids in the whole graph, first
        the given ones (each once, ascending), and ``num_sampled_nodes``, how many were
        found in each hop, beginning with how many were given. Every edge type has
        ``edge_index`` in positions of ``n_id``, ``e_id``, the edges' positions in the
        whole graph, and ``edge_weight``, unless there are no weights and no
        ``rescale``. Features stay where they are: ``x[n_id]``.

        Args:
            seed_dict: Node ids per node type; repeats count once.
            exclude_dict: Pairs (source, target) ``[2, B]`` per edge type that no edge
                may join, such as the positives of a batch. They are taken out after the
                draw; what is left keeps its weight, and the sum over the other edges
                stays right on average. (default: none)

        Raises:
            ValueError: If an id, a node type or an edge type is unknown.
        """
        excluded = self._check(seed_dict, exclude_dict or {})
        found = {key: _Found(place) for key, place in self._place.items()}
        try:
            for key, nodes in found.items():
                seeds = seed_dict.get(key, nodes.newest)
                nodes.add(seeds.long().to(nodes.place.device))
            drawn = self._draw(found, excluded)
            return self._graph(found, drawn)
        finally:
            for nodes in found.values():
                nodes.forget()

    def _draw(
        self, found: dict[NodeType, '_Found'], excluded: dict[EdgeType, Tensor]
    ) -> dict[EdgeType, list[Drawn]]:
        drawn: dict[EdgeType, list[Drawn]] = {key: [] for key in self._incoming}
        for hop in range(self.num_hops):
            reached: dict[NodeType, list[Tensor]] = {key: [] for key in found}
            for edge_type, incoming in self._incoming.items():
                source, _, target = edge_type
                nodes = found[target].newest
                edges = incoming.draw(
                    nodes, self.num_neighbors[edge_type][hop], self.generator
                )
                if edge_type in excluded:
                    pairs = incoming.source[edges.place] * incoming.num_targets
                    pairs += nodes[edges.row]
                    kept = ~torch.isin(pairs, excluded[edge_type])
                    edges = Drawn(*(part[kept] for part in edges))
                reached[source].append(incoming.source[edges.place])
                drawn[edge_type].append(
                    edges._replace(row=found[target].num_before + edges.row)
                )
            for key, sources in reached.items():
                none = self._place[key].new_empty(0)
                found[key].add(torch.cat([none, *sources]))
        return drawn

    def _graph(
        self, found: dict[NodeType, '_Found'], drawn: dict[EdgeType, list[Drawn]]
    ) -> HeteroData:
        data = HeteroData()
        for key, nodes in found.items():
            data[key].n_id = torch.cat(nodes.parts)
            data[key].num_nodes = data[key].n_id.numel()
            data[key].num_sampled_nodes = [part.numel() for part in nodes.parts]
        for edge_type, hops in drawn.items():
            incoming, store = self._incoming[edge_type], data[edge_type]
            row, place, scale = (torch.cat(parts) for parts in zip(*hops, strict=True))
            source = found[edge_type[0]].place[incoming.source[place]]
            store.edge_index = torch.stack([source, row])
            store.e_id = incoming.e_id[place]
            weight = incoming.weight
            if weight is not None:
                weight = weight[place]
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
                    f"'{name}' requires keys among {sorted(known)} (got "
                    f'{sorted(given)})'
                )
        for key, seeds in seed_dict.items():
            check_ids(f"seed_dict['{key}']", seeds, self.num_nodes_dict[key])
        return {
            edge_type: self._incoming[edge_type].keys_of('exclude_dict', pairs)
            for edge_type, pairs in exclude_dict.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What the draws to come depend on."""
        return {'generator': self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the draw that :meth:`state_dict` stood before."""
        self.generator.set_state(state['generator'])

    def __repr__(self) -> str:
        edges = {key: x.source.numel() for key, x in self._incoming.items()}
        return (
            f'{self.__class__.__name__}({edges}, num_neighbors={self.num_neighbors}, '
            f'rescale={self.rescale})'
        )


class _Found:
    """The nodes of one type in a batch, in the order of the hops."""

    def __init__(self, place: Tensor) -> None:
        self.place = place
        self.parts: list[Tensor] = []
        self.num_before = 0  # Nodes found before the newest.

    @property
    def newest(self) -> Tensor:
        return self.parts[-1] if self.parts else self.place.new_empty(0)

    def add(self, nodes: Tensor) -> None:
        self.num_before += self.newest.numel()
        fresh = nodes[self.place[nodes] < 0].unique()
        last = self.num_before + fresh.numel()
        self.parts.append(fresh)
        self.place[fresh] = torch.arange(self.num_before, last, device=fresh.device)

    def forget(self) -> None:
        for part in self.parts:
            self.place[part] = -1


def _per_edge_type(
    num_neighbors: NumNeighbors, edge_types: list[EdgeType]
) -> dict[EdgeType, list[int]]:
    if isinstance(num_neighbors, Mapping):
        if set(num_neighbors) != set(edge_types):
            raise ValueError(
                f"'num_neighbors' requires the edge types {sorted(edge_types)} (got "
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
            f"'num_neighbors' requires one whole number per hop, -1 for all, and as "
            f'many '
            f'hops for every edge type (got {num_neighbors!r})'
        )
    return out
