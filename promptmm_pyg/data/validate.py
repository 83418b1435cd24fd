"""Checks of a graph or a split before training."""

import datetime
import warnings

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
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.validate_graph import (
    Issue,
    SortedPairs,
    check_graph,
    check_structure,
    in_range,
    node_counts,
    node_names,
    pair_name,
)
from promptmm_pyg.data.validate_leaks import check_other_edges
from promptmm_pyg.data.validate_order import check_order


def validate(data: HeteroData | Split, raise_on_error: bool = False) -> list[Issue]:
    """Returns all issues of a graph or a split, errors first; an empty list if there
    are none.

    Errors make results wrong or stop training: a broken schema, indices out of range,
    repeated edges, reverse edges that do not mirror the interactions, features with
    NaN, infinity or the wrong number of rows and, in a split, a user without a
    negative, or positives of validation or test that training can see, also through
    edges of other types and through graphs among items (or users) made of held-out
    interactions.

    Warnings are often an accident: users or items without training edges or in no part
    at all, raw ids that differ in spaces or case only, times in mixed units, at zero,
    negative or in the future, features that are zero, repeated, constant or count the
    rows, a padding row, and features whose rows seem to be in another order than the
    items: no more alike for two items of one user than for any two, and unrelated to
    the other modalities.

    Args:
        data: A graph, or the three graphs of a split.
        raise_on_error: Whether errors are raised and warnings are issued as Python's
            warnings. (default: ``False``)

    Raises:
        ValueError: If ``raise_on_error`` and there is an error; the message lists all
            of them.
    """
    is_split = isinstance(data, Split)
    issues = check_split(data) if is_split else check_graph('graph', data)
    issues = sorted(issues, key=lambda issue: issue.level)
    if raise_on_error:
        errors = [str(issue) for issue in issues if issue.level == 'error']
        if errors:
            raise ValueError("'data' must have no errors:\n- " + '\n- '.join(errors))
        for issue in issues:
            warnings.warn(str(issue), stacklevel=2)
    return issues


def check_split(split: Split) -> list[Issue]:
    """All issues of a split; on leaks once all graphs have their parts."""
    broken = [*check_structure('val', split.val), *check_structure('test', split.test)]
    for name, graph in split._asdict().items():
        if INTERACTS in graph.edge_types and 'edge_label_index' not in graph[INTERACTS]:
            fix = "Make the split with 'split_by_part' or another split function"
            where = f'{name}: edge_label_index'
            broken.append(Issue('error', where, 'is not there', fix))
    issues = check_graph('train', split.train) + broken
    if broken or check_structure('train', split.train):
        return issues
    if in_range(split.train[INTERACTS].edge_index, node_counts(split.train)):
        issues += _check_parts(split) + _check_negatives(split.train)
        issues += _check_times(split)
    if all(_is_comparable(graph, split.train) for graph in split):
        issues += check_other_edges(split) + _check_coverage(split)
    if not any(issue.level == 'error' for issue in issues):
        issues += check_order('train', split.train)
    return issues


def _is_comparable(graph: HeteroData, train: HeteroData) -> bool:
    """Whether the interactions of a part are among the nodes of training."""
    counts = node_counts(train)
    edges = (graph[INTERACTS].edge_index, graph[INTERACTS].edge_label_index)
    return node_counts(graph) == counts and all(in_range(x, counts) for x in edges)


def _check_parts(split: Split) -> list[Issue]:
    issues, parts = [], {}
    train = SortedPairs(split.train[INTERACTS].edge_index, split.train)
    for name in ('val', 'test'):
        graph = getattr(split, name)
        own, labels = _check_held_out(name, graph, split.train)
        issues += own
        if labels is not None:
            parts[name] = labels
            issues += _check_leaks(name, graph, split.train, labels, train)
    if len(parts) == 2:
        shared = parts['val'].shared(parts['test'])
        if shared.size(1):
            first = pair_name(split.train, *shared[:, 0])
            problem = (
                f'{shared.size(1)} positives of validation are test positives too (the '
                f'first: {first})'
            )
            fix = 'Choices on validation would have seen test: keep each in one part'
            issues.append(Issue('error', 'val and test', problem, fix))
    return issues


