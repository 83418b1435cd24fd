import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from promptmm_pyg.data import (
    fingerprint,
    make_synthetic_dataset,
    open_features,
    save_features,
)

MAPS = Path('/proc/self/maps')
PRECISIONS = ['float16', 'bfloat16', 'float32']


def matrix(num=11, width=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=g)


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('block_rows', [1, 4, 11, None])
def test_what_is_read_is_what_was_written_rounded(tmp_path, precision, block_rows):
    x, path = matrix(), tmp_path / 'x.safetensors'
    save_features(path, x, precision=precision, block_rows=block_rows)
    out = open_features(path, verify=True)
    assert torch.equal(out, x.to(getattr(torch, precision)))
    assert torch.equal(load_file(path)['x'], out)  # Any reader of the format will do.
    assert list(tmp_path.iterdir()) == [path]


def test_the_stated_error_of_float16_holds(tmp_path):
    g = torch.Generator().manual_seed(0)
    size = torch.logspace(-9, 4.8, 4000, dtype=torch.double)[:, None]
    x = size * (0.5 + torch.rand(4000, 2, generator=g, dtype=torch.double))
    x = x * torch.tensor([1.0, -1.0], dtype=torch.double)
    x = x.clamp(-65504, 65504)
    save_features(tmp_path / 'x', x)
    error = (open_features(tmp_path / 'x').double() - x).abs()
    assert (error <= (x.abs() * 2**-11).clamp_min(2**-25)).all()


@pytest.mark.parametrize(
    'as_input',
    [
        lambda x: x.numpy(),
        lambda x: x.t().contiguous().t(),
        lambda x: x.double(),
        lambda x: np.asfortranarray(x.numpy()),
        lambda x: iter([x[:5], x[5:5], x[5:].numpy()]),
        lambda x: [x[:10], x[10:]],
        lambda x: x.clone().requires_grad_(),
    ],
)
def test_the_form_of_the_input_does_not_count(tmp_path, as_input):
    one = save_features(tmp_path / 'one', matrix(), block_rows=4)
    two = save_features(tmp_path / 'two', as_input(matrix()), block_rows=3)
    assert one == two
    assert (tmp_path / 'one').read_bytes() == (tmp_path / 'two').read_bytes()


def test_an_array_on_disk_is_read_in_blocks(tmp_path):
    np.save(tmp_path / 'x.npy', matrix().numpy())
    mapped = np.load(tmp_path / 'x.npy', mmap_mode='r')
    save_features(tmp_path / 'x', mapped, precision='float32', block_rows=2)
    assert torch.equal(open_features(tmp_path / 'x'), matrix())


def test_the_hash_tells_content_shape_and_precision_apart(tmp_path):
    changed = matrix()
    changed[7, 1] += 1
    inputs = [
        (matrix(), 'float16'),
        (matrix(), 'bfloat16'),
        (matrix(), 'float32'),
        (changed, 'float16'),
        (matrix()[:, [1, 0, 2]], 'float16'),
        (matrix(12, 3).reshape(9, 4), 'float16'),
        (matrix(12, 3), 'float16'),
    ]
    found = [save_features(tmp_path / 'x', x, precision=p) for x, p in inputs]
    assert len(set(found)) == len(inputs)
    path = tmp_path / 'x'
    assert torch.equal(open_features(path, sha256=found[-1]), matrix(12).half())
    with pytest.raises(ValueError, match=rf"'sha256' must be .*'{found[-1]}' \(got"):
        open_features(path, sha256=found[0])


def test_a_file_is_bound_to_its_data(tmp_path):
    path = tmp_path / 'x'
    name = fingerprint(make_synthetic_dataset(30, 11, 4, seed=0))
    save_features(path, matrix(), belongs_to=name)
    assert open_features(path, belongs_to=name).shape == (11, 3)
    other = fingerprint(make_synthetic_dataset(30, 11, 4, seed=1))
    with pytest.raises(
        ValueError, match=rf"'belongs_to' must .*'{name}' \(got '{other}"
    ):
        open_features(path, belongs_to=other)
    # Not what the content is: the hash stays.
    assert save_features(path, matrix()) == save_features(
        path, matrix(), belongs_to='a'
    )


