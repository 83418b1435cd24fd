import numpy as np
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS
from promptmm_pyg.report.served import examples, interleaved, latencies
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
    results = examples(recommender(SEEN), None, k=2)
    assert [(one.user, one.history_length) for one in results] == [
        ('u1', 3),
        ('u3', 2),
        ('u0', 1),
    ]


def test_items_are_those_of_the_recommender():
    model = recommender(SEEN)
    for one in examples(model, None, k=3):
        lists = model.recommend(one.user, 3)
        assert [item.raw_id for item in one.items] == [str(x) for x in lists.ids]
        assert [item.score for item in one.items] == lists.scores.tolist()


def test_known_titles_are_shown():
    history = examples(recommender(SEEN), None)[0].history
    assert [(item.raw_id, item.title) for item in history] == [
        ('0', None),
        ('10', 'Ten'),
        ('20', None),
    ]


def test_validation_positives_are_marked():
    val = HeteroData()
    val['user'].num_nodes, val['item'].num_nodes = 4, 6
    val['item'].raw_id = np.array([10 * n for n in range(6)])
    val[INTERACTS].edge_index = torch.tensor(SEEN).t()
    val[INTERACTS].edge_label_index = torch.tensor([[1, 1, 0], [3, 5, 4]])
    # Serving leaves out all that is known, the report only training items.
    one = examples(recommender([*SEEN, (1, 3), (1, 5)]), val, k=6)[0]
    assert [item.raw_id for item in one.history] == ['0', '10', '20']
    assert {item.raw_id for item in one.items} == {'30', '40', '50'}
    assert {item.raw_id for item in one.items if item.held_out} == {'30', '50'}


def test_a_long_history_is_truncated_and_counted():
    one = examples(recommender(SEEN), None, shown=2)[0]
    assert (len(one.history), one.history_length) == (2, 3)


def test_a_list_ends_when_all_items_are_seen():
    one = examples(recommender([(0, n) for n in range(5)]), None, k=5)[0]
    assert [item.raw_id for item in one.items] == ['50']


def test_a_user_is_shown_once_and_only_with_a_history():
    assert len(examples(recommender([(2, 0)]), None)) == 1
    assert len(examples(recommender([(2, 0), (0, 1)]), None)) == 2
    assert examples(recommender([]), None) == []


class Clock:
    """Advances only by calls."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def call_of(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds

        return call


def test_calls_take_turns_after_a_warm_up():
    clock = Clock()
    calls = {'a': clock.call_of('a', 1.0), 'b': clock.call_of('b', 2.0)}
    results = interleaved(calls, repeats=2, budget=1e9, clock=clock)
    assert clock.calls == ['a', 'b'] * 3
    assert results == {'a': [1.0, 1.0], 'b': [2.0, 2.0]}


def test_no_round_begins_after_the_budget_once_there_are_three():
    clock = Clock()
    results = interleaved({'a': clock.call_of('a', 1.0)}, budget=5.5, clock=clock)
    assert len(results['a']) == 6
    clock = Clock()
    results = interleaved({'a': clock.call_of('a', 9.0)}, budget=1.0, clock=clock)
    assert len(results['a']) == 3


def test_few_users_are_repeated_and_all_models_get_the_same_users(monkeypatch):
    queried = []
    recommend = Recommender.recommend

    def spy(self, users, k):
        queried.append((users, k))
        return recommend(self, users, k)

    monkeypatch.setattr(Recommender, 'recommend', spy)
    x = torch.eye(3)
    one = Recommender(x, x, user_ids=[7, 8, 9], item_ids=[1, 2, 3], seen=None)
    results = latencies({'a': one, 'b': one}, 2, budget=0.0)
    assert [(row.model, row.num_users) for row in results] == [
        ('a', 1),
        ('a', 1024),
        ('b', 1),
        ('b', 1024),
    ]
    assert all(row.repeats == 3 for row in results)
    assert all(0 < row.low <= row.median <= row.high for row in results)
    assert queried[:2] == queried[2:4]
    assert [len(users) for users, _ in queried[:2]] == [1, 1024]
    assert {k for _, k in queried} == {2}


def test_times_are_milliseconds(monkeypatch):
    monkeypatch.setattr(
        'promptmm_pyg.report.served.interleaved',
        lambda calls, budget: {key: [0.001, 0.002, 0.003] for key in calls},
    )
    x = torch.eye(2)
    one = Recommender(x, x, user_ids=[1, 2], item_ids=[1, 2], seen=None)
    row = latencies({'a': one}, 1)[0]
    assert (row.median, row.low, row.high) == (2.0, 1.0, 3.0)
