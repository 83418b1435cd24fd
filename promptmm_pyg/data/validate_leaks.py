"""Leaks through edges other than the interactions."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    REV_INTERACTS,
    USER,
)
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.validate_graph import Issue, in_range, keys, node_counts

_MAX_EDGES = 100_000  # Edges that are compared with as many random pairs.
_MIN_EDGES = 10  # Fewer edges prove nothing.
_P_VALUE = 1e-6
_CHUNK = 4_000_000  # Neighbors in memory.


def check_other_edges(split: Split) -> list[Issue]:
    """Issues of all edge types but the interactions, each checked once."""
    issues = []
    seen: set[int] = set()
    for name, graph in split._asdict().items():
        for edge_type in graph.edge_types:
            edges = graph[edge_type].get('edge_index')
            ends = {edge_type[0], edge_type[2]}
            others = edge_type not in (INTERACTS, REV_INTERACTS)
            if not others or not ends <= set(NODE_TYPES) or id(edges) in seen:
                continue
            seen.add(id(edges))
            where = f'{name}{list(edge_type)}'
            issues += list(_check_edges(where, edge_type, edges, split))
    return issues


def _check_edges(
    where: str, edge_type: EdgeType, edges: object, split: Split
) -> Iterator[Issue]:
    if not isinstance(edges, Tensor) or edges.dim() != 2 or edges.size(0) != 2:
        return  # Attributes alone, or another form of edges.
    counts = node_counts(split.train)
    ends = {USER: counts[edge_type[0]], ITEM: counts[edge_type[2]]}
    if not in_range(edges, ends):
        problem = f'points outside of {counts}'
        yield Issue('error', where, problem, 'Count nodes from zero')
    elif edge_type[0] != edge_type[2]:
        yield from _check_between(where, edge_type, edges, split)
    else:
        yield from _check_among(where, edge_type[0], edges, split)


def _check_between(
    where: str, edge_type: EdgeType, edges: Tensor, split: Split
) -> Iterator[Issue]:
    pairs = edges if edge_type[0] == USER else edges.flip(0)
    for part in ('val', 'test'):
        positives = keys(_labels(getattr(split, part)), split.train)
        leaked = int(torch.isin(positives, keys(pairs, split.train)).sum())
        if leaked:
            problem = f'contains {leaked} positives of {part}'
            fix = 'Build it from training data only'
            yield Issue('error', where, problem, fix)


def _check_among(
    where: str, node_type: str, edges: Tensor, split: Split
) -> Iterator[Issue]:
    """A graph of co-occurrences has no edge between nodes that never occur together; a
    graph of features has.
    """
    generator = torch.Generator().manual_seed(0)
    edges = edges[:, edges[0] != edges[1]].cpu()
    sample = torch.randperm(edges.size(1), generator=generator)[:_MAX_EDGES]
    num_nodes = node_counts(split.train)[node_type]
    new, neither = _held_out_alone(edges[:, sample], node_type, split)
    if new < _MIN_EDGES or neither:
        return
    drawn = torch.randint(num_nodes, (2, _MAX_EDGES), generator=generator)
    drawn = drawn[:, drawn[0] != drawn[1]]
    random_new, random_neither = _held_out_alone(drawn, node_type, split)
    ratio = (random_new + 1) / (random_new + random_neither + 1)
    if ratio**new > _P_VALUE:
        return
    problem = (
        f'joins {new} pairs of {node_type}s that only held-out interactions bring '
        f'together, and none that nothing does: it contains validation or test data'
    )
    yield Issue('error', where, problem, 'Build it from training interactions only')


def _held_out_alone(pairs: Tensor, node_type: str, split: Split) -> tuple[int, int]:
    """Among pairs without a common neighbor in training: the number of those that have
    one if held-out interactions are added, and of the others.
    """
    train = split.train[INTERACTS].edge_index
    everything = torch.cat([train, _labels(split.val), _labels(split.test)], dim=1)
    num = node_counts(split.train)
    pairs = pairs[:, ~_together(pairs, train, node_type, num)]
    new = int(_together(pairs, everything, node_type, num).sum())
    return new, pairs.size(1) - new


def _labels(graph: HeteroData) -> Tensor:
    labels: Tensor = graph[INTERACTS].edge_label_index
    return labels


def _together(
    pairs: Tensor, edges: Tensor, node_type: str, num_nodes: dict[str, int]
) -> Tensor:
    """Which pairs ``[2, P]`` of nodes of one type have a common neighbor."""
    node, neighbor = (edges if node_type == USER else edges.flip(0)).cpu()
    width = num_nodes[ITEM if node_type == USER else USER]
    known = (node * width + neighbor).unique()
    node, neighbor = known // width, known % width
    degree = torch.bincount(node, minlength=num_nodes[node_type])
    start = degree.cumsum(0) - degree
    fewer = degree[pairs[0]] <= degree[pairs[1]]
    small, large = torch.where(fewer, pairs, pairs.flip(0))
    have_common = torch.zeros(pairs.size(1), dtype=torch.bool)
    total = degree[small].cumsum(0)
    for part in (total // _CHUNK).unique():
        rows = (total // _CHUNK == part).nonzero().view(-1)
        sizes = degree[small[rows]]
        row = rows.repeat_interleave(sizes)
        step = torch.arange(row.numel()) - (sizes.cumsum(0) - sizes).repeat_interleave(
            sizes
        )
        key = large[row] * width + neighbor[start[small[row]] + step]
        place = torch.searchsorted(known, key).clamp(max=max(0, known.numel() - 1))
        have_common[row[known[place] == key]] = True
    return have_common
