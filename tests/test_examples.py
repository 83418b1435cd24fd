"""Every example runs, on data small enough for a test."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / 'examples'
ARGUMENTS = {
    'quickstart.py': ['--users', '80', '--items', '50', '--epochs', '2'],
    'list_loss_in_pyg_lightgcn.py': ['--epochs', '1'],
    'hetero_student.py': ['--users', '80', '--items', '50', '--epochs', '2'],
    'own_teacher.py': ['--users', '80', '--items', '50', '--epochs', '2'],
    'several_teachers.py': ['--users', '80', '--items', '50', '--epochs', '2'],
    'data_parallel.py': ['--users', '80', '--items', '50', '--epochs', '2'],
    'own_data_frame.py': ['--epochs', '2'],
    'graph_free_node_classifier.py': ['--size', '30', '--epochs', '3'],
    'policy_distillation.py': ['--steps', '3'],
    'mini_batches.py': ['--users', '80', '--items', '50', '--epochs', '2'],
    'new_items_and_users.py': ['--users', '80', '--items', '50', '--epochs', '2'],
}
REPORTS = {
    'graph_free_node_classifier.py': 'baseline: accuracy',
    'policy_distillation.py': 'student, decoupled: reward',
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob('*.py')} == set(ARGUMENTS)


@pytest.mark.parametrize('name', ARGUMENTS)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_example_runs_and_reports(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [name, *ARGUMENTS[name]])
    runpy.run_path(str(EXAMPLES / name), run_name='__main__')
    assert REPORTS.get(name, 'Recall@20') in capsys.readouterr().out


@pytest.mark.parametrize(
    'path', sorted((EXAMPLES / 'notebooks').glob('*.ipynb')), ids=str
)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_the_cells_of_a_notebook_run_in_order(path, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text())['cells']
    code = [''.join(x['source']) for x in cells if x['cell_type'] == 'code']
    assert code
    names = {'__name__': path.stem}
    for source in code:
        exec(compile(source, str(path), 'exec'), names)
    assert 'error' not in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_the_other_layer_of_the_heterogeneous_student(monkeypatch, capsys):
    name = 'hetero_student.py'
    monkeypatch.setattr(sys, 'argv', [name, *ARGUMENTS[name], '--layer', 'hgt'])
    runpy.run_path(str(EXAMPLES / name), run_name='__main__')
    assert 'one layer of hgt' in capsys.readouterr().out


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_torchrun_trains_one_student_with_two_processes(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    example = [str(EXAMPLES / 'data_parallel.py'), *ARGUMENTS['data_parallel.py']]
    monkeypatch.setattr(sys, 'argv', example)
    runpy.run_path(example[0], run_name='__main__')
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    done = subprocess.run(
        [sys.executable, *torchrun, *example],
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
    )
    out = [text.splitlines() for text in (capsys.readouterr().out, done.stdout)]
    assert [lines[-1] for lines in out] == ['by 1 process(es)', 'by 2 process(es)']
    # The embedding loss is a mean over the distinct nodes of a shard: not the same.
    metrics = [float(line.split()[-1]) for lines in out for line in lines[:-1]]
    assert len(metrics) == 2  # Only rank 0 prints.
    assert metrics[0] == pytest.approx(metrics[1], abs=0.1)


@pytest.mark.parametrize('name', ARGUMENTS)
def test_example_is_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 100
