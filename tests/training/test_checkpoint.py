import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from promptmm_pyg.training import load_state, save_state


def make_state():
    shared = torch.arange(4.0)
    return {
        'module': {'a.weight': shared, 'a.view': shared},
        'optimizer': {
            'state': {0: {'step': torch.tensor(3.0)}},
            'groups': [{'lr': 0.1}],
        },
        'rng': torch.get_rng_state(),
        'empty': {},
        'none': None,
        'flag': True,
        'text': 'x',
        'pair': (1, 2.5),
    }


def test_round_trip_keeps_values_types_and_integer_keys(tmp_path):
    path = tmp_path / 'state.safetensors'
    save_state(path, make_state())
    out = load_state(path)
    expected = make_state()
    assert out['optimizer']['state'][0]['step'] == 3.0
    assert out['pair'] == [1, 2.5]
    assert out['flag'] is True
    assert out['none'] is None
    assert out['empty'] == {}
    assert out['optimizer']['groups'] == expected['optimizer']['groups']
    torch.testing.assert_close(out['module'], expected['module'])
    assert torch.equal(out['rng'], expected['rng'])


def test_loaded_tensors_outlive_the_file(tmp_path):
    path = tmp_path / 'state.safetensors'
    save_state(path, {'x': torch.ones(1000)})
    out = load_state(path)
    save_state(path, {'x': torch.zeros(1000)})
    assert (out['x'] == 1).all()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / 'state.safetensors'
    save_state(path, {'x': torch.ones(2)})
    with pytest.raises(TypeError, match=r"tensors and JSON values.*'/a/bad'|a/bad"):
        save_state(path, {'a': {'bad': object()}})
    assert [p.name for p in tmp_path.iterdir()] == ['state.safetensors']
    assert (load_state(path)['x'] == 1).all()


def test_a_crash_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / 'state.safetensors'
    save_state(path, {'x': torch.ones(2)})

    def crash(tensors, filename, metadata):
        save_file(tensors, filename, metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr('safetensors.torch.save_file', crash)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {'x': torch.zeros(2)})
    assert [p.name for p in tmp_path.iterdir()] == ['state.safetensors']
    assert (load_state(path)['x'] == 1).all()


def test_errors(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="'path' must be a saved training state"
    ):
        load_state(tmp_path / 'missing')
    path = tmp_path / 'state.safetensors'
    save_state(path, make_state())
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match='truncated or no safetensors file'):
        load_state(path)
    save_file({'x': torch.ones(1)}, path)
    with pytest.raises(ValueError, match='must be a saved training state'):
        load_state(path)


def test_a_full_disk_is_an_error_of_the_file(tmp_path, monkeypatch):
    save_state(tmp_path / 'x', {'a': torch.ones(1)})

    def fail(*_, **__):
        raise SafetensorError('I/O error: No space left on device (os error 28)')

    monkeypatch.setattr('safetensors.torch.save_file', fail)
    with pytest.raises(OSError, match=r"/x' cannot be written .*No space left"):
        save_state(tmp_path / 'x', {'a': torch.zeros(1)})
    assert torch.equal(load_state(tmp_path / 'x')['a'], torch.ones(1))
    assert [path.name for path in tmp_path.iterdir()] == ['x']
