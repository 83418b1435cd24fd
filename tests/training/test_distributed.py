"""Two real processes against one."""

import shutil
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from promptmm_pyg.losses import info_nce_loss
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.nn import Shards
from promptmm_pyg.training import process_group
from tests.training import processes

ALIKE = [function.__name__ for function in processes.ALIKE]


@pytest.fixture(scope='module')
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp('several')
    return processes.spawn([*processes.ALIKE, *processes.APART], folder / 'group')


@pytest.fixture(scope='module')
def saved(several, tmp_path_factory):
    return tmp_path_factory.getbasetemp() / 'several0' / 'group' / 'sharded' / 'tables'


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    torch.set_num_threads(1)
    return processes.run(processes.ALIKE, tmp_path_factory.mktemp('one'))


@pytest.mark.parametrize('name', ALIKE)
def test_two_processes_equal_one_for_per_example_losses(one, several, name):
    exact = name == 'evaluation'
    tolerance = {'rtol': 0, 'atol': 0} if exact else {'rtol': 1e-9, 'atol': 1e-11}
    for results in several:
        torch.testing.assert_close(results[name], one[name], **tolerance)


@pytest.mark.parametrize('name', [*ALIKE, 'papers_losses'])
def test_processes_agree_bit_by_bit(several, name):
    first, second = (results[name] for results in several)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_resumed_group_equals_an_uninterrupted_one(several):
    first = several[0]
    torch.testing.assert_close(first['resumed'], first['papers_losses'], rtol=0, atol=0)


@pytest.fixture(scope='module')
def files(several):
    return [results['sharded_files'] for results in several]


def test_sharded_training_resumes_and_every_process_has_half_of_the_rows(files):
    for result in files:
        torch.testing.assert_close(
            result['resumed'], result['uninterrupted'], rtol=0, atol=0
        )
        assert result['rows'] == {'user': 30, 'item': 20}


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize(
    ('call', 'message'),
    [
        ('ids', "IndexError: 'n_id_dict['user']' must have ids from 0 to 59 (got 0 to"),
        ('losses', "ValueError: 'losses' must use the rows of the batch only"),
        ('start', "ValueError: 'start' must be 'random' or 'teacher tables'"),
        ('num_nodes_dict', "ValueError: 'num_nodes_dict' must be the same in all"),
        ('memory', "ValueError: 'num_nodes_dict' (500,000,000,001 rows of width 32"),
    ],
)
def test_what_sharded_tables_do_not_support_is_an_error(files, rank, call, message):
    assert files[rank]['errors'][call].startswith(message)


def test_shards_are_merged_into_ordinary_tables(several, saved, files):
    tables = files[0]['resumed']['tables']
    model = MatrixFactorization({'user': 60, 'item': 40}, embedding_dim=4).double()
    model.embeddings.load_shards(saved)
    torch.testing.assert_close(model(), tables, rtol=0, atol=0, check_dtype=False)
    shards = Shards.open(saved)
    starts = [start for start, _ in shards]
    assert starts == [{'user': 0, 'item': 0}, {'user': 30, 'item': 20}]
    wide = MatrixFactorization({'user': 60, 'item': 40}, embedding_dim=5)
    with pytest.raises(ValueError, match=r'width 5 .got .* of width 4'):
        wide.embeddings.load_shards(saved)


def test_missing_and_foreign_shards_are_refused_before_they_are_read(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / 'copy')
    second = sorted(copy.glob('*.safetensors'))[1]
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(ValueError, match=r"all 2 shards .* .got 1 in .*, without \['"):
        Shards.open(copy)
    run = Shards.open(saved).run
    second.write_bytes(content.replace(run.encode(), b'f' * len(run)))
    with pytest.raises(ValueError, match=rf"one run, {run} .got .1: '{'f' * 12}'"):
        Shards.open(copy)
    with pytest.raises(FileNotFoundError, match='saved shards'):
        Shards.open(tmp_path)


