"""A recommender on disk while it is saved, and after a crash."""

import threading

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


def test_a_linked_new_version_is_ignored(tmp_path):
    recommender(1).save(tmp_path / 'outside')
    recommender(2).save(tmp_path / 'served')
    (tmp_path / 'served' / '.next').symlink_to(tmp_path / 'outside')
    assert value_of(tmp_path / 'served') == 2
