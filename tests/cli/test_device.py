import json

import pytest
import torch
from safetensors.torch import load_file

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS
from promptmm_pyg.runs.run import Run
from tests.test_devices import on_every_device

from .conftest import DISTILL, TRAIN


def words(files, run):
    data = [files.table, '--features', f'text={files.text}']
    return ['train', *data, '--out', str(run), *TRAIN]


@on_every_device
def test_a_run_is_trained_there_and_used_here(files, device, tmp_path, capsys):
    run = tmp_path / 'run'
    there = ['--device', device, '--learning-rate', '0.02', '--epochs', '4']
    assert main([*words(files, run), *there]) == 0
    assert main(['distill', str(run), *DISTILL, *there]) == 0
    for stage in ('teacher', 'student', 'student/baseline'):
        log = (run / stage / 'log.jsonl').read_text().splitlines()
        losses = [json.loads(line)['loss'] for line in log]
        assert losses[-1] < losses[0]
    assert main(['evaluate', str(run)]) == 0
    folder = Run(run)
    config = folder.config
    tables = folder.embeddings()
    kept = load_file(run / 'recommender' / 'model.safetensors')
    assert torch.equal(kept['user_x'], tables['student']['user'])
    targets = load_file(run / 'student' / 'targets.safetensors')
    torch.testing.assert_close(targets['item'], tables['teacher']['item'])
    assert 'device' not in config


@on_every_device
def test_an_interrupted_run_goes_on_there(files, device, tmp_path, capsys):
    run, there = tmp_path / 'run', ['--device', device]
    assert main([*words(files, run), *there]) == 0
    longer = [*words(files, run), '--epochs', '3', '--resume', *there]
    assert main(longer) == 0
    assert len((run / 'teacher' / 'log.jsonl').read_text().splitlines()) == 3


@on_every_device
def test_a_dry_run_measures_there(files, trained, device, tmp_path, capsys):
    there = ['--dry-run', '--device', device]
    for command in (words(files, tmp_path / 'run'), ['distill', str(trained)]):
        assert main([*command, *there]) == 0
        out = capsys.readouterr().out
        assert ' steps per epoch, ' in out
        assert ('on the GPU' in out) == (device == 'cuda')


def test_what_is_trained_on_moves_and_the_graphs_of_a_run_stay(trained):
    folder = Run(trained)
    data = folder.data
    there = data.to(torch.device('meta'))
    moved = [there.train[INTERACTS].edge_index, there.train['item'].x_text]
    moved += [x for adj in there.inputs[0].values() for x in adj.matrices(torch.float)]
    assert {x.device.type for x in moved} == {'meta'}
    stay = [data.train[INTERACTS].edge_index, data.train['item'].x_text]
    stay += [there.val[INTERACTS].edge_label_index]
    assert {x.device.type for x in stay} == {'cpu'}


@pytest.mark.parametrize('name', ['gpu', 'meta', 'cuda:x', ''])
def test_what_is_no_device(name, files, tmp_path, capsys):
    assert main([*words(files, tmp_path / 'run'), '--device', name]) != 0
    said = f"--device: must be 'cpu', 'cuda' or 'cuda:N' (got {name!r})"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize('command', ['train', 'distill'])
def test_a_gpu_that_is_not_there(command, files, trained, tmp_path, capsys):
    run = tmp_path / 'run'
    begin = words(files, run) if command == 'train' else ['distill', str(trained)]
    number = torch.cuda.device_count()
    assert main([*begin, '--device', f'cuda:{number}']) != 0
    said = (
        f"--device 'cuda:{number}' is not available ({number} GPUs found). Leave it out"
    )
    assert said in capsys.readouterr().err
    assert not run.exists()
    assert not (trained / 'student').exists()


def test_a_file_of_settings_may_name_it(files, tmp_path, capsys):
    assert main([*words(files, tmp_path / 'run'), '--print-config']) == 0
    assert json.loads(capsys.readouterr().out)['device'] == 'cpu'
