import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS, REV_INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.report.gather import missing_rows, slice_by_missing


def graph():
    """Items 0 and 1 lack the image, 1 and 2 the text; 3 has both."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 5
    data['item'].x_image = torch.tensor([[0.0], [0.0], [-1.0], [1.0], [1.0]])
    data['item'].x_text = torch.ones(5, 2)
    data['item'].mask_text = torch.tensor([True, False, False, True, True])
    data[INTERACTS].edge_index = torch.tensor([[0, 1, 2], [4, 4, 4]])
    data[REV_INTERACTS].edge_index = torch.tensor([[4, 4, 4], [0, 1, 2]])
    data[INTERACTS].edge_label_index = torch.tensor([[0, 0, 1, 2], [0, 3, 1, 2]])
    return data


def evaluation(data):
    scores = torch.tensor(
        [
            [4.0, 3.0, 2.0, -1.0, 0.0],  # Finds 0 first, 3 last.
            [-1.0, -2.0, 3.0, 2.0, 0.0],  # Finds 1 last.
            [1.0, 2.0, 5.0, 0.0, 0.0],  # Finds 2 first.
        ]
    )
    return evaluate(lambda users: scores[users], data, ks=[1, 2])


def test_an_item_lacks_what_is_masked_or_zero():
    found = missing_rows(graph())
    assert found['image'].tolist() == [True, True, False, False, False]
    assert found['text'].tolist() == [False, True, True, False, False]


def test_a_row_of_zeros_counts_in_spite_of_its_mask():
    data = graph()
    data['item'].mask_image = torch.tensor([True, True, False, True, True])
    assert missing_rows(data)['image'].tolist() == [True, True, True, False, False]


def test_each_slice_holds_the_positives_that_lack_the_modality():
    data = graph()
    found = slice_by_missing(evaluation(data), data)
    assert list(found) == ['has every modality', 'lacks image', 'lacks text']
    assert found['has every modality'].users.tolist() == [0]
    assert found['has every modality'].per_user['Recall@1'].tolist() == [0.0]
    assert found['lacks image'].users.tolist() == [0, 1]
    assert found['lacks image'].per_user['Recall@1'].tolist() == [1.0, 0.0]
    assert found['lacks text'].users.tolist() == [1, 2]
    assert found['lacks text'].per_user['Recall@2'].tolist() == [0.0, 1.0]


def test_where_nothing_is_missing_the_slice_is_the_whole():
    data = graph()
    del data['item'].mask_text
    data['item'].x_image = torch.ones(5, 1)
    whole = evaluation(data)
    found = slice_by_missing(whole, data)
    assert list(found) == ['has every modality']
    assert found['has every modality'].metrics == whole.metrics


def test_features_of_users_do_not_count():
    data = graph()
    data['user'].x_age = torch.zeros(3, 1)
    assert 'age' not in missing_rows(data)
