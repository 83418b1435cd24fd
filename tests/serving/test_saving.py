"""A recommender on disk while it is saved, and after a crash."""

import os
import threading
from pathlib import Path

import pytest
import torch

from promptmm_pyg.serving import Recommender


def recommender(value, size=3):
    x = torch.full((size, 2), float(value))
    ids = [f'{value}-{row}' for row in range(size)]
    return Recommender(x, x, user_ids=ids, item_ids=ids, seen=None)


def value_of(folder):
    """The value of a complete recommender."""
    model = Recommender.load(folder)
    values = {float(x) for x in (*model.user_x.flatten(), *model.item_x.flatten())}
    (value,) = values
    assert {raw.partition('-')[0] for raw in model.user_ids} == {f'{value:.0f}'}
    return value


class CrashError(BaseException):
    """Ends the process at once."""


@pytest.mark.parametrize('is_new', [True, False])
@pytest.mark.parametrize(
    'step', [1, 3, 5, 6, 7, 8, 9, 10, 14, 17, 20, 23, 26, 27, 28, 99]
)
def test_a_crash_leaves_the_old_or_the_new_recommender(
    tmp_path, monkeypatch, step, is_new
):
    folder = tmp_path / 'served'
    if not is_new:
        recommender(1).save(folder)
    calls = []

    def crashing(function):
        def call(*args, **options):
            calls.append(function)
            if len(calls) >= step:  # Nothing is cleaned up either.
                raise CrashError
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (Path, 'rename'),
            (Path, 'replace'),
            (Path, 'unlink'),
            (Path, 'write_bytes'),
            (os, 'link'),
        ):
            patch.setattr(owner, name, crashing(getattr(owner, name)))
        try:
            recommender(2).save(folder)
        except CrashError:
            if not is_new:
                assert value_of(folder) in (1, 2)
        else:
            assert value_of(folder) == 2
            assert len(calls) < step
    recommender(3, size=5).save(folder)
    assert value_of(folder) == 3
    assert sorted(x.name for x in folder.iterdir()) == [
        'README.md',
        'card.json',
        'config.json',
        'model.safetensors',
    ]


def test_readers_and_writers_do_not_disturb_each_other(tmp_path):
    folder = tmp_path / 'served'
    recommender(0).save(folder)
    errors = []

    def write(first):
        try:
            for number in range(15):
                recommender(first + number, size=200).save(folder)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(first,)) for first in (100, 200)]
    for thread in threads:
        thread.start()
    values = set()
    while any(thread.is_alive() for thread in threads):
        values.add(value_of(folder))
    for thread in threads:
        thread.join()
    assert errors == []
    assert value_of(folder) in (114, 214)
    assert len(values) > 1
    assert not [x for x in folder.iterdir() if x.name.startswith('.')]


def test_a_file_system_without_links_is_written_too(tmp_path, monkeypatch):
    def unsupported(*args):
        raise PermissionError

    monkeypatch.setattr(os, 'link', unsupported)
    recommender(1).save(tmp_path)
    recommender(2).save(tmp_path)
    assert value_of(tmp_path) == 2


def test_a_linked_new_version_is_ignored(tmp_path):
    recommender(1).save(tmp_path / 'outside')
    recommender(2).save(tmp_path / 'served')
    (tmp_path / 'served' / '.next').symlink_to(tmp_path / 'outside')
    assert value_of(tmp_path / 'served') == 2
