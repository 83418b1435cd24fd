"""Several processes against one."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from promptmm_pyg.training import process_group
from tests.training import processes

ALIKE = [function.__name__ for function in processes.ALIKE]


@pytest.fixture(scope='module')
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp('several')
    return processes.spawn([*processes.ALIKE, *processes.APART], folder / 'group')


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    torch.set_num_threads(1)
    return processes.run(processes.ALIKE, tmp_path_factory.mktemp('one'))


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize(
    'name', [n for n in ALIKE if n not in ('float32', 'evaluation')]
)
def test_two_processes_train_what_one_trains(one, several, name, rank):
    torch.testing.assert_close(several[rank][name], one[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('rank', [0, 1])
def test_two_processes_train_what_one_trains_in_float32(one, several, rank):
    name = 'float32'
    torch.testing.assert_close(several[rank][name], one[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ALIKE)
def test_processes_agree_bit_by_bit(several, name):
    first, second = (results[name] for results in several)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize('rank', [0, 1])
def test_two_processes_rank_and_measure_exactly_what_one_does(one, several, rank):
    name = 'evaluation'
    torch.testing.assert_close(several[rank][name], one[name], rtol=0, atol=0)


def test_a_resumed_group_equals_an_uninterrupted_one(several):
    first = several[0]
    torch.testing.assert_close(first['resumed'], first['frozen'], rtol=0, atol=0)


@pytest.mark.parametrize('rank', [0, 1])
def test_every_process_starts_where_rank_0_does(one, several, rank):
    torch.testing.assert_close(
        several[rank]['other_start'], one['light_gcn'], rtol=1e-9, atol=1e-11
    )


def test_rank_0_alone_writes(several):
    assert [results['written'] for results in several] == [(3, 3), (0, 3)]


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize(
    ('given', 'named'),
    [
        ('seed', 'seed'),
        ('train', 'train'),
        ('weights', 'weights'),
        ('batch_size', 'batch_size'),
        ('width', 'module'),
        ('run_dir', 'schedule'),
        ('targets', 'teacher'),
    ],
)
def test_processes_that_are_called_differently_are_refused(several, rank, given, named):
    assert several[rank]['disagreements'][given].startswith(
        f"ValueError: '{named}' must be the same in all processes (got another one "
        f'at ranks [1] than at rank 0). Make it of'
    )


@pytest.mark.parametrize('rank', [0, 1])
def test_an_error_of_rank_0_is_raised_everywhere(several, rank):
    error = several[rank]['disagreements']['resume']
    assert error.startswith("FileNotFoundError: 'path' must be a saved state")


@pytest.mark.parametrize('rank', [0, 1])
def test_a_loss_that_is_not_finite_at_one_rank_stops_all(several, rank):
    error = several[rank]['losses_that_are_not_finite']
    assert error.startswith("FloatingPointError: 'loss' must be finite (got nan")


def test_an_error_in_one_part_of_an_evaluation_stops_all(several):
    first, second = (results['scores_of_one_part'] for results in several)
    assert first.startswith('RuntimeError: other processes failed (1: ValueError(')
    assert second.startswith('ValueError: ')


def test_no_process_waits_for_one_that_died(tmp_path):
    first, second = processes.spawn([processes.one_dies], tmp_path / 'group')
    assert second['one_dies'] == 'ArithmeticError: rank 1 gives up'
    assert first['one_dies'].startswith('RuntimeError') or first['one_dies'].startswith(
        'Dist'
    )


def dense(grad):
    return grad.to_dense() if grad is not None and grad.is_sparse else grad


@pytest.mark.parametrize('rank', [0, 1])
def test_gradients_of_every_kind_are_summed(several, rank):
    (first, _), (second, _) = (results['gradients'] for results in several)
    all_reduce_sum = several[rank]['gradients'][1]
    for name, grad in all_reduce_sum.items():
        parts = [dense(x[name]) for x in (first, second) if x[name] is not None]
        if not parts:
            assert grad is None, name
        else:
            torch.testing.assert_close(dense(grad), sum(parts))


def test_gradients_of_rows_stay_sparse_unless_another_is_dense(several):
    all_reduce_sum = several[0]['gradients'][1]
    sparse = {
        name
        for name, grad in all_reduce_sum.items()
        if grad is not None and grad.is_sparse
    }
    assert sparse == {'rows', 'no rows'}
    assert all_reduce_sum['rows'].indices().tolist() == [[0, 2, 3]]


def test_a_group_of_the_caller_is_used_and_stays(several):
    assert several[1]['group_of_the_caller'] == (torch.device(where()).type, True)


def where():
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def test_without_torchrun_there_is_no_group():
    with process_group() as device:
        assert device.type == where()
        assert not dist.is_initialized()


@pytest.fixture
def started(monkeypatch):
    """What ``torchrun`` sets, and what is called in place of a group."""
    calls = []
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setattr(
        dist, 'init_process_group', lambda *args, **kwargs: calls.append((args, kwargs))
    )
    monkeypatch.setattr(dist, 'destroy_process_group', lambda: calls.append('left'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    return calls


def test_the_group_is_left_in_the_end(started):
    with process_group(timedelta(seconds=7)) as device:
        assert started == [(('gloo',), {'timeout': timedelta(seconds=7)})]
    assert started[1:] == ['left']
    assert device == torch.device('cpu')


def test_the_group_is_left_after_an_error(started):
    with pytest.raises(KeyError), process_group():
        raise KeyError
    assert started[1:] == ['left']


def test_every_process_has_a_gpu_of_its_own(started, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    with process_group() as device:
        assert device == torch.device('cuda', 1)
    assert chosen == [1]
    assert started[0][0] == ('cpu:gloo,cuda:nccl',)
    monkeypatch.setenv('LOCAL_RANK', '2')
    with (
        pytest.raises(ValueError, match="'LOCAL_RANK' must be below the number"),
        process_group(),
    ):
        pass
