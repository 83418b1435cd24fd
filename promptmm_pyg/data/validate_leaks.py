"""Leaks through edges other than the interactions, and rows in another order."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData
from torch_geometric.typing import EdgeType

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    REV_INTERACTS,
    USER,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.validate_graph import Issue, in_range, keys, node_counts

_MAX_EDGES = 100_000  # Edges that are looked at, and pairs drawn to tell chance.
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
    chosen = torch.randperm(edges.size(1), generator=generator)[:_MAX_EDGES]
    num_nodes = node_counts(split.train)[node_type]
    new, neither = _held_out_alone(edges[:, chosen], node_type, split)
    if new < _FEWEST or neither:
        return
    drawn = torch.randint(num_nodes, (2, _MAX_EDGES), generator=generator)
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


_MAX_PAIRS = 20_000  # Pairs that are looked at.
_ALIKE = 0.05  # In standard deviations; less tells nothing apart.


def check_order(name: str, data: HeteroData) -> list[Issue]:
    """A warning for each modality in which items of one user are no more alike than
    any two items, as after a shuffle of the rows. Where there are too few pairs to
    tell, nothing is said.
    """
    pairs = _pairs_of_users(data[INTERACTS].edge_index)
    found = []
    for modality, x_of in modality_x_dict(data).items():
        if ITEM not in x_of:
            continue
        mask = modality_mask_dict(data).get(modality, {}).get(ITEM)
        alike = _how_alike(x_of[ITEM], mask, pairs)
        if alike is not None and alike < _ALIKE:
            found.append(
                Issue(
                    'warning',
                    f"{name}['{ITEM}'].x_{modality}",
                    'is no more alike for two items of one user than for any two',
                    'Compare a few rows with their ids: they may be in another order, '
                    'or tell nothing about taste',
                )
            )
    return found


def _pairs_of_users(edges: Tensor) -> Tensor:
    """Items ``[2, P]`` of which each pair has a user in common."""
    generator = torch.Generator().manual_seed(0)
    edges = edges.cpu()[:, torch.randperm(edges.size(1), generator=generator)]
    user, order = edges[0].sort(stable=True)
    item = edges[1][order]
    same = user[1:] == user[:-1]
    pairs = torch.stack([item[:-1][same], item[1:][same]])
    chosen = torch.randperm(pairs.size(1), generator=generator)[:_MAX_PAIRS]
    return pairs[:, chosen]


def _how_alike(x: Tensor, mask: Tensor | None, pairs: Tensor) -> float | None:
    """The least that the similarity of pairs may plausibly exceed that of the same
    items paired anyhow, were it known for sure; ``None`` if that cannot be told.
    """
    if mask is not None:
        pairs = pairs[:, mask.cpu()[pairs].all(dim=0)]
    if pairs.size(1) < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    shuffled = pairs[1][torch.randperm(pairs.size(1), generator=generator)]
    rows, place = pairs.unique(return_inverse=True)
    unit = normalize(_centred(x.detach()[rows.to(x.device)].cpu().float()), dim=-1)
    first, second = unit[place[0]], unit[place[1]]
    other = unit[torch.searchsorted(rows, shuffled)]
    apart = shuffled != pairs[0]
    there = (first * second).sum(-1)[pairs[0] != pairs[1]]
    anyhow = (first * other).sum(-1)[apart]
    if min(there.numel(), anyhow.numel()) < 2 or float(anyhow.std()) == 0:
        return None
    excess = float((there.mean() - anyhow.mean()) / anyhow.std())
    error = (1 / there.numel() + 1 / anyhow.numel()) ** 0.5
    return float(excess + 3 * error)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=0)
