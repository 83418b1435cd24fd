"""Issues of one graph: structure, edges, raw ids and features."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    REV_INTERACTS,
    USER,
    modality_mask_dict,
    modality_x_dict,
)


class Issue(NamedTuple):
    """One thing to mend (``'error'``) or to know (``'warning'``)."""

    level: Literal['error', 'warning']
    where: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f'{self.where}: {self.problem}. {self.fix}'


def node_counts(data: HeteroData) -> dict[str, int]:
    """The numbers of users and of items; graphs may have other nodes, too."""
    return {key: int(data[key].num_nodes) for key in NODE_TYPES}


def in_range(edges: Tensor, counts: dict[str, int]) -> bool:
    """Whether all pairs point to nodes."""
    if edges.numel() == 0:
        return True
    limit = torch.tensor([counts[USER], counts[ITEM]], device=edges.device)
    low, high = edges.min(dim=1).values, edges.max(dim=1).values
    return bool((low >= 0).all()) and bool((high < limit).all())


def keys(edges: Tensor, data: HeteroData) -> Tensor:
    """One number per pair, the same for the same pair."""
    return edges[0] * int(data[ITEM].num_nodes) + edges[1]


def check_graph(name: str, data: HeteroData) -> list[Issue]:
    """All findings on one graph; only those on its structure if there are any."""
    found = check_structure(name, data)
    if found:  # Nothing below can be asked of such a graph.
        return found
    found += _check_edges(name, data)
    found += _check_raw_ids(name, data)
    found += _check_modalities(name, data)
    if not any(finding.level == 'error' for finding in found):
        found += _check_lonely(name, data)
    return found


def check_structure(name: str, data: HeteroData) -> list[Issue]:
    """Node types without a count, edge types without edges."""
    found = [
        Issue(
            'error',
            f"{name}['{node_type}']",
            "has no 'num_nodes'",
            "Set it: PyG cannot tell it from 'x_<modality>'",
        )
        for node_type in NODE_TYPES
        if node_type not in data.node_types or 'num_nodes' not in data[node_type]
    ]
    for edge_type in (INTERACTS, REV_INTERACTS):
        has = edge_type in data.edge_types and 'edge_index' in data[edge_type]
        if not has or not _is_edge_index(data[edge_type].edge_index):
            where = f'{name}{list(edge_type)}'
            problem = "has no 'edge_index' of int64 with shape [2, E]"
            fix = "Build the graph with 'build_graph'"
            found.append(Issue('error', where, problem, fix))
    labels = {} if INTERACTS not in data.edge_types else data[INTERACTS]
    if 'edge_label_index' in labels and not _is_edge_index(labels['edge_label_index']):
        where, problem = f'{name}: edge_label_index', 'is not int64 of shape [2, E]'
        found.append(Issue('error', where, problem, 'Put users first, items second'))
    return found


def _is_edge_index(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype == torch.long
        and value.dim() == 2
        and value.size(0) == 2
    )


def _check_edges(name: str, data: HeteroData) -> list[Issue]:
    found = []
    counts = node_counts(data)
    store, reverse = data[INTERACTS], data[REV_INTERACTS].edge_index.flip(0)
    groups = {'edge_index': store.edge_index}
    if 'edge_label_index' in store:
        groups['edge_label_index'] = store.edge_label_index
    for key, edges in {**groups, 'reverse edges': reverse}.items():
        where = f'{name}: {key}'
        if not in_range(edges, counts):
            problem = f'points outside of {counts}'
            found.append(
                Issue('error', where, problem, 'Count nodes from zero, or add nodes')
            )
    if found:
        return found
    for key, edges in groups.items():
        repeats = edges.size(1) - keys(edges, data).unique().numel()
        if repeats:
            problem = f'holds {repeats} repeated pairs'
            fix = "Build the graph with duplicates='first'"
            found.append(Issue('error', f'{name}: {key}', problem, fix))
    forward = keys(store.edge_index, data).sort().values
    if not torch.equal(forward, keys(reverse, data).sort().values):
        found.append(
            Issue(
                'error',
                f'{name}: reverse edges',
                'do not mirror the interactions',
                "Set their 'edge_index' to the interactions' 'edge_index.flip(0)'",
            )
        )
    return found


def _check_raw_ids(name: str, data: HeteroData) -> list[Issue]:
    found = []
    for node_type in NODE_TYPES:
        num_nodes = data[node_type].num_nodes
        ids = data[node_type].get('raw_id')
        if ids is None:
            continue
        different = len(set(ids.tolist()))
        if len(ids) != num_nodes or different != num_nodes:
            problem = f'{len(ids)} ids, {different} different, for {num_nodes} nodes'
            where = f"{name}['{node_type}'].raw_id"
            found.append(Issue('error', where, problem, 'Give each node one id'))
        # As '7' and ' 7', or 'A1' and 'a1', from files that were written apart.
        alike = different - len({str(raw).strip().casefold() for raw in ids.tolist()})
        if alike:
            problem = f'{alike} ids differ from another in spaces or case only'
            where = f"{name}['{node_type}'].raw_id"
            fix = 'If they mean the same, write them alike and read the files again'
            found.append(Issue('warning', where, problem, fix))
    return found


def _check_modalities(name: str, data: HeteroData) -> list[Issue]:
    found = []
    features, masks = modality_x_dict(data), modality_mask_dict(data)
    counts = node_counts(data)
    for modality, mask_of in masks.items():
        for node_type in set(mask_of) - set(features.get(modality, {})):
            where = f"{name}['{node_type}'].mask_{modality}"
            fix = 'Add the features or delete the mask'
            found.append(Issue('error', where, 'has no features beside it', fix))
    for modality, x_of in features.items():
        for node_type, x in x_of.items():
            where = f"{name}['{node_type}'].x_{modality}"
            mask = masks.get(modality, {}).get(node_type)
            for level, problem, fix in find_in_modality(x, mask, counts[node_type]):
                found.append(Issue(level, where, problem, fix))
    return found


def _check_lonely(name: str, data: HeteroData) -> list[Issue]:
    found = []
    counts = node_counts(data)
    fixes = {
        USER: 'They get no training signal; leave them out of the ranking or drop them',
        ITEM: 'They are cold: only their modalities can recommend them',
    }
    for row, node_type in zip(data[INTERACTS].edge_index, NODE_TYPES, strict=True):
        lonely = counts[node_type] - row.unique().numel()
        if lonely:
            problem = f'{lonely} of {counts[node_type]} have no message edge'
            where = f"{name}['{node_type}']"
            found.append(Issue('warning', where, problem, fixes[node_type]))
    return found


Found = tuple[Literal['error', 'warning'], str, str]  # level, problem, fix


def find_in_modality(x: object, mask: object, num_nodes: int) -> list[Found]:
    """Findings on features ``[num_nodes, width]`` and their mask."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 2:
        fix = "Build the graph with 'build_graph'"
        return [('error', 'is no matrix of floating point numbers', fix)]
    if x.size(0) != num_nodes:
        problem = f'has {x.size(0)} rows for {num_nodes} nodes'
        return [('error', problem, 'Give each node a row, in the order of the nodes')]
    if mask is not None and not _is_mask(mask, num_nodes):
        problem = f'has a mask that is not boolean of shape [{num_nodes}]'
        return [('error', problem, 'Mark each row as there or not')]
    bad = int((~x.isfinite().all(dim=-1)).sum())
    if bad:
        fix = 'Set those rows to zero, and to false in the mask'
        return [('error', f'holds NaN or infinity in {bad} rows', fix)]
    return list(_oddities(x, mask if isinstance(mask, Tensor) else None))


