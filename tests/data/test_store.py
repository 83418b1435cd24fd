import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from promptmm_pyg._files import write_safetensors
from promptmm_pyg.data import build_graph, split_per_user, validate
from promptmm_pyg.data.dataset import load_split, save_split


def make_split(**ids):
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(6, 9, generator=generator).gt(0.4).nonzero().t()
    data = build_graph(
        edges,
        num_users=6,
        num_items=9,
        item_features={'text': torch.randn(9, 3, generator=generator)},
        item_masks={'text': torch.arange(9) != 4},
        user_features={'age': torch.randn(6, 1, generator=generator)},
        edge_time=torch.arange(edges.size(1)),
        **ids,
    )
    return split_per_user(data)


def assert_same(first, second):
    for graph, expected in zip(first, second, strict=True):
        assert graph.to_dict().keys() == expected.to_dict().keys()
        for one, other in zip(graph.stores, expected.stores, strict=True):
            assert set(one.keys()) == set(other.keys())
            for key, value in one.items():
                if isinstance(value, np.ndarray):
                    assert value.dtype == other[key].dtype
                    assert value.tolist() == other[key].tolist()
                else:
                    torch.testing.assert_close(value, other[key])


@pytest.mark.parametrize(
    'ids',
    [
        {},
        {'item_ids': [f'é{i}' for i in range(9)]},
        {'item_ids': list(range(5, 14)), 'user_ids': list('abcdef')},
    ],
)
def test_what_is_saved_is_loaded(tmp_path, ids):
    split = make_split(**ids)
    save_split(split, tmp_path / 'deep' / 'copy')
    assert_same(split, load_split(tmp_path / 'deep' / 'copy'))


def test_what_is_loaded_shares_its_features(tmp_path):
    save_split(make_split(), tmp_path / 'copy')
    train, val, test = load_split(tmp_path / 'copy')
    assert train['item'].x_text is val['item'].x_text is test['item'].x_text
    errors = [f for f in validate(make_split()) if f.level == 'error']
    assert errors == []


def test_nothing_but_one_file_is_left(tmp_path):
    save_split(make_split(), tmp_path / 'copy')
    save_split(make_split(), tmp_path / 'copy')
    assert [path.name for path in tmp_path.iterdir()] == ['copy.safetensors']


def test_a_truncated_copy_is_named(tmp_path):
    save_split(make_split(), tmp_path / 'copy')
    path = tmp_path / 'copy.safetensors'
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"copy\.safetensors', truncated"):
        load_split(tmp_path / 'copy')


def test_another_format_is_refused(tmp_path):
    save_split(make_split(), tmp_path / 'copy')
    tensors = load_file(tmp_path / 'copy.safetensors')
    about = json.loads(bytes(tensors['about'].tolist()))
    changed = json.dumps({**about, 'format': 99}).encode()
    tensors['about'] = torch.tensor(list(changed), dtype=torch.uint8)
    write_safetensors(tmp_path / 'copy.safetensors', tensors)
    with pytest.raises(ValueError, match=r'copy\.safetensors.*format 99'):
        load_split(tmp_path / 'copy')