def _check_held_out(
    name: str, graph: HeteroData, train: HeteroData
) -> tuple[list[Issue], SortedPairs | None]:
    """Issues of one part, and its positives if they can be compared."""
    if node_counts(graph) != node_counts(train):
        problem = f'has {node_counts(graph)}, training {node_counts(train)}'
        return [Issue('error', name, problem, 'Split one graph, not three')], None
    issues = []
    if not _same_content(graph, train):
        fix = "Share the training graph, as 'split_by_part' does"
        problem = 'has other message edges or features than training'
        issues.append(Issue('error', name, problem, fix))
    labels = graph[INTERACTS].edge_label_index
    where = f'{name}: edge_label_index'
    if labels.size(1) == 0:
        problem, fix = 'contains no positives', 'Skip this part, or hold more out'
        return [*issues, Issue('warning', where, problem, fix)], None
    if not in_range(labels, node_counts(train)):
        problem, fix = 'points outside of the nodes', 'Count nodes from zero'
        return [*issues, Issue('error', where, problem, fix)], None
    pairs = SortedPairs(labels, train)
    repeated = pairs.repeated()
    if repeated.size(1):
        first = pair_name(train, *repeated[:, 0])
        problem = f'contains {repeated.size(1)} repeated pairs (the first: {first})'
        issues.append(Issue('error', where, problem, 'Keep each pair once'))
    return issues, pairs


def _check_leaks(
    name: str,
    graph: HeteroData,
    train: HeteroData,
    labels: SortedPairs,
    train_pairs: SortedPairs,
) -> list[Issue]:
    """Positives among the edges of training, and among those of the part's own graph,
    which the model sees when it ranks.
    """
    issues = []
    groups = {
        'training message edges': train[INTERACTS].edge_index,
        'training reverse edges': train[REV_INTERACTS].edge_index.flip(0),
        'training positives': train[INTERACTS].edge_label_index,
        'own message edges': graph[INTERACTS].edge_index,
        'own reverse edges': graph[REV_INTERACTS].edge_index.flip(0),
    }
    for kind, edges in groups.items():
        is_train = torch.equal(edges, train_pairs.edges)
        pairs = train_pairs if is_train else SortedPairs(edges, train)
        shared = labels.shared(pairs)
        if shared.size(1) and not (is_train and kind.startswith('own')):
            problem = (
                f'{shared.size(1)} positives are among the {kind} (the first: '
                f'{pair_name(train, *shared[:, 0])})'
            )
            fix = 'Remove them from training'
            where = f'{name}: edge_label_index'
            issues.append(Issue('error', where, problem, fix))
    return issues


def _same_content(graph: HeteroData, train: HeteroData) -> bool:
    for edge_type in (INTERACTS, REV_INTERACTS):
        if not torch.equal(graph[edge_type].edge_index, train[edge_type].edge_index):
            return False
    for collect in (modality_x_dict, modality_mask_dict):
        own, expected = collect(graph), collect(train)
        if {k: set(v) for k, v in own.items()} != {
            k: set(v) for k, v in expected.items()
        }:
            return False
        for modality, x_of in own.items():
            for node_type, x in x_of.items():
                other = expected[modality][node_type]
                if x is not other and not torch.equal(x, other):
                    return False
    return True


def _check_negatives(train: HeteroData) -> list[Issue]:
    """Users who have every item: training cannot draw a negative for them."""
    count, num_items = node_counts(train)[USER], node_counts(train)[ITEM]
    user, item = train[INTERACTS].edge_index
    candidates = torch.bincount(user, minlength=count) >= num_items
    if not bool(candidates.any()):
        return []
    chosen = candidates[user]
    distinct = (user[chosen] * num_items + item[chosen]).unique() // num_items
    full = (torch.bincount(distinct, minlength=count) == num_items).nonzero().view(-1)
    if full.numel() == 0:
        return []
    what, have = ('user', 'has') if full.numel() == 1 else ('users', 'have')
    problem = (
        f'{what} {node_names(train, USER, full)} {have} every item ({num_items}), so '
        f'that there is no negative to train with'
    )
    fix = f'Remove the {what}, or add items'
    return [Issue('error', f"train['{USER}']", problem, fix)]


