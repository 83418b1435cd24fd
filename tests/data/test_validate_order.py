import numpy as np
import pytest
import torch

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    make_synthetic_dataset,
    split_per_user,
    validate,
)
from promptmm_pyg.data.validate_leaks import _how_alike, _pairs_of_users

TOLD = 'is no more alike for two items of one user than for any two'


@pytest.fixture(scope='module')
def graph():
    return make_synthetic_dataset(1500, 400, 8)


def told(graph):
    found = validate(split_per_user(graph, 0.1, 0.1))
    return {finding.where for finding in found if finding.problem == TOLD}


def changed(graph, **features):
    graph = graph.clone()
    for name, value in features.items():
        graph[ITEM][name] = value
    return graph


def shuffled(x):
    return x[torch.randperm(x.size(0), generator=torch.Generator().manual_seed(1))]


def test_features_of_the_items_are_fine(graph):
    assert told(graph) == set()


def test_rows_in_another_order_are_told_of(graph):
    other = changed(graph, x_text=shuffled(graph[ITEM].x_text))
    assert told(other) == {"train['item'].x_text"}


def test_rows_that_are_missing_are_left_out(graph):
    pairs = _pairs_of_users(graph[INTERACTS].edge_index)
    x, there = graph[ITEM].x_text, torch.arange(400) % 2 == 0
    other = torch.where(there.unsqueeze(1), x, 99.0)
    assert _how_alike(other, there, pairs) == _how_alike(x, there, pairs)
    assert _how_alike(other, None, pairs) != _how_alike(x, None, pairs)
    assert _how_alike(x, torch.zeros(400, dtype=torch.bool), pairs) is None


def test_half_precision_is_read(graph):
    assert told(changed(graph, x_text=graph[ITEM].x_text.half())) == set()


def test_few_interactions_tell_nothing():
    small = make_synthetic_dataset(40, 60, 4)
    assert told(changed(small, x_text=shuffled(small[ITEM].x_text))) == set()


def test_constant_features_are_not_taken_for_shuffled(graph):
    assert told(changed(graph, x_text=torch.ones(400, 3))) == set()


def test_pairs_are_items_of_one_user():
    edges = torch.tensor([[0, 1, 0, 2, 1, 1], [5, 6, 7, 8, 9, 10]])
    pairs = {tuple(sorted(pair)) for pair in _pairs_of_users(edges).t().tolist()}
    assert (5, 7) in pairs
    assert len(pairs) == 3
    assert all(set(pair) <= {5, 7} or set(pair) <= {6, 9, 10} for pair in pairs)


def test_ids_that_differ_in_spaces_or_case_are_told_of():
    graph = make_synthetic_dataset(40, 60, 4)
    ids = graph[ITEM].raw_id.astype(object)
    ids[:3] = ['A7', 'a7', ' a7']
    graph[ITEM].raw_id = np.array(ids.tolist())
    problems = [finding.problem for finding in validate(graph)]
    assert '2 ids differ from another in spaces or case only' in problems
    assert not any(
        'differ from' in x.problem for x in validate(make_synthetic_dataset(40, 60, 4))
    )
