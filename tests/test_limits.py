"""Files beyond a limit are refused before memory is allocated, with name and fix."""

import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from promptmm_pyg import limits
from promptmm_pyg._files import write_safetensors
from promptmm_pyg._reading import read_json, read_tensors, read_toml
from promptmm_pyg.data import read_table
from promptmm_pyg.data.features import load_array
from promptmm_pyg.data.interactions import read_id_order
from promptmm_pyg.data.safe_pickle import load_sparse_pickle


@pytest.fixture(autouse=True)
def little_memory():
    """No test may allocate more than a few megabytes."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * limits.MIB


def test_an_array_must_be_as_large_as_its_header(tmp_path):
    np.save(tmp_path / 'x.npy', np.ones((3, 4)))
    content = (tmp_path / 'x.npy').read_bytes()
    content = content.replace(b"'shape': (3, 4), }      ", b"'shape': (3333333, 4), }")
    (tmp_path / 'x.npy').write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy' must be a whole \.npy file"):
        load_array(tmp_path / 'x.npy')


def test_a_place_in_the_memo_beyond_the_file_is_refused(tmp_path):
    path = tmp_path / 'x.pkl'
    path.write_bytes(b'\x80\x02]r\xff\xff\xff\x3f.')
    with pytest.raises(
        ValueError, match=r"x\.pkl' must be a whole pickle .*memo|place"
    ):
        load_sparse_pickle(path)


def test_an_array_is_not_made_by_a_pickle(tmp_path):
    class Big:
        def __reduce__(self):
            return np.ndarray, ((10**10,),)

    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(Big()))
    with pytest.raises(ValueError, match=r"x\.pkl' must contain a scipy COO"):
        load_sparse_pickle(tmp_path / 'x.pkl')


@pytest.mark.parametrize('ids', ['u1,i1\n{},i2\n', 'u1,i1\nu2,{}\n'])
def test_a_long_id_is_refused_with_its_line(ids, tmp_path, monkeypatch):
    monkeypatch.setattr('promptmm_pyg.data.tables.ID_LENGTH', 9)
    path = tmp_path / 'x.csv'
    path.write_text('user_id,item_id\n' + ids.format('a' * 9))
    assert read_table(path)['user'].num_nodes == 2
    path.write_text('user_id,item_id\n' + ids.format('a' * 10))
    with pytest.raises(
        ValueError, match=r"x\.csv' must contain ids of at most 9 .*10 in"
    ):
        read_table(path)


def test_a_long_line_is_no_id(tmp_path):
    (tmp_path / 'x.txt').write_text('i1\n' + 'a' * (limits.ID_LENGTH + 1))
    with pytest.raises(ValueError, match=r"x\.txt' must .*at most 65536 .*in line 2"):
        read_id_order(tmp_path / 'x.txt', 'item', None)


@pytest.mark.parametrize(('depth', 'fine'), [(99, True), (101, False), (10**5, False)])
def test_settings_have_limited_depth(depth, fine, tmp_path):
    (tmp_path / 'x.json').write_text('[' * depth + ']' * depth)
    (tmp_path / 'x.toml').write_text('a=' + '[' * (depth - 1) + ']' * (depth - 1))
    for read, name in (
        (read_json, 'x.json'),
        (lambda path: read_toml(path, limits.MIB), 'x.toml'),
    ):
        if fine:
            read(tmp_path / name)
        else:
            with pytest.raises(ValueError, match=rf"{name}' must "):
                read(tmp_path / name)


@pytest.mark.parametrize('key', ['a' + '.a' * 200_000, '[' + '1.' * 200_000 + 'a]'])
def test_long_keys_of_toml_are_refused_at_once(tmp_path, key):
    """The parser's time is quadratic in their parts: an hour for this file."""
    path = tmp_path / 'x.toml'
    path.write_text(f'b = 1\n{key} = 1')
    with pytest.raises(ValueError, match=r"x\.toml' must be TOML .* dots besides"):
        read_toml(path, limits.MIB)
    path.write_text(f'# {"." * 200}\nx = [{"0.5, " * 200}]')
    assert read_toml(path, limits.MIB) == {'x': [0.5] * 200}


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / 'x').write_text('\ufeff{}')
    assert read_json(tmp_path / 'x') == {}


def test_settings_have_limited_size(tmp_path):
    (tmp_path / 'x.json').write_text('[1, 2]')
    assert read_json(tmp_path / 'x.json', 6) == [1, 2]
    with pytest.raises(
        ValueError, match=r"x\.json' must have at most 5 bytes \(got 6\)"
    ):
        read_json(tmp_path / 'x.json', 5)


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, 'available_memory', lambda: 3 * limits.MIB)
    np.save(tmp_path / 'x.npy', np.zeros((2**12, 2**10), np.float32))
    with pytest.raises(ValueError, match=r"x\.npy' must fit into 3 MiB .*got 16 MiB"):
        load_array(tmp_path / 'x.npy')


def test_the_memory_of_a_machine_ends_at_the_limit_of_its_container(tmp_path):
    whole = limits.total_memory(tmp_path)  # No such files.
    assert whole > limits.available_memory(tmp_path) > 0
    (tmp_path / 'memory.max').write_text('max\n')
    assert limits.total_memory(tmp_path) == whole
    (tmp_path / 'memory.max').write_text('1000\n')
    assert limits.total_memory(tmp_path) == 1000


@pytest.mark.parametrize('kind', ['folder', 'pipe', 'device', 'name'])
def test_only_regular_files_are_read(kind, tmp_path):
    path = tmp_path / 'x.csv'
    if kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        path = tmp_path / 'x\udcff.csv'
    match = 'in UTF-8' if kind == 'name' else f"x.csv' must be a file .*{kind}"
    with pytest.raises(ValueError, match=match):
        read_table(path)


def test_no_changed_byte_of_tensors_is_read(tmp_path):
    path, tensors = tmp_path / 'x', {'a': torch.arange(3.0), 'b': torch.ones(0, 2)}
    write_safetensors(path, tensors, {'about': json.dumps([1])})
    content = path.read_bytes()
    read = lambda: read_tensors(path, None, 'tensors', lambda about, x: (about, x))  # noqa: E731
    assert torch.equal(read()[1]['a'], tensors['a'])
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=str(path)):
            read()
