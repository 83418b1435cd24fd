import numpy as np
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS
from promptmm_pyg.report.examples import examples
from promptmm_pyg.serving import Recommender


def recommender(seen, num_users=4, num_items=6):
    generator = torch.Generator().manual_seed(0)
    return Recommender(
        torch.randn(num_users, 3, generator=generator),
        torch.randn(num_items, 3, generator=generator),
        user_ids=[f'u{n}' for n in range(num_users)],
        item_ids=[10 * n for n in range(num_items)],
        seen=torch.tensor(seen).t() if seen else None,
        titles={10: 'Ten'},
    )


SEEN = [(0, 1), (1, 0), (1, 1), (1, 2), (3, 4), (3, 5)]


def test_users_are_chosen_by_the_length_of_their_history():
    found = examples(recommender(SEEN), None, k=2)
    assert [(one.user, one.history_length) for one in found] == [
        ('u1', 3),
        ('u3', 2),
        ('u0', 1),
    ]


def test_items_are_those_that_the_recommender_says():
    model = recommender(SEEN)
    for one in examples(model, None, k=3):
        lists = model.recommend(one.user, 3)
        assert [item.raw_id for item in one.items] == [str(x) for x in lists.ids]
        assert [item.score for item in one.items] == lists.scores.tolist()


def test_titles_stand_where_they_are_known():
    history = examples(recommender(SEEN), None)[0].history
    assert [(item.raw_id, item.title) for item in history] == [
        ('0', None),
        ('10', 'Ten'),
        ('20', None),
    ]


def test_what_validation_asks_for_is_marked():
    val = HeteroData()
    val['user'].num_nodes, val['item'].num_nodes = 4, 6
    val['item'].raw_id = np.array([10 * n for n in range(6)])
    val[INTERACTS].edge_label_index = torch.tensor([[1, 1, 0], [3, 5, 4]])
    one = examples(recommender(SEEN), val, k=6)[0]
    assert {item.raw_id for item in one.items if item.held_out} == {'30', '50'}


def test_a_long_history_is_cut_and_counted():
    one = examples(recommender(SEEN), None, shown=2)[0]
    assert (len(one.history), one.history_length) == (2, 3)


def test_a_list_ends_where_everything_is_seen():
    one = examples(recommender([(0, n) for n in range(5)]), None, k=5)[0]
    assert [item.raw_id for item in one.items] == ['50']


def test_one_user_is_shown_once_and_nobody_without_history():
    assert len(examples(recommender([(2, 0)]), None)) == 1
    assert len(examples(recommender([(2, 0), (0, 1)]), None)) == 2
    assert examples(recommender([]), None) == []
