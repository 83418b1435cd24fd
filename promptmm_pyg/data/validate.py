"""Checks of a graph or a split before it is trained on."""

import warnings

import torch
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
    check_graph,
    check_structure,
    in_range,
    keys,
    node_counts,
)
from promptmm_pyg.data.validate_leaks import check_order, check_other_edges


def validate(data: HeteroData | Split, raise_on_error: bool = False) -> list[Issue]:
    """Returns all that is wrong with a graph or a split, errors first; an empty
    list is a good answer.

    Errors are what makes results wrong: a broken schema, indices out of range,
    repeated edges, reverse edges that do not mirror the interactions, features
    with NaN, infinity or the wrong number of rows and, in a split, any positive
    of validation or test that training can see, also through edges of other types
    and through graphs among items (or users) that were made of who took what:
    those whose every edge joins what some interaction brings together, held-out
    ones included. Warnings are what is often an accident: users or items without
    training edges or in no part at all, raw ids that differ in spaces or case
    only, zero, repeated or constant features, and features that are no more alike
    for two items of one user than for any two, as rows in another order are.

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
            raise ValueError("'data' must be mended:\n- " + '\n- '.join(errors))
        for issue in issues:
            warnings.warn(str(issue), stacklevel=2)
    return issues


def check_split(split: Split) -> list[Issue]:
    """All findings on a split; on leaks once all graphs have their parts."""
    broken = [*check_structure('val', split.val), *check_structure('test', split.test)]
    for name, graph in split._asdict().items():
        if INTERACTS in graph.edge_types and 'edge_label_index' not in graph[INTERACTS]:
            fix = "Make the split with 'split_by_part' or its neighbours"
            where = f'{name}: edge_label_index'
            broken.append(Issue('error', where, 'is not there', fix))
    found = check_graph('train', split.train) + broken
    if not broken and not check_structure('train', split.train):
        for name in ('val', 'test'):
            found += _check_held_out(name, getattr(split, name), split.train)
        found += _check_overlap(split)
        if not any(finding.level == 'error' for finding in found):
            found += check_other_edges(split) + _check_dead(split)
            found += check_order('train', split.train)
    return found


def _check_held_out(name: str, graph: HeteroData, train: HeteroData) -> list[Issue]:
    if node_counts(graph) != node_counts(train):
        problem = f'has {node_counts(graph)}, training {node_counts(train)}'
        return [Issue('error', name, problem, 'Split one graph, not three')]
    found = []
    if not _same_content(graph, train):
        fix = 'Share the training graph: see split_by_part'
        problem = 'has other message edges or features than training'
        found.append(Issue('error', name, problem, fix))
    labels = graph[INTERACTS].edge_label_index
    where = f'{name}: edge_label_index'
    if labels.size(1) == 0:
        problem, fix = 'holds no positives', 'Skip this part, or hold more out'
        return [*found, Issue('warning', where, problem, fix)]
    if not in_range(labels, node_counts(train)):
        problem, fix = 'points outside of the nodes', 'Count nodes from zero'
        return [*found, Issue('error', where, problem, fix)]
    key = keys(labels, train)
    if key.unique().numel() < key.numel():
        problem, fix = 'holds repeated pairs', 'Keep each pair once'
        found.append(Issue('error', where, problem, fix))
    # The graph's own edges too: they are what the model sees when it ranks.
    for kind, edges in {
        'training message edges': train[INTERACTS].edge_index,
        'training reverse edges': train[REV_INTERACTS].edge_index.flip(0),
        'training positives': train[INTERACTS].edge_label_index,
        'own message edges': graph[INTERACTS].edge_index,
        'own reverse edges': graph[REV_INTERACTS].edge_index.flip(0),
    }.items():
        leaked = int(torch.isin(key, keys(edges, train)).sum())
        if leaked:
            problem = f'{leaked} positives are among the {kind}'
            found.append(Issue('error', where, problem, 'Take them out of training'))
    return found


def _same_content(graph: HeteroData, train: HeteroData) -> bool:
    for edge_type in (INTERACTS, REV_INTERACTS):
        if not torch.equal(graph[edge_type].edge_index, train[edge_type].edge_index):
            return False
    for collect in (modality_x_dict, modality_mask_dict):
        mine, theirs = collect(graph), collect(train)
        if {k: set(v) for k, v in mine.items()} != {
            k: set(v) for k, v in theirs.items()
        }:
            return False
        for modality, x_of in mine.items():
            for node_type, x in x_of.items():
                other = theirs[modality][node_type]
                if x is not other and not torch.equal(x, other):
                    return False
    return True


def _check_overlap(split: Split) -> list[Issue]:
    val, test = (keys(g[INTERACTS].edge_label_index, split.train) for g in split[1:])
    shared = int(torch.isin(val, test).sum())
    if not shared:
        return []
    problem = f'{shared} positives of validation are test positives too'
    fix = 'Whatever is chosen on validation has seen them: keep them in one part'
    return [Issue('error', 'val and test', problem, fix)]


def _check_dead(split: Split) -> list[Issue]:
    """Nodes that no part knows, and positives of nodes that training does not know."""
    found = []
    labels = {name: graph[INTERACTS].edge_label_index for name, graph in _parts(split)}
    train = split.train[INTERACTS].edge_index
    for side, node_type in enumerate(NODE_TYPES):
        num_nodes = node_counts(split.train)[node_type]
        every = torch.cat([train[side], *(x[side] for x in labels.values())])
        dead = num_nodes - every.unique().numel()
        if dead:
            problem = f'{dead} of {num_nodes} are in no interaction of any part'
            where = f"train['{node_type}']"
            found.append(Issue('warning', where, problem, _DEAD[node_type]))
        for name in ('val', 'test'):
            cold = int((~torch.isin(labels[name][side], train[side])).sum())
            if cold:
                problem = f'{cold} positives are of {node_type}s without training edges'
                where = f'{name}: edge_label_index'
                found.append(Issue('warning', where, problem, _COLD[node_type]))
    return found


def _parts(split: Split) -> list[tuple[str, HeteroData]]:
    return list(split._asdict().items())


_DEAD = {
    USER: 'Drop them: they only make tables longer',
    ITEM: 'Drop them if they cannot be recommended; each takes a place in the ranking',
}
_COLD = {
    USER: 'No model that learns by user can rank for them: leave them out, or expect '
    'lower numbers',
    ITEM: 'Only features can find them: look at warm and cold items apart',
}