def _check_coverage(split: Split) -> list[Issue]:
    """Nodes in no part, and positives of nodes without training edges."""
    issues = []
    labels = {
        name: x[INTERACTS].edge_label_index for name, x in split._asdict().items()
    }
    edges = split.train[INTERACTS].edge_index
    for side, node_type in enumerate(NODE_TYPES):
        num_nodes = node_counts(split.train)[node_type]
        in_train = torch.bincount(edges[side], minlength=num_nodes) > 0
        known = in_train.clone()
        for positives in labels.values():
            known[positives[side]] = True
        unused = (~known).nonzero().view(-1)
        if unused.numel():
            names = node_names(split.train, node_type, unused)
            problem = (
                f'{unused.numel()} of {num_nodes} are in no interaction of any part '
                f'({names})'
            )
            where = f"train['{node_type}']"
            issues.append(Issue('warning', where, problem, _UNUSED[node_type]))
        for name in ('val', 'test'):
            nodes = labels[name][side]
            cold = nodes[~in_train[nodes]]
            if cold.numel():
                names = node_names(split.train, node_type, cold.unique())
                problem = (
                    f'{cold.numel()} positives are of {node_type}s without training '
                    f'edges ({names})'
                )
                where = f'{name}: edge_label_index'
                issues.append(Issue('warning', where, problem, _COLD[node_type]))
    return issues


_UNUSED = {
    USER: 'Drop them: they only make tables longer',
    ITEM: 'Drop them if they cannot be recommended; each has a place in the ranking',
}
_COLD = {
    USER: 'No model that learns by user can rank for them: leave them out, or expect '
    'lower numbers',
    ITEM: 'Only features can find them: evaluate warm and cold items separately',
}

_UNITS = {'seconds': 1, 'milliseconds': 1e3, 'microseconds': 1e6, 'nanoseconds': 1e9}
_YEAR = 365.25 * 24 * 3600
_EARLIEST = 2 * _YEAR  # Since 1970: smaller numbers are ranks or placeholders.


def _check_times(split: Split) -> list[Issue]:
    """Times that are no plausible dates, where most of them are dates."""
    parts = [g[INTERACTS] for g in split if 'edge_label_time' in g[INTERACTS]]
    if not parts:
        return []
    time = torch.cat([store.edge_label_time for store in parts]).double()
    edges = torch.cat([store.edge_label_index for store in parts], dim=1)
    latest = datetime.datetime.now(datetime.UTC).timestamp() + _YEAR
    unit = _unit_of(float(time.median()), latest)
    issues = []

    def add(chosen: Tensor, what: str, fix: str) -> None:
        first = chosen.nonzero().view(-1)[:1]
        if first.numel():
            pair = pair_name(split.train, *edges[:, first].view(-1))
            problem = (
                f'{int(chosen.sum())} of {time.numel()} times {what} (the first: '
                f'{_time_text(float(time[first]), unit)}, {pair})'
            )
            issues.append(Issue('warning', 'interactions: time', problem, fix))

    fix = 'Correct them or remove these rows: splits by time use them as they are'
    add(time < 0, 'are negative', fix)
    if unit is None:
        return issues
    scale = _UNITS[unit]
    add(time == 0, f'are 0 among {unit} since 1970', fix)
    other_unit = torch.zeros_like(time, dtype=torch.bool)
    for name, other in _UNITS.items():
        if name != unit:
            fits = (time >= _EARLIEST * other) & (time <= latest * other)
            add(
                fits,
                f'are in {name} since 1970 where most are in {unit}',
                'Convert all times to one unit: splits by time compare the numbers',
            )
            other_unit |= fits
    future = (time > latest * scale) & ~other_unit
    add(future, 'are more than a year in the future', fix)
    return issues


def _time_text(value: float, unit: str | None) -> str:
    """A number, and the date that it is."""
    if unit is None:
        return f'{value:.15g}'
    start = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        date = start + datetime.timedelta(seconds=value / _UNITS[unit])
    except OverflowError:
        return f'{value:.15g}'
    return f'{value:.15g}, {date.date()}'


def _unit_of(value: float, latest: float) -> str | None:
    """The unit in which a number since 1970 is a plausible date, if there is one."""
    for unit, scale in _UNITS.items():
        if _EARLIEST * scale <= value <= latest * scale:
            return unit
    return None
