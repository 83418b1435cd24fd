import pytest
import torch

from promptmm_pyg.data import INTERACTS, load_dataset
from promptmm_pyg.evaluation import evaluate, slice_by_cold_start
from tests.real_data import real_folder

pytestmark = pytest.mark.real_data


@pytest.fixture(scope='module')
def test_graph():
    return load_dataset(real_folder('tiktok')).test


def test_popularity_on_tiktok(test_graph):
    num_items = test_graph['item'].num_nodes
    item = test_graph[INTERACTS].edge_index[1]
    popularity = torch.bincount(item, minlength=num_items).float()
    out = evaluate(lambda users: popularity.expand(users.numel(), -1), test_graph)
    # One test item a user: these agree by definition.
    assert out.users.numel() == test_graph[INTERACTS].edge_label_index.size(1) == 6130
    torch.testing.assert_close(out.per_user['Recall@20'], out.per_user['HitRatio@20'])
    assert out.metrics['Precision@20'] == pytest.approx(out.metrics['Recall@20'] / 20)
    assert out.metrics['MRR@20'] == pytest.approx(out.metrics['MAP@20'])
    # Better than chance, k of the items.
    assert out.metrics['Recall@20'] > 3 * 20 / num_items

    parts = slice_by_cold_start(out, test_graph)
    assert parts['cold'].users.numel() == 449
    assert parts['warm'].users.numel() == 6130 - 449
    assert parts['cold'].metrics['Recall@50'] == 0  # Popularity knows no new item.
