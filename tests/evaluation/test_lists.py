"""Metrics beyond accuracy, against PyG, worked examples and their definitions."""

import itertools

import pytest
import torch
from torch_geometric import metrics as pyg
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.evaluation import evaluate, paired_test, slice_by_history
from promptmm_pyg.evaluation.lists import OVERALL, PER_USER, ListMetrics
from promptmm_pyg.evaluation.metrics import positives

KS = (1, 3, 10)


@pytest.fixture(scope='module')
def graph():
    return split_per_user(make_synthetic_dataset(30, 40, 4, seed=0)).val


@pytest.fixture(scope='module')
def result(graph):
    torch.manual_seed(0)
    x_dict = {'user': torch.randn(30, 4), 'item': torch.randn(40, 4)}
    return evaluate(x_dict, graph, ks=KS, metrics=(*PER_USER, *OVERALL))


@pytest.mark.parametrize('k', KS)
def test_the_metrics_of_pyg(result, graph, k):
    count = torch.bincount(graph[INTERACTS].edge_index[1], minlength=40)
    category = torch.arange(40) % 5
    expected = {
        'Coverage': pyg.LinkPredCoverage(k, num_dst_nodes=40),
        'Personalization': pyg.LinkPredPersonalization(k, max_src_nodes=None),
        'AveragePopularity': pyg.LinkPredAveragePopularity(k, count.float()),
    }
    index = result.ranking.item_index
    for name, metric in expected.items():
        metric.update(index, None)
        value = result.metrics[f'{name}@{k}']
        assert value == pytest.approx(float(metric.compute()), abs=1e-5), name
    if k == 1:
        return
    one_hot = HeteroData({'item': {'x_kind': torch.eye(5)[category], 'num_nodes': 40}})
    one_hot[INTERACTS].edge_index = graph[INTERACTS].edge_index
    lists = ListMetrics(index, result.users, (index[:0, 0], index[:0, 0]), one_hot)
    metric = pyg.LinkPredDiversity(k, category)
    metric.update(index, None)
    values = lists.per_user('Diversity', [k])[f'Diversity@{k}']
    assert float(values.mean()) == pytest.approx(float(metric.compute()), abs=1e-5)


def lists_of(rows, train, held_out, num_items, users=None):
    """Lists of given rows, on a graph of given pairs."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 1 + max(x for x, _ in train), 0
    data['item'].num_nodes = num_items
    data[INTERACTS].edge_index = torch.tensor(train).t()
    row, item = torch.tensor(held_out).t()
    users = torch.arange(len(rows)) if users is None else users
    return ListMetrics(torch.tensor(rows), users, (row, item), data)


def test_the_worked_examples_of_rectools():
    """The values are those in the documentation of its metrics."""
    rows = [[0, 1], [1, 2], [2, -1], [1, 2]]
    held_out = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 1), (3, 1)]
    train = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 3)]
    lists = lists_of(rows, train[:5] + [(3, 3)] * 0, held_out, 4)
    lists.users = torch.arange(4)
    first, second = lists.per_user('Serendipity', [1, 2]).values()
    assert first.tolist() == pytest.approx([0, 0.25, 0, 0.25])
    assert second.tolist() == pytest.approx([0, 0.5, 0, 0.125])
    rows, train = [[2, -1], [1, 2], [0, 1]], [(0, 0), (0, 1), (1, 0), (2, 0)]
    lists = lists_of(rows, train, [(0, 0)], 3)
    one, two = lists.per_user('Novelty', [1, 2]).values()
    assert one.tolist() == pytest.approx([1.5849625, 1.5849625, 0])
    assert two.tolist() == pytest.approx([1.5849625, 1.5849625, 0.79248125])


def test_every_metric_from_its_definition(result, graph):
    edges = graph[INTERACTS].edge_index
    count = torch.bincount(edges[1], minlength=40).tolist()
    lists = [row[:3] for row in result.ranking.item_index.tolist()]
    pairs = list(itertools.combinations(range(3), 2))
    x_dict = {k: x for k, x in graph['item'].items() if k.startswith('x_')}
    for row, items in enumerate(lists):
        distances = [
            1 - torch.cosine_similarity(x[items[i]], x[items[j]], dim=0)
            for x in x_dict.values()
            for i, j in pairs
        ]
        value = float(result.per_user['Diversity@3'][row])
        assert value == pytest.approx(float(sum(distances)) / len(distances), abs=1e-5)
    recommended = [sum(item in x for x in lists) for item in range(40)]
    differences = [abs(a - b) for a in recommended for b in recommended]
    gini = sum(differences) / (2 * 40 * sum(recommended))
    assert result.metrics['Gini@3'] == pytest.approx(gini)
    profiles = [
        sum(count[i] for i in edges[1][edges[0] == user].tolist())
        / int((edges[0] == user).sum())
        for user in result.users.tolist()
    ]
    popularity = [sum(count[item] for item in items) / 3 for items in lists]
    lift = sum(popularity) / sum(profiles) - 1
    assert result.metrics['PopularityLift@3'] == pytest.approx(lift)


def test_they_are_selected_by_name(graph, result):
    count = torch.bincount(graph[INTERACTS].edge_index[1], minlength=40).double()
    scores = lambda users: count.expand(users.numel(), 40)  # noqa: E731
    popular = evaluate(scores, graph, ks=(3,), metrics=('Recall', 'Novelty', 'Gini'))
    assert set(popular.metrics) == {'Recall@3', 'Novelty@3', 'Gini@3'}
    assert 'Novelty' in popular.summary()
    assert popular.metrics['Gini@3'] > result.metrics['Gini@3']
    test = paired_test(popular.per_user['Novelty@3'], result.per_user['Novelty@3'])
    assert test.significant
    assert test.difference < 0
    slices = slice_by_history(popular, graph, bounds=(4,))
    users = sum(x.per_user['Novelty@3'].numel() for x in slices.values())
    assert users == popular.users.numel()
    assert len(positives(graph)[0]) > 0
    with pytest.raises(ValueError, match="'metrics' must be one of 'Recall'"):
        evaluate(scores, graph, metrics=('Accuracy',))
    bare = graph.clone()
    for key in [key for key in bare['item'] if key.startswith('x_')]:
        del bare['item'][key]
    with pytest.raises(ValueError, match='without item features'):
        evaluate(scores, bare, ks=(3,), metrics=('Diversity',))
