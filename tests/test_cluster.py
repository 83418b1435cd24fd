"""A local Ray; `make integration` installs it."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.cluster import (
    check_room,
    encode_on_workers,
    recommend_all,
    resumable,
    run_workers,
)
from promptmm_pyg.content import HashingTextEncoder, encode_content
from promptmm_pyg.distillation import distill
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import Callback, TrainingConfig, save_state, train
from tests.training.setting import make_split, make_student, make_teacher

NODES = [
    {'Alive': True, 'Resources': {'CPU': 4, 'memory': 3 * 2**30}},
    {'Alive': True, 'Resources': {'CPU': 1, 'memory': 2**29}},
    {'Alive': False, 'Resources': {'CPU': 99, 'memory': 2**40}},
]


@pytest.mark.parametrize(
    ('num_workers', 'resources', 'num_spare', 'match'),
    [
        (6, {'CPU': 1}, 0, r'at most 5, .* 1 CPU each .got 6; it has 5 CPU.'),
        (5, {'CPU': 1}, 1, 'at most 4, .* 1 CPU for Ray Data'),
        # Each worker must fit in one machine.
        (4, {'CPU': 1, 'memory': 2**30}, 0, 'at most 3, .* 1.0 GiB .*has 5 CPU, 3.5 G'),
        (1, {'GPU': 1}, 0, 'at most 0, .*1 GPU each'),
    ],
)
def test_workers_without_room_are_refused_with_the_numbers(
    num_workers, resources, num_spare, match
):
    with pytest.raises(ValueError, match=match):
        check_room(NODES, num_workers, resources, num_spare=num_spare)
    if 'GPU' not in resources:
        check_room(NODES, num_workers - 1, resources, num_spare=num_spare)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ImportError, match=r"'ray'.*\[ray\]"):
        run_workers(int, 1)


def test_a_training_is_resumed_where_it_has_a_checkpoint(tmp_path):
    config = TrainingConfig(run_dir=tmp_path)
    assert not resumable(config).resume
    (tmp_path / 'baseline').mkdir()
    save_state(tmp_path / 'baseline' / 'checkpoint.safetensors', {})
    assert resumable(config).resume
    with pytest.raises(ValueError, match='run_dir'):
        resumable(replace(config, run_dir=None))


@pytest.fixture(scope='module')
def cluster():
    ray = pytest.importorskip('ray')
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=200 * 2**20)
    yield ray
    ray.shutdown()


class KillOnce(Callback):
    """Kills the process at an epoch, unless a file is there, which it writes."""

    def __init__(self, file):
        self.file = Path(file)

    def on_epoch(self, name, record):
        if record['epoch'] == 3 and name == 'student' and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def work(folder, callbacks=()):
    """Trains a teacher and its student on the workers of a group."""
    data = make_split()
    base = TrainingConfig(epochs=4, batch_size=64, progress=False, validate_every=1)
    teacher, student = make_teacher(data.train), make_student(data.train)
    config = replace(base, run_dir=folder / 'teacher')
    train(teacher, data, config=resumable(config))
    config = replace(base, run_dir=folder / 'student', callbacks=callbacks)
    config = resumable(config)
    out = distill(student, teacher, data, start='random', config=config)
    assert out.history.best_epoch == 4
    return evaluate(student, data.val, ks=(20,)).metrics, dict(student.state_dict())


integration = [pytest.mark.integration, pytest.mark.filterwarnings('ignore')]


def marked(function):
    for mark in integration:
        function = mark(function)
    return function


@marked
def test_a_killed_worker_changes_nothing(cluster, tmp_path):
    results = {}
    for name, callbacks in (
        ('whole', ()),
        ('killed', (KillOnce(tmp_path / 'killed once'),)),
    ):
        folder = tmp_path / name
        results[name] = run_workers(
            lambda folder=folder, callbacks=callbacks: work(folder, callbacks),
            2,
            storage=tmp_path / 'ray',
        )
    assert (tmp_path / 'killed once').exists()
    torch.testing.assert_close(results['killed'], results['whole'], rtol=0, atol=0)


@pytest.fixture
def recommender(tmp_path):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=g), torch.randn(20, 4, generator=g)
    seen = torch.tensor([[0, 0, 7], [1, 2, 3]])
    served = Recommender(
        x,
        y,
        user_ids=[f'u{i}' for i in range(50)],
        item_ids=list(range(20)),
        seen=seen,
        titles={3: 'three'},
    )
    served.save(tmp_path / 'served')
    return tmp_path / 'served'


@marked
def test_workers_write_the_lists_of_one_process(cluster, recommender, tmp_path):
    pq = pytest.importorskip('pyarrow.parquet')
    words = ['recommend', str(recommender), '--all-users', '-k', '5']
    assert main([*words, '--out', str(tmp_path / 'one.parquet')]) == 0
    several = ['--engine', 'ray', '--num-workers', '2', '--out', str(tmp_path / 'all')]
    assert main([*words, *several]) == 0
    one, table = (pq.read_table(tmp_path / x) for x in ('one.parquet', 'all'))
    order = [('user', 'ascending'), ('rank', 'ascending')]
    assert table.sort_by(order).equals(one.sort_by(order))
    with pytest.raises(ValueError, match=r"'num_workers' must be at most 2, .*GiB"):
        recommend_all(recommender, tmp_path / 'x', 5, None, num_workers=3)
    assert not (tmp_path / 'x').exists()


@marked
def test_workers_encode_contents_into_the_cache(cluster, tmp_path):
    contents = {i: f'item {i % 7} of a shop' for i in range(20)} | {'none': None}
    rows = encode_on_workers(
        contents, HashingTextEncoder, cache=tmp_path, num_workers=1, block_size=8
    )
    expected = encode_content(contents, progress=False)
    assert rows.ids == expected.ids
    assert (rows.x == expected.x).all()
    assert rows.problems == expected.problems
    assert list(tmp_path.rglob('*.safetensors'))