def test_in_batch_losses_see_their_shard_and_gradients_are_weighted_by_its_size(
    several,
):
    shards, grads, starts = zip(
        *(results['shards_of_in_batch_losses'] for results in several), strict=True
    )
    # 65 examples: a shard of 32 and one of 33.
    assert [shard[0].numel() for shard in shards] == [32, 33]
    x = {key: value.requires_grad_() for key, value in starts[0].items()}
    total = sum(
        len(user)
        / 65
        * info_nce_loss(x['user'][user], x['item'][positive], temperature=0.5)
        for user, positive, _ in shards
    )
    expected = torch.autograd.grad(total, [x['user'], x['item']])
    for grad in grads:
        torch.testing.assert_close(grad, list(expected))


def test_each_process_samples_the_neighborhoods_of_its_shard(several):
    first, second = (results['neighborhoods_of_shards'] for results in several)
    # Of batches of 64, but for the last.
    assert first[:-1] == second[:-1] == [32] * (len(first) - 1)
    assert abs(first[-1] - second[-1]) <= 1


def test_sparse_gradients_are_averaged_row_by_row(several):
    (first, _), (second, _) = (results['sparse_averages'] for results in several)
    for results in several:
        means = results['sparse_averages'][1]
        for name, grad in means.items():
            expected = (first[name] + second[name]) / 2
            torch.testing.assert_close(grad.to_dense(), expected.to(grad.dtype))
            assert grad.is_sparse == (name != 'dense')
        assert means['rows'].indices().tolist() == [[0, 2, 3]]


def test_every_process_starts_as_rank_0(one, several):
    for results in several:
        torch.testing.assert_close(
            results['other_start'], one['light_gcn'], rtol=1e-9, atol=1e-11
        )


def test_only_rank_0_writes(several):
    assert [results['written'] for results in several] == [(3, 3), (0, 3)]


def test_a_callback_of_rank_0_ends_the_training_of_all(several):
    assert [results['stopped'] for results in several] == [2, 2]


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize(
    ('given', 'named'),
    [
        ('seed', 'seed'),
        ('train', 'train'),
        ('val', 'val'),
        ('features', 'text features of item'),
        ('weights', 'loss_weights'),
        ('batch_size', 'batch_size'),
        ('learning_rate', 'config'),
        ('width', 'module'),
        ('run_dir', 'config'),
        ('targets', 'teacher'),
    ],
)
def test_processes_with_different_arguments_are_an_error(several, rank, given, named):
    assert several[rank]['disagreements'][given].startswith(
        f"ValueError: '{named}' must be the same in all processes (got another one "
        f'at ranks [1] than at rank 0). Use'
    )


@pytest.mark.parametrize('rank', [0, 1])
def test_an_error_of_rank_0_is_raised_everywhere(several, rank):
    error = several[rank]['disagreements']['resume']
    assert error.startswith("FileNotFoundError: 'path' must be a saved training state")


@pytest.mark.parametrize('rank', [0, 1])
def test_a_loss_that_is_not_finite_at_one_rank_stops_all(several, rank):
    error = several[rank]['losses_that_are_not_finite']
    assert error.startswith("FloatingPointError: 'loss' must be finite (got nan")


def test_an_error_in_one_shard_of_an_evaluation_stops_all(several):
    first, second = (results['scores_of_one_shard'] for results in several)
    assert first.startswith('RuntimeError: other processes failed (1: ValueError(')
    assert second.startswith('ValueError: ')


def test_no_process_waits_for_one_that_died(tmp_path):
    first, second = processes.spawn([processes.one_dies], tmp_path / 'group')
    assert second['one_dies'] == 'ArithmeticError: rank 1 gives up'
    assert first['one_dies'].startswith(('RuntimeError', 'Dist'))


def test_a_group_of_the_caller_is_used_and_stays(several):
    assert several[1]['group_of_the_caller'] == (device_type(), True)


def device_type():
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def test_without_torchrun_there_is_no_group():
    with process_group() as device:
        assert device.type == device_type()
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
