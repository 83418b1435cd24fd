import itertools

import pytest
import torch

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    make_synthetic_dataset,
    split_cold_items,
    split_per_user,
    validate,
)
from promptmm_pyg.data import validate_leaks as leaks

AMONG = (ITEM, 'similar', ITEM)


@pytest.fixture
def split():
    return split_per_user(make_synthetic_dataset(80, 120, 4), 0.2, 0.2)


def pairs_of(edges, side=0):
    """Pairs of nodes with a common neighbor, by a loop."""
    groups = {}
    for pair in edges.t().tolist():
        groups.setdefault(pair[side], set()).add(pair[1 - side])
    return {
        pair for group in groups.values() for pair in itertools.permutations(group, 2)
    }


def as_edges(pairs):
    return torch.tensor(sorted(pairs)).t().contiguous()


def everything(split):
    held = [
        getattr(split, part)[INTERACTS].edge_label_index for part in ('val', 'test')
    ]
    return torch.cat([split.train[INTERACTS].edge_index, *held], dim=1)


def errors(split):
    return [issue for issue in validate(split) if issue.level == 'error']


def with_edges(split, edge_type, edges):
    split.train[edge_type].edge_index = edges
    return split


@pytest.mark.parametrize(('node_type', 'side'), [(ITEM, 0), (USER, 1)])
def test_pairs_with_a_common_neighbor_are_found(split, node_type, side):
    edges = split.train[INTERACTS].edge_index
    counts = {USER: 80, ITEM: 120}
    expected = pairs_of(edges, side)
    every = torch.cartesian_prod(*[torch.arange(counts[node_type])] * 2).t()
    every = every[:, every[0] != every[1]]
    found = leaks._together(every, edges, node_type, counts)
    assert {tuple(x) for x in every[:, found].t().tolist()} == expected


def test_smaller_chunks_give_the_same(split, monkeypatch):
    edges, counts = split.train[INTERACTS].edge_index, {USER: 80, ITEM: 120}
    pairs = torch.randint(120, (2, 500), generator=torch.Generator().manual_seed(0))
    whole = leaks._together(pairs, edges, ITEM, counts)
    monkeypatch.setattr(leaks, '_CHUNK', 7)
    assert torch.equal(leaks._together(pairs, edges, ITEM, counts), whole)
    assert 0 < int(whole.sum()) < 500


def test_a_graph_of_all_interactions_leaks(split):
    edges = as_edges(pairs_of(everything(split)))
    (issue,) = errors(with_edges(split, AMONG, edges))
    new = len(pairs_of(everything(split)) - pairs_of(split.train[INTERACTS].edge_index))
    assert issue.where == "train['item', 'similar', 'item']"
    assert f'joins {new} pairs of items that only held-out' in issue.problem


def test_so_does_one_among_users(split):
    edges = as_edges(pairs_of(everything(split), side=1))
    (issue,) = errors(with_edges(split, (USER, 'knows', USER), edges))
    assert 'pairs of users that only held-out' in issue.problem


def test_a_graph_of_training_does_not_leak(split):
    edges = as_edges(pairs_of(split.train[INTERACTS].edge_index))
    assert errors(with_edges(split, AMONG, edges)) == []


def test_a_graph_of_features_does_not_leak(split):
    x = torch.nn.functional.normalize(split.train[ITEM].x_text, dim=-1)
    near = (x @ x.t()).topk(6).indices
    rows = torch.arange(120).repeat_interleave(6)
    edges = torch.stack([rows, near.view(-1)])
    held = leaks._held_out_alone(edges[:, edges[0] != edges[1]], ITEM, split)
    assert min(held) > 0  # Some of its edges are held-out pairs, by taste.
    assert errors(with_edges(split, AMONG, edges)) == []


def test_few_edges_prove_nothing(split):
    new = pairs_of(everything(split)) - pairs_of(split.train[INTERACTS].edge_index)
    edges = as_edges(sorted(new)[:9])
    assert errors(with_edges(split, AMONG, edges)) == []
    assert errors(with_edges(split, AMONG, as_edges(sorted(new)[:10])))


def test_nothing_is_reported_where_all_items_occur_together():
    # Every pair has a common user if all interactions are known.
    split = split_per_user(make_synthetic_dataset(80, 120, 4), 0.2, 0.2)
    one_user = torch.stack([torch.zeros(120, dtype=torch.long), torch.arange(120)])
    known = set(map(tuple, everything(split).t().tolist()))
    rest = [pair for pair in one_user.t().tolist() if tuple(pair) not in known]
    store = split.val[INTERACTS]
    more = torch.tensor(rest).t()
    store.edge_label_index = torch.cat([store.edge_label_index, more], dim=1)
    assert errors(with_edges(split, AMONG, as_edges(pairs_of(one_user)))) == []


@pytest.mark.parametrize('part', ['val', 'test'])
@pytest.mark.parametrize('edge_type', [(USER, 'views', ITEM), (ITEM, 'seen', USER)])
def test_positives_among_edges_of_another_type_leak(split, part, edge_type):
    labels = getattr(split, part)[INTERACTS].edge_label_index[:, :3]
    edges = labels if edge_type[0] == USER else labels.flip(0)
    (issue,) = errors(with_edges(split, edge_type, edges))
    assert issue.problem == f'contains 3 positives of {part}'
    assert issue.where == f'train{list(edge_type)}'


def test_other_edges_of_training_do_not_leak(split):
    edges = split.train[INTERACTS].edge_index
    assert errors(with_edges(split, (USER, 'views', ITEM), edges)) == []


def test_edges_of_another_type_that_point_outside_are_an_error(split):
    edges = torch.tensor([[0, 1], [1, 120]])
    (issue,) = errors(with_edges(split, AMONG, edges))
    assert 'points outside' in issue.problem


def test_a_graph_that_all_parts_share_is_reported_once(split):
    edges = as_edges(pairs_of(everything(split)))
    for graph in split:
        graph[AMONG].edge_index = edges
    assert len(errors(split)) == 1


def test_edges_of_other_nodes_and_without_an_index_are_ignored(split):
    split.train['tag'].num_nodes = 2
    split.train[ITEM, 'has', 'tag'].edge_index = torch.tensor([[0], [1]])
    split.train[AMONG].weight = torch.ones(3)
    assert errors(split) == []


def problems(split):
    return [str(issue) for issue in validate(split)]


def test_nodes_in_no_part_are_counted():
    split = split_per_user(make_synthetic_dataset(80, 120, 4), 0.2, 0.2)
    known = everything(split)
    for graph in split:
        graph[USER].num_nodes = 83
        graph[ITEM].num_nodes = 120
        del graph[USER]['raw_id']
    found = [
        text for text in problems(split) if 'in no interaction of any part' in text
    ]
    dead = 120 - known[1].unique().numel()
    expected = ["train['user']: 3 of 83 are in no"] + ["train['item']: "] * (dead > 0)
    assert [text[: len(e)] for text, e in zip(found, expected, strict=True)] == expected


def test_positives_of_cold_items_are_counted():
    split = split_cold_items(make_synthetic_dataset(80, 120, 4), 0.2, 0.2)
    labels = split.val[INTERACTS].edge_label_index
    expected = f'val: edge_label_index: {labels.size(1)} positives are of items without'
    assert any(text.startswith(expected) for text in problems(split))
