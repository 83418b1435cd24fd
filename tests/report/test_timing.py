import torch

from promptmm_pyg.report.timing import interleaved, latencies
from promptmm_pyg.serving import Recommender


class Clock:
    """Stands still until a call moves it."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def takes(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds

        return call


def test_calls_take_turns_after_one_that_is_not_measured():
    clock = Clock()
    calls = {'a': clock.takes('a', 1.0), 'b': clock.takes('b', 2.0)}
    found = interleaved(calls, repeats=2, budget=1e9, clock=clock)
    assert clock.calls == ['a', 'b'] * 3
    assert found == {'a': [1.0, 1.0], 'b': [2.0, 2.0]}


def test_no_round_begins_after_the_budget_once_there_are_three():
    clock = Clock()
    found = interleaved({'a': clock.takes('a', 1.0)}, budget=5.5, clock=clock)
    assert len(found['a']) == 6
    clock = Clock()
    found = interleaved({'a': clock.takes('a', 9.0)}, budget=1.0, clock=clock)
    assert len(found['a']) == 3


def test_few_users_are_repeated_and_every_model_ranks_the_same(monkeypatch):
    asked = []
    recommend = Recommender.recommend

    def spy(self, users, k):
        asked.append((users, k))
        return recommend(self, users, k)

    monkeypatch.setattr(Recommender, 'recommend', spy)
    x = torch.eye(3)
    one = Recommender(x, x, user_ids=[7, 8, 9], item_ids=[1, 2, 3], seen=None)
    found = latencies({'a': one, 'b': one}, 2, budget=0.0)
    assert [(row.model, row.num_users) for row in found] == [
        ('a', 1),
        ('a', 1024),
        ('b', 1),
        ('b', 1024),
    ]
    assert all(row.repeats == 3 for row in found)
    assert all(0 < row.low <= row.median <= row.high for row in found)
    assert asked[:2] == asked[2:4]
    assert [len(users) for users, _ in asked[:2]] == [1, 1024]
    assert {k for _, k in asked} == {2}


def test_times_are_milliseconds(monkeypatch):
    monkeypatch.setattr(
        'promptmm_pyg.report.timing.interleaved',
        lambda calls, budget: {key: [0.001, 0.002, 0.003] for key in calls},
    )
    x = torch.eye(2)
    one = Recommender(x, x, user_ids=[1, 2], item_ids=[1, 2], seen=None)
    row = latencies({'a': one}, 1)[0]
    assert (row.median, row.low, row.high) == (2.0, 1.0, 3.0)
