"""One recommender in many threads, and in processes that are forked or spawned."""

import multiprocessing
import os
import pickle
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from promptmm_pyg.serving import Recommender
from promptmm_pyg.serving._tables import Tables
from promptmm_pyg.serving.recommender import _Writers

READERS, WRITERS, BATCHES, SIZE = 32, 4, 8, 3
OLD = 40
SEEN = (3, 7)


class AsGiven:
    """A feature mapper whose features are the embeddings."""

    width = 2

    def __call__(self, features, modality_mask=None):
        return features['x']


def value_of(raw):
    """The score of an item for the user ``'u'``, from its id alone."""
    kind, number = raw.split('-')
    return float(number) if kind == 'old' else 1000.0 * (1 + int(kind)) + int(number)


def vectors(ids):
    return torch.tensor([[value_of(raw), 1.0] for raw in ids])


def served():
    ids = [f'old-{number}' for number in range(OLD)]
    return Recommender(
        torch.tensor([[1.0, 0.0]]),
        vectors(ids),
        user_ids=['u'],
        item_ids=ids,
        seen=torch.tensor([[0, 0], list(SEEN)]),
        feature_mapper=AsGiven(),
    )


def batch_of(writer, number):
    return [f'{writer}-{number * SIZE + row}' for row in range(SIZE)]


def check_version(ids, scores):
    """Asserts that a complete list is that of one version, and returns its items."""
    named = [raw for raw in ids.tolist() if raw is not None]
    assert scores[: len(named)].tolist() == sorted(map(value_of, named), reverse=True)
    assert [value_of(raw) for raw in named] == scores[: len(named)].tolist()
    assert len(named) == len(ids) or ids[len(named)] is None
    items = set(named)
    assert {f'old-{number}' for number in range(OLD) if number not in SEEN} <= items
    assert not items & {f'old-{number}' for number in SEEN}
    for writer in range(WRITERS):
        number = sum(raw.startswith(f'{writer}-') for raw in items)
        assert number % SIZE == 0
        whole = [batch_of(writer, batch) for batch in range(number // SIZE)]
        assert items >= {raw for batch in whole for raw in batch}
    return items


def in_threads(functions):
    """Runs functions in threads of their own, and raises the first error."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f,)) for f in functions]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


def test_readers_beside_writers_get_the_lists_of_one_version(monkeypatch):
    model = served()
    with_items = Tables.with_items

    def slowly(*args):
        tables = with_items(*args)
        time.sleep(0.002)  # Without a lock, others would replace the tables here.
        return tables

    monkeypatch.setattr(Tables, 'with_items', slowly)
    most = OLD + WRITERS * BATCHES * SIZE
    done = []

    def write(writer):
        for number in range(BATCHES):
            ids = batch_of(writer, number)
            model.add_items(ids, {'x': vectors(ids)}, titles={ids[0]: f'of {ids[0]}'})
        done.append(writer)

    def read(reader):
        former = set()
        while True:
            last = len(done) == WRITERS
            items = check_version(*model.recommend('u', most))
            assert former <= items
            former = items
            newest = max(items, key=value_of)
            assert model.score('u', newest) == value_of(newest)
            denied = model.recommend('u', 1, deny=[newest]).ids[0]
            assert denied != newest
            similar, _ = model.similar_items(newest, most)
            assert newest not in similar
            assert model.recommend_from_history([newest], 1).ids[0] != newest
            if reader < 2:
                tables = pickle.loads(pickle.dumps(model))
                assert former <= check_version(*tables.recommend('u', most))
            if last:
                assert len(items) == most - len(SEEN)
                return

    readers = [lambda reader=reader: read(reader) for reader in range(READERS)]
    writers = [lambda writer=writer: write(writer) for writer in range(WRITERS)]
    in_threads([*readers, *writers])
    assert model.num_added == WRITERS * BATCHES * SIZE
    assert len(model.titles) == WRITERS * BATCHES
    assert len(set(model.item_ids)) == model.num_items == most


def test_a_saved_recommender_is_of_one_version(tmp_path, synthetic):
    model, features = synthetic(num_users=5)
    model.fit_feature_mapper(features)
    row = {name: x[:1] for name, x in features.items()}
    done = []

    def write():
        for number in range(30):
            model.add_items([1000 + number], row, titles={1000 + number: str(number)})
        done.append(True)

    def save():
        while not done:
            model.save(tmp_path)
            again = Recommender.load(tmp_path)
            added = again.num_items - 60
            assert again.num_added == added
            assert again.item_ids[60:] == [1000 + number for number in range(added)]
            assert again.titles == {1000 + n: str(n) for n in range(added)}

    in_threads([write, save])


class Lists(Dataset):
    """The lists of single users, made by workers of a loader."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.model.recommend(index, 5).scores


def many():
    """Large enough for torch to use several threads."""
    g = torch.Generator().manual_seed(0)
    user_x, item_x = (torch.randn(n, 8, generator=g) for n in (64, 4000))
    return Recommender(
        user_x,
        item_x,
        user_ids=range(64),
        item_ids=[f'i{number}' for number in range(4000)],
        seen=torch.stack([torch.arange(64), torch.arange(64)]),
    )


def lists(model):
    ids, scores = model.recommend(range(64), 20)
    history = model.recommend_from_history(['i3', 'i5'], 20)
    similar = model.similar_items('i7', 20)
    return [x.tolist() for x in (ids, scores, history.ids, similar.ids)]


def serve(queue, model, folder):
    loaded = Recommender.load(folder)
    queue.put([lists(x) for x in (model, loaded) if x is not None])


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(2**20).sum()  # Starts the threads.
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
@pytest.mark.usefixtures('two_threads')
def test_a_process_has_the_same_lists(tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f'the system has no {method}')
    model = many()
    model.save(tmp_path)
    expected = lists(model)  # The model is used before the process starts.
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    for given in (model, Recommender.load(tmp_path)):
        process = context.Process(target=serve, args=(queue, given, tmp_path))
        process.start()
        try:
            assert queue.get(timeout=120) == [expected, expected]
            process.join(120)
            assert process.exitcode == 0
        finally:
            process.kill()
        if method == 'spawn':  # It takes seconds.
            break
    assert lists(model) == expected


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the system has no fork')
@pytest.mark.usefixtures('two_threads')
def test_a_fork_while_a_thread_adds_items_can_add_items():
    model = served()
    model.recommend('u')
    with _Writers.lock:  # As if another thread held it.
        child = os.fork()
        if child == 0:
            model.add_items(['0-0'], {'x': vectors(['0-0'])})
            os._exit(0 if model.recommend('u', 1).ids[0] == '0-0' else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the system has no fork')
@pytest.mark.usefixtures('two_threads')
def test_workers_of_a_loader_have_the_same_lists():
    model = many()
    expected = [model.recommend(user, 5).scores for user in range(8)]
    loader = DataLoader(
        Lists(model),
        batch_size=4,
        num_workers=2,
        multiprocessing_context='fork',
        timeout=120,
    )
    scores = torch.cat(list(loader)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
