import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.runs import Run, RunError
from promptmm_pyg.runs import folder as folder_module
from promptmm_pyg.runs.folder import (
    exclusive,
    read_json,
    recover,
    staged,
    write_json,
)
from promptmm_pyg.training.loop import CHECKPOINT
from tests.cli.conftest import DISTILL
from tests.runs.test_mistakes import files_of


def parts(folder, text):
    for name in ('student/a', 'recommender/b', 'evaluation-val'):
        write_json(folder / f'{name}.json', {'by': text})


def replaced(folder, error=None):
    with staged(folder, 'student', resume=False) as target:
        write_json(target / 'student' / 'a.json', {'by': 'new'})
        write_json(target / 'recommender' / 'b.json', {'by': 'new'})
        if error is not None:
            raise error


def contents(folder):
    return {str(x.relative_to(folder)): read_json(x) for x in folder.rglob('*.json')}


NEW = {'student/a.json': {'by': 'new'}, 'recommender/b.json': {'by': 'new'}}


def test_a_part_is_replaced_at_the_end(tmp_path):
    parts(tmp_path, 'old')
    reads = [{'time': 'then'}]
    write_json(tmp_path / 'evaluation-test.json', {'test_reads': reads, 'metrics': {}})
    replaced(tmp_path)
    record = {'evaluation-test.json': {'test_reads': reads}}
    assert contents(tmp_path) == NEW | record
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('error', [ValueError('no'), OSError(28, 'No space left')])
def test_an_error_leaves_the_old_part(tmp_path, error):
    parts(tmp_path, 'old')
    before = files_of(tmp_path)
    with pytest.raises(type(error)):
        replaced(tmp_path, error)
    assert files_of(tmp_path) == before


def test_an_interruption_leaves_the_old_part_beside_the_new_one(tmp_path):
    parts(tmp_path, 'old')
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        replaced(tmp_path, KeyboardInterrupt())
    left = contents(tmp_path)
    assert {name: left.pop(f'.new-student/{name}') for name in NEW} == NEW
    assert left == before


def test_a_damaged_plan_touches_nothing_else(tmp_path):
    write_json(tmp_path / 'notes.json', {})
    new = tmp_path / 'run' / '.next'
    new.mkdir(parents=True)
    (new / '.outdated.json').write_text('["../notes.json", "..", 1, "/x"]')
    recover(tmp_path / 'run')
    assert contents(tmp_path) == {'notes.json': {}}
    assert not list((tmp_path / 'run').iterdir())


def test_a_lock_is_free_after_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='no'), exclusive(tmp_path / 'run'):
        raise ValueError('no')
    assert not (tmp_path / 'run').exists()
    expected = pytest.raises(RunError, match=f'process {os.getpid()}')
    with exclusive(tmp_path), expected, exclusive(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def start(run, *words):
    """A student that is trained for long, once its first checkpoint is written."""
    command = [sys.executable, '-m', 'promptmm_pyg', 'distill', str(run), *DISTILL]
    process = subprocess.Popen(
        [*command, *words, '--epochs', '100000', '--patience', '100000', '--seed', '4'],
        stderr=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': str(Path(folder_module.__file__).parents[2])},
    )
    checkpoint = run / '.new-student' / 'student' / CHECKPOINT
    for _ in range(600):
        if checkpoint.is_file() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert checkpoint.is_file()
    return process


def test_killing_a_training_loses_nothing(distilled, copy_of, fails, capsys):
    run = copy_of(distilled)
    before = files_of(run)
    process = start(run, '--overwrite')
    message = fails('distill', run, *DISTILL, '--overwrite')
    assert f'(got process {process.pid} on ' in message
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert {name: files_of(run)[name] for name in before} == before
    assert 'has a student' in fails('distill', run, *DISTILL)
    assert main(['finish', str(run)]) == 0
    assert capsys.readouterr().out.startswith('student: validation Recall@20')
    assert (
        files_of(run)['student/model.safetensors']
        != before['student/model.safetensors']
    )
    assert not Run(run).has('baseline')
    assert not [path for path in run.iterdir() if path.name.startswith('.')]
