"""Issues of one graph: structure, edges, raw ids and features."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    REV_INTERACTS,
    USER,
    feature_columns,
    is_encoded,
    modality_mask_dict,
    modality_x_dict,
)

Array = np.ndarray[Any, Any]


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


def node_names(data: HeteroData, node_type: str, nodes: Tensor, limit: int = 3) -> str:
    """The raw ids of the first nodes, or their numbers where there are no ids."""
    ids = data[node_type].get('raw_id')
    first = nodes[:limit].tolist()
    usable = ids is not None and len(ids) == data[node_type].num_nodes
    names = [
        repr(ids[node : node + 1].tolist()[0] if usable else node) for node in first
    ]
    rest = nodes.numel() - len(first)
    return ', '.join(names) + (f' and {rest} more' if rest else '')


def pair_name(data: HeteroData, user: Tensor, item: Tensor) -> str:
    """One pair by its raw ids."""
    users, items = user.view(1), item.view(1)
    return f'user {node_names(data, USER, users)}, item {node_names(data, ITEM, items)}'


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


class SortedPairs:
    """The pairs of a graph, sorted once for all questions about them."""

    def __init__(self, edges: Tensor, data: HeteroData) -> None:
        self.edges = edges
        self.num_items = int(data[ITEM].num_nodes)
        # NumPy sorts several times faster than torch.
        self.keys: Array = np.sort(keys(edges, data).cpu().numpy())

    def repeated(self) -> Tensor:
        """The pairs ``[2, R]`` that occur again."""
        return self._pairs(self.keys[1:][self.keys[1:] == self.keys[:-1]])

    def shared(self, other: 'SortedPairs') -> Tensor:
        """The pairs ``[2, S]`` of these that are also in ``other``."""
        if len(other.keys) == 0:
            return self._pairs(self.keys[:0])
        place = np.searchsorted(other.keys, self.keys)
        found = other.keys[np.minimum(place, len(other.keys) - 1)] == self.keys
        return self._pairs(self.keys[found])

    def _pairs(self, chosen: Array) -> Tensor:
        pairs = np.stack([chosen // self.num_items, chosen % self.num_items])
        return torch.from_numpy(pairs)


def are_mirrored(edges: Tensor, reverse: Tensor) -> bool:
    """Whether edges ``[2, E]`` are the reverse ones, in the same order."""
    return torch.equal(edges[0], reverse[1]) and torch.equal(edges[1], reverse[0])


def check_graph(name: str, data: HeteroData) -> list[Issue]:
    """All issues of one graph; only those of its structure if there are any."""
    issues = check_structure(name, data)
    if issues:
        return issues
    issues += _check_edges(name, data)
    issues += _check_raw_ids(name, data)
    issues += _check_modalities(name, data)
    if not any(issue.level == 'error' for issue in issues):
        issues += _check_isolated(name, data)
    return issues


def check_structure(name: str, data: HeteroData) -> list[Issue]:
    """Node types without a count, edge types without edges."""
    issues = [
        Issue(
            'error',
            f"{name}['{node_type}']",
            "has no 'num_nodes'",
            "Set it: PyG cannot infer it from 'x_<modality>'",
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
            issues.append(Issue('error', where, problem, fix))
    labels = {} if INTERACTS not in data.edge_types else data[INTERACTS]
    if 'edge_label_index' in labels and not _is_edge_index(labels['edge_label_index']):
        where, problem = f'{name}: edge_label_index', 'is not int64 of shape [2, E]'
        issues.append(Issue('error', where, problem, 'Put users first, items second'))
    return issues


def _is_edge_index(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype == torch.long
        and value.dim() == 2
        and value.size(0) == 2
    )


def _check_edges(name: str, data: HeteroData) -> list[Issue]:
    issues = []
    counts = node_counts(data)
    store, reverse = data[INTERACTS], data[REV_INTERACTS].edge_index
    groups = {'edge_index': store.edge_index}
    labels = store.get('edge_label_index')
    if labels is not None and not torch.equal(labels, store.edge_index):
        groups['edge_label_index'] = labels
    mirrored = are_mirrored(store.edge_index, reverse)
    if not mirrored:
        groups['reverse edges'] = reverse.flip(0)
    for key, edges in groups.items():
        where = f'{name}: {key}'
        if not in_range(edges, counts):
            problem, fix = (
                f'points outside of {counts}',
                'Count from zero, or add nodes',
            )
            issues.append(Issue('error', where, problem, fix))
    if issues:
        return issues
    pairs = {key: SortedPairs(edges, data) for key, edges in groups.items()}
    for key in ('edge_index', 'edge_label_index'):
        repeated = pairs[key].repeated() if key in pairs else store.edge_index[:, :0]
        if repeated.size(1):
            first = pair_name(data, *repeated[:, 0])
            problem = f'contains {repeated.size(1)} repeated pairs (the first: {first})'
            fix = "Remove them (duplicates='first', --duplicates first)"
            issues.append(Issue('error', f'{name}: {key}', problem, fix))
    if not mirrored:
        forward, backward = pairs['edge_index'].keys, pairs['reverse edges'].keys
        if not np.array_equal(forward, backward):
            where, problem = f'{name}: reverse edges', 'do not mirror the interactions'
            fix = "Set their 'edge_index' to the interactions' 'edge_index.flip(0)'"
            issues.append(Issue('error', where, problem, fix))
    return issues


def _check_raw_ids(name: str, data: HeteroData) -> list[Issue]:
    issues = []
    for node_type in NODE_TYPES:
        num_nodes = data[node_type].num_nodes
        ids = data[node_type].get('raw_id')
        if ids is None:
            continue
        where, values = f"{name}['{node_type}'].raw_id", ids.tolist()
        different = set(values)
        if len(values) != num_nodes or len(different) != num_nodes:
            problem = (
                f'{len(values)} ids, {len(different)} different, for {num_nodes} nodes'
            )
            if len(different) < len(values):
                counts = Counter(values)
                repeated = next(raw for raw in values if counts[raw] > 1)
                problem += f' (the first repeated: {repeated!r})'
            issues.append(Issue('error', where, problem, 'Give each node one id'))
        alike = [] if ids.dtype.kind in 'iu' else _alike(different)
        if alike:
            problem = (
                f'{len(alike)} ids differ from another in spaces or case only (such as '
                f'{alike[0][0]!r} and {alike[0][1]!r})'
            )
            fix = 'If they mean the same, write them alike and read the files again'
            issues.append(Issue('warning', where, problem, fix))
    return issues


def _alike(different: set[Any]) -> list[tuple[Any, Any]]:
    """Pairs such as '7' and ' 7', or 'A1' and 'a1', from separately written files."""
    if len({str(raw).strip().casefold() for raw in different}) == len(different):
        return []
    first: dict[str, Any] = {}
    pairs = []
    for raw in sorted(different, key=str):
        other = first.setdefault(str(raw).strip().casefold(), raw)
        if other is not raw:
            pairs.append((other, raw))
    return pairs


def _check_isolated(name: str, data: HeteroData) -> list[Issue]:
    issues = []
    fixes = {
        USER: 'They get no training signal; leave them out of the ranking or drop them',
        ITEM: 'They are cold: only their modalities can recommend them',
    }
    for row, node_type in zip(data[INTERACTS].edge_index, NODE_TYPES, strict=True):
        count = node_counts(data)[node_type]
        isolated = (torch.bincount(row, minlength=count) == 0).nonzero().view(-1)
        if isolated.numel():
            names = node_names(data, node_type, isolated)
            problem = f'{isolated.numel()} of {count} have no message edge ({names})'
            where = f"{name}['{node_type}']"
            issues.append(Issue('warning', where, problem, fixes[node_type]))
    return issues


def _check_modalities(name: str, data: HeteroData) -> list[Issue]:
    issues = []
    features, masks = modality_x_dict(data), modality_mask_dict(data)
    for modality, mask_of in masks.items():
        for node_type in set(mask_of) - set(features.get(modality, {})):
            where = f"{name}['{node_type}'].mask_{modality}"
            fix = 'Add the features or delete the mask'
            issues.append(Issue('error', where, 'has no features beside it', fix))
    for modality, x_of in features.items():
        for node_type in x_of:
            where = f"{name}['{node_type}'].x_{modality}"
            for level, problem, fix in check_modality(data, node_type, modality):
                issues.append(Issue(level, where, problem, fix))
    return issues


Finding = tuple[Literal['error', 'warning'], str, str]  # level, problem, fix


def check_modality(data: HeteroData, node_type: str, modality: str) -> list[Finding]:
    """What is wrong with the features ``[num_nodes, width]`` of one modality."""
    x: object = data[node_type][f'x_{modality}']
    mask: object = data[node_type].get(f'mask_{modality}')
    num_nodes = node_counts(data)[node_type]
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 2:
        fix = "Build the graph with 'build_graph'"
        return [('error', 'is no matrix of floating point numbers', fix)]
    if x.size(0) != num_nodes:
        problem = f'has {x.size(0)} rows for {num_nodes} nodes'
        return [('error', problem, 'Give each node a row, in the order of the nodes')]
    if mask is not None and not _is_mask(mask, num_nodes):
        problem = f'has a mask that is not boolean of shape [{num_nodes}]'
        return [('error', problem, 'Mark each row as present or not')]
    bad = (~x.isfinite().all(dim=-1)).nonzero().view(-1)
    if bad.numel():
        names = node_names(data, node_type, bad)
        problem = (
            f'contains NaN or infinity in {bad.numel()} rows ({node_type} {names})'
        )
        fix = 'Set those rows to zero, and to false in the mask'
        return [('error', problem, fix)]
    present = torch.arange(num_nodes)
    if isinstance(mask, Tensor):
        present = mask.nonzero().view(-1)
    if present.numel() == 0:
        return [('warning', 'has no row that is present', 'Leave the modality out')]
    columns = feature_columns(data, node_type, modality)
    return [
        *_check_rows(data, node_type, modality, present.to(x.device)),
        *_check_columns(x[present.to(x.device)], columns),
    ]


def _is_mask(mask: object, num_nodes: int) -> bool:
    return (
        isinstance(mask, Tensor)
        and mask.dtype == torch.bool
        and mask.size() == (num_nodes,)
    )


_FEW_ROWS = 5  # Fewer rows are a row number or padding by chance.


def _check_rows(
    data: HeteroData, node_type: str, modality: str, present: Tensor
) -> Iterator[Finding]:
    if is_encoded(data, node_type, modality):
        return  # Categories repeat, and zero is a number.
    x = data[node_type][f'x_{modality}']
    is_zero = ~x.any(dim=-1)
    zeros = present[is_zero[present]]
    is_padded = bool(is_zero[0]) and int(is_zero.sum()) == 1
    if is_padded and x.size(0) >= _FEW_ROWS:
        yield (
            'warning',
            f'contains zeros in the first row ({node_type} '
            f'{node_names(data, node_type, torch.tensor([0]))}) and in no other, as '
            f'padding does',
            'If all rows of an .npy file are one too far down, leave out the first '
            'with padding_row=True (--padding-row)',
        )
    elif zeros.numel():
        yield (
            'warning',
            f'contains {zeros.numel()} rows of zeros that no mask marks as missing '
            f'({node_type} {node_names(data, node_type, zeros.cpu())})',
            'If they are missing, leave the rows of a table empty; in .npy files they '
            "are missing with masks='zero-rows' (--masks zero-rows)",
        )
    rows = x[present[~is_zero[present]]]
    repeated = rows.size(0) - _row_hashes(rows).unique().numel()
    if repeated:
        yield (
            'warning',
            f'contains {repeated} rows that repeat another row',
            'Placeholders (one picture for all that lack one) belong in a mask',
        )


_ROW_NUMBERS = re.compile(r'unnamed: \d+|index|level_\d+|__index_level_\d+__|', re.I)


def _check_columns(x: Tensor, columns: tuple[str, ...] | None) -> Iterator[Finding]:
    if x.size(0) < 2:
        return
    low, high = x.amin(dim=0), x.amax(dim=0)
    constant = low == high
    if float((x == 0).float().mean()) > 0.5:
        # Counts, classes, hashed words: one that occurs nowhere is to be expected.
        constant &= low != 0
    found = constant.nonzero().view(-1).tolist()
    if found:
        values = [f'{float(low[column]):g}' for column in found]
        names = _column_names(found, columns, [f' is {value}' for value in values])
        problem = f'contains {len(found)} constant columns of {x.size(1)} ({names})'
        yield 'warning', problem, _drop(found, columns)
    found = [
        column
        for column in (high > low).nonzero().view(-1).tolist()
        if is_row_number(x[:, column], columns[column] if columns else None)
    ]
    if found:
        problem = (
            f'contains {len(found)} columns that count the rows '
            f'({_column_names(found, columns)})'
        )
        yield 'warning', problem, _drop(found, columns)


def is_row_number(values: Tensor, name: str | None = None) -> bool:
    """Whether a column is 0 to n - 1 or 1 to n in some order, or different integers
    under the name of an index.
    """
    num_rows, first = values.numel(), float(values.min())
    by_name = name is not None and _ROW_NUMBERS.fullmatch(name) is not None
    counts = first in (0, 1) and float(values.max()) == first + num_rows - 1
    if not (counts or by_name) or num_rows < _FEW_ROWS:
        return False
    is_integer = bool((values == values.floor()).all())
    return is_integer and values.unique().numel() == num_rows


def _column_names(
    found: list[int], columns: tuple[str, ...] | None, ends: Iterable[str] = ()
) -> str:
    limit = 5
    ends = list(ends) or [''] * len(found)
    names = [
        (repr(columns[column]) if columns else f'column {column}') + end
        for column, end in zip(found[:limit], ends, strict=False)
    ]
    return ', '.join(names) + (
        f' and {len(found) - limit} more' if len(found) > limit else ''
    )


def _drop(found: list[int], columns: tuple[str, ...] | None) -> str:
    """The fix for columns that carry no information."""
    if columns is None:
        return 'They carry no information: delete them from the array'
    names = [columns[column] for column in found]
    words = ' '.join(f"'{name}'" for name in names)
    return (
        f'They carry no information: leave them out with drop_columns={names} '
        f'(--drop-columns {words})'
    )


def _row_hashes(x: Tensor) -> Tensor:
    """Numbers ``[N]`` that are equal for equal rows and, with 64 bits, different
    otherwise; integer arithmetic does not depend on the order of summation.
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