def _is_mask(mask: object, num_nodes: int) -> bool:
    return (
        isinstance(mask, Tensor)
        and mask.dtype == torch.bool
        and mask.size() == (num_nodes,)
    )


def _oddities(x: Tensor, mask: Tensor | None) -> Iterator[Found]:
    present = x if mask is None else x[mask]
    if present.numel() == 0:
        yield 'warning', 'has no row that is present', 'Leave the modality out'
        return
    zero = ~present.any(dim=-1)
    if bool(zero.any()):
        yield (
            'warning',
            f'holds {int(zero.sum())} rows of zeros that no mask marks as missing',
            "Set them to false in a mask ('masks' of the readers does)",
        )
    rows = present[~zero]
    repeated = rows.size(0) - _row_hashes(rows).unique().numel()
    if repeated:
        yield (
            'warning',
            f'holds {repeated} rows that repeat another row',
            'Placeholders (one picture for all that lack one) belong in a mask',
        )
    same = (present == present[0]).all(dim=0)
    if float((present == 0).float().mean()) > 0.5:
        # Counts, classes, hashed words: one that nobody has is to be expected.
        same &= present[0] != 0
    constant = int(same.sum())
    if constant and present.size(0) > 1:
        yield (
            'warning',
            f'holds {constant} constant columns of {x.size(1)}',
            'They tell nothing apart: leave them out',
        )


def _row_hashes(x: Tensor) -> Tensor:
    """Numbers ``[N]`` that are equal for equal rows and else, for 64 bits,
    different; whole-number arithmetic, so the order of summing is no matter.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(
        torch.iinfo(torch.long).max, (x.size(1),), generator=generator
    ).to(x.device)
    parts = [
        (part.float().contiguous().view(torch.int32).long() * weight).sum(dim=-1)
        for part in x.split(8192)
    ]
    return torch.cat(parts) if parts else weight[:0]
