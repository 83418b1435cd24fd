"""The stages of a budget, with a clock of the test."""

import time
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from promptmm_pyg.auto.budget import Budget
from promptmm_pyg.auto.workers import Task, Watch, Workers, collect, processes


def test_stages_end_in_order_and_the_reserve_has_limits():
    now = [1000.0]
    budget = Budget(10, used=60, clock=lambda: now[0])
    assert (budget.used, budget.left) == (60, 540)
    assert budget.tuned_until == 940 + 60
    assert budget.closed_forms_end == 940 + 180
    now[0] += 100
    for seconds, reserve in ((1, 60), (130, 130), (1e6, 240)):
        budget.set_reserve(seconds)
        assert budget.search_end == 940 + 600 - reserve
    assert budget.left == 440
    with pytest.raises(ValueError, match="'minutes' must be positive"):
        Budget(0)


@pytest.mark.parametrize(
    ('seconds', 'deadline', 'ends'),
    [(25, 1000, 3), (1000, 45, 4), (1000, 1000, None), (0, 1000, 1)],
)
def test_a_training_ends_after_its_seconds_or_before_an_epoch_that_is_too_long(
    seconds, deadline, ends
):
    now = [0.0]
    stop = SimpleNamespace(is_set=lambda: False)
    with patch.object(time, 'time', lambda: now[0]):
        watch = Watch(seconds, deadline, stop)
        for epoch in range(1, 8):
            now[0] += 10  # At 45, an epoch that begins at 40 would end too late.
            if watch.on_epoch('', {}):
                assert epoch == ends
                break
        else:
            assert ends is None
        stop.is_set = lambda: True
        assert watch.check()


def _work(folder, watch, kind):
    if kind == 'late':
        time.sleep(60)
    if kind == 'fails':
        raise ValueError('no such thing')
    return {'value': 1.0, 'stopped': watch.check()}


def test_processes_report_results_failures_and_lateness(tmp_path):
    workers = Workers(3, 1, 'cpu')
    end = time.time() + 30
    tasks = [
        Task(kind, _work, tmp_path / kind, (kind,), 0.0, end)
        for kind in ('ends', 'fails', 'late')
    ]
    tasks[2].deadline = time.time() - 2.5  # It is ended in half a second.
    for task in tasks:
        workers.start(task)
    results = collect(workers, [])
    assert results['ends']['value'] == 1.0
    assert results['ends']['stopped'] is True
    assert results['fails']['error'] == 'no such thing'
    assert 'no epoch within' in results['late']['error']


def test_processes_share_cores_and_memory():
    assert processes(None, 2, 10, 1000) == (2, 1)
    assert processes(None, 16, 300, 1000) == (3, 5)
    assert processes(None, 4, 5000, 1000) == (1, 4)
    assert processes(8, 4, 5000, 1000) == (8, 1)
