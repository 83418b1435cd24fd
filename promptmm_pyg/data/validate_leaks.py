"""Leaks through edges that are not the interactions: other edge types of users and
items, and graphs among items (or users) made from who took what.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType

from promptmm_pyg.data.finding import Issue, in_range, keys, node_counts
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    REV_INTERACTS,
    USER,
)
from promptmm_pyg.data.split import Split

_MOST = 100_000  # Edges that are looked at, and pairs drawn to tell chance.
_FEWEST = 10  # Edges below which nothing can be told.
_UNLIKELY = 1e-6
_AT_ONCE = 4_000_000  # Neighbours held at once.


def check_other_edges(split: Split) -> list[Issue]:
    """Findings on all edge types but the interactions, each looked at once."""
    found = []
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
            found += list(_check_edges(where, edge_type, edges, split))
    return found


def _check_edges(
    where: str, edge_type: EdgeType, edges: object, split: Split
) -> Iterator[Issue]:
    if not isinstance(edges, Tensor) or edges.dim() != 2 or edges.size(0) != 2:
        return  # Attributes alone, or a form that is not read here.
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
            problem = f'holds {leaked} positives of {part}'
            yield Issue('error', where, problem, 'Make it of training data alone')


def _check_among(
    where: str, node_type: str, edges: Tensor, split: Split
) -> Iterator[Issue]:
    """A graph of nodes that were taken together, training data or not, holds no edge
    between others; one of features does.
    """
    generator = torch.Generator().manual_seed(0)
    edges = edges[:, edges[0] != edges[1]].cpu()
    chosen = torch.randperm(edges.size(1), generator=generator)[:_MOST]
    num_nodes = node_counts(split.train)[node_type]
    new, neither = _held_out_alone(edges[:, chosen], node_type, split)
    if new < _FEWEST or neither:
        return
    drawn = torch.randint(num_nodes, (2, _MOST), generator=generator)
    drawn = drawn[:, drawn[0] != drawn[1]]
    by_chance, not_by_chance = _held_out_alone(drawn, node_type, split)
    share = (by_chance + 1) / (by_chance + not_by_chance + 1)
    if share**new > _UNLIKELY:
        return
    problem = (
        f'joins {new} pairs of {node_type}s that only held-out interactions bring '
        f'together, and none that nothing does: it knows validation or test'
    )
    yield Issue('error', where, problem, 'Make it of training interactions alone')


def _held_out_alone(pairs: Tensor, node_type: str, split: Split) -> tuple[int, int]:
    """How many pairs without a neighbour in common in training have one with what is
    held out, and how many do not.
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
    """Which pairs ``[2, P]`` of nodes of one type have a neighbour in common."""
    mine, theirs = (edges if node_type == USER else edges.flip(0)).cpu()
    width = num_nodes[ITEM if node_type == USER else USER]
    known = (mine * width + theirs).unique()
    mine, theirs = known // width, known % width
    degree = torch.bincount(mine, minlength=num_nodes[node_type])
    start = degree.cumsum(0) - degree
    fewer = degree[pairs[0]] <= degree[pairs[1]]
    small, large = torch.where(fewer, pairs, pairs.flip(0))
    found = torch.zeros(pairs.size(1), dtype=torch.bool)
    total = degree[small].cumsum(0)
    for part in (total // _AT_ONCE).unique():
        rows = (total // _AT_ONCE == part).nonzero().view(-1)
        sizes = degree[small[rows]]
        row = rows.repeat_interleave(sizes)
        step = torch.arange(row.numel()) - (sizes.cumsum(0) - sizes).repeat_interleave(
            sizes
        )
        key = large[row] * width + theirs[start[small[row]] + step]
        place = torch.searchsorted(known, key).clamp(max=max(0, known.numel() - 1))
        found[row[known[place] == key]] = True
    return found
