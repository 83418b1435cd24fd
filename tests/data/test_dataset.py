import json
import pickle

import numpy as np
import pytest
import torch

import promptmm_pyg.data.dataset as module
from promptmm_pyg.data import INTERACTS, MultiModalDataset, Split


class Bomb:
    def __reduce__(self):
        return pytest.fail, ('a pickle was loaded',)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / 'source'
    folder.mkdir()
    parts = {'train': {'0': [0, 1], '1': [2]}, 'val': {'0': [2]}, 'test': {'1': [0]}}
    for name, lists in parts.items():
        (folder / f'{name}.json').write_text(json.dumps(lists))
    np.save(folder / 'image_feat.npy', np.arange(6.0).reshape(3, 2) - 2)
    return folder


@pytest.fixture
def reads(monkeypatch):
    """One entry for each time the source itself is read."""
    calls = []
    real = module.load_dataset

    def counting(*args, **kwargs):
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, 'load_dataset', counting)
    return calls


def test_it_holds_the_three_graphs(tmp_path, source):
    dataset = MultiModalDataset(tmp_path / 'root', source)
    assert len(dataset) == 3
    assert isinstance(dataset.split, Split)
    assert dataset.split.val[INTERACTS].edge_label_index.tolist() == [[0], [2]]
    assert dataset[2][INTERACTS].edge_label_index.tolist() == [[1], [0]]


def test_an_unchanged_source_is_read_once(tmp_path, source, reads):
    first = MultiModalDataset(tmp_path / 'root', source)
    second = MultiModalDataset(tmp_path / 'root', source)
    assert len(reads) == 1
    torch.testing.assert_close(first[0]['item'].x_image, second[0]['item'].x_image)


def test_a_changed_source_is_read_anew(tmp_path, source, reads):
    MultiModalDataset(tmp_path / 'root', source)
    np.save(source / 'image_feat.npy', np.ones((3, 2)))
    dataset = MultiModalDataset(tmp_path / 'root', source)
    assert len(reads) == 2
    torch.testing.assert_close(dataset[0]['item'].x_image, torch.ones(3, 2))


def test_a_changed_split_is_read_anew(tmp_path, source):
    MultiModalDataset(tmp_path / 'root', source)
    (source / 'test.json').write_text('{"1": [1]}')
    dataset = MultiModalDataset(tmp_path / 'root', source)
    assert dataset.split.test[INTERACTS].edge_label_index.tolist() == [[1], [1]]


def test_a_changed_extra_feature_file_is_read_anew(tmp_path, source):
    (source / 'more').mkdir()
    options = {'features': {'text': 'more/text.npy'}}
    for value in (1.0, 2.0):
        np.save(source / 'more' / 'text.npy', np.full((3, 1), value))
        dataset = MultiModalDataset(tmp_path / 'root', source, **options)
        assert dataset[0]['item'].x_text[0, 0] == value


@pytest.mark.parametrize(
    'options',
    [
        {'features': {'image': None}},
        {'masks': None},
        {'duplicates': 'first'},
        {'format': 'mmssl'},
    ],
)
def test_other_options_have_another_copy(tmp_path, source, reads, options):
    MultiModalDataset(tmp_path / 'root', source)
    dataset = MultiModalDataset(tmp_path / 'root', source, **options)
    assert len(reads) == 2
    assert ('x_image' in dataset[0]['item']) == ('features' not in options)


def test_reading_can_be_forced(tmp_path, source, reads):
    MultiModalDataset(tmp_path / 'root', source)
    MultiModalDataset(tmp_path / 'root', source, force_reload=True)
    assert len(reads) == 2


def test_the_transform_is_applied_at_each_access(tmp_path, source):
    def transform(graph):
        graph['item'].extra = torch.ones(3)
        return graph

    dataset = MultiModalDataset(tmp_path / 'root', source, transform=transform)
    assert 'extra' in dataset[0]['item']
    assert all('extra' in graph['item'] for graph in dataset.split)
    assert 'extra' not in dataset.get(0)['item']


def test_no_pickle_is_written_or_loaded(tmp_path, source):
    processed = tmp_path / 'root' / 'processed'
    processed.mkdir(parents=True)
    for name in ('pre_transform.pt', 'pre_filter.pt'):
        (processed / name).write_bytes(pickle.dumps(Bomb()))
    MultiModalDataset(tmp_path / 'root', source)
    MultiModalDataset(tmp_path / 'root', source)
    ends = sorted(path.suffix for path in processed.iterdir())
    assert ends == ['.pt', '.pt', '.safetensors']


def test_the_source_has_to_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="'source' must exist"):
        MultiModalDataset(tmp_path / 'root', tmp_path / 'none')


def test_repr(tmp_path, source):
    dataset = MultiModalDataset(tmp_path / 'root', source)
    assert repr(dataset) == 'MultiModalDataset(3)'