def test_the_tensor_is_a_map_of_the_file_and_never_written_back(tmp_path):
    path = tmp_path / 'x'
    save_features(path, matrix(), precision='float32')
    x = open_features(path)
    content = path.read_bytes()
    x[0, 0] = 7.0
    assert path.read_bytes() == content
    with path.open('r+b') as file:  # What changes on disk shows, page by page.
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(5.0).tobytes())
    fresh = open_features(path)
    assert float(fresh[-1, -1]) == 5.0
    with pytest.raises(ValueError, match='not what was written'):
        open_features(path, verify=True)


def test_an_error_leaves_the_former_file(tmp_path):
    path = tmp_path / 'x'
    save_features(path, matrix())
    content = path.read_bytes()

    def broken():
        yield matrix()
        raise OSError('no more')

    with pytest.raises(OSError, match='no more'):
        save_features(path, broken())
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ('value', 'precision', 'match'),
    [
        (float('nan'), 'float32', r'\(got nan in row 9\)'),
        (float('inf'), 'bfloat16', r'\(got inf in row 9\)'),
        (-1e5, 'float16', r'of at most 6.55e\+04 .* \(got 100000.0 in row 9\)'),
    ],
)
def test_numbers_need_to_fit(tmp_path, value, precision, match):
    x = matrix()
    x[9, 1] = value
    with pytest.raises(ValueError, match=match):
        save_features(tmp_path / 'x', x, precision=precision, block_rows=4)
    assert not list(tmp_path.iterdir())


def test_errors_when_saving(tmp_path):
    path = tmp_path / 'x'
    with pytest.raises(ValueError, match="'precision' must be one of 'float16'"):
        save_features(path, matrix(), precision='int8')
    with pytest.raises(ValueError, match="'block_rows' must be positive"):
        save_features(path, matrix(), block_rows=0)
    for empty in (matrix(0), []):
        with pytest.raises(ValueError, match="'x' requires at least one row"):
            save_features(path, empty)
    for wrong in (torch.ones(3), torch.ones(3, 0), [torch.ones(2, 2, 2)]):
        with pytest.raises(ValueError, match=r"'x' must be a matrix \[N, F\]"):
            save_features(path, wrong)
    with pytest.raises(ValueError, match=r'got 4 columns after 3, from row 11 on'):
        save_features(path, [matrix(), matrix(2, 4)])
    with pytest.raises(ValueError, match=r"'belongs_to' .* \(got 2000 characters\)"):
        save_features(path, matrix(), belongs_to='a' * 2000)


def test_errors_when_opening(tmp_path):
    path = tmp_path / 'x'
    with pytest.raises(FileNotFoundError, match="'path' must be saved features"):
        open_features(path)
    save_file({'x': matrix()}, path)
    with pytest.raises(ValueError, match=r'saved features .* of format None'):
        open_features(path)
    save_features(path, matrix())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match='truncated or no safetensors file'):
        open_features(path)


def test_the_header_says_what_it_is(tmp_path):
    sha256 = save_features(tmp_path / 'x', matrix(), belongs_to='me')
    content = (tmp_path / 'x').read_bytes()
    header = json.loads(content[8:1024])
    assert header['__metadata__'] == {
        'format': 'promptmm_pyg.features.v1',
        'sha256': sha256,
        'belongs_to': 'me',
    }
    assert len(content) == 1024 + 11 * 3 * 2


@pytest.mark.skipif(not MAPS.is_file(), reason='the system does not list its maps')
def test_an_open_file_is_mapped(tmp_path):
    path = tmp_path / 'features-on-disk'
    save_features(path, matrix())
    x = open_features(path)
    assert path.name in MAPS.read_text()
    assert x.shape == (11, 3)
