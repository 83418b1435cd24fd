import os
import shutil
import threading
import time
from multiprocessing import get_context

import pytest

from promptmm_pyg._files import locked, replace_entries, temporary_folder
from promptmm_pyg.cli import main
from promptmm_pyg.runs import Run, RunError
from promptmm_pyg.runs.folder import (
    exclusive,
    load_tensors,
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


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    # Also where its number belongs to another process by now.
    write_json(tmp_path / '.lock', {'pid': os.getpid()})
    with exclusive(tmp_path):
        holder = read_json(tmp_path / '.lock')
    assert holder['pid'] == os.getpid()
    assert set(holder) == {'pid', 'host', 'command', 'since'}
    assert not (tmp_path / '.lock').exists()


def test_what_a_killed_process_left_is_removed(tmp_path):
    write_json(tmp_path / 'teacher' / '.promptmm-1.tmp' / 'x.json', {})
    (tmp_path / '.new-student' / 'student').mkdir(parents=True)
    write_json(tmp_path / '.new-final' / 'final' / 'config.json', {})  # To be resumed.
    with exclusive(tmp_path):
        pass
    assert list(contents(tmp_path)) == ['.new-final/final/config.json']
    assert not list((tmp_path / 'teacher').iterdir())


@pytest.fixture
def versions(distilled, tmp_path, capsys):
    """A run, and its students of two widths."""
    run = tmp_path / 'run'
    shutil.copytree(distilled, run)
    words = ['--overwrite', '--no-baseline', '--embedding-dim', '8', '--epochs', '1']
    assert main(['distill', str(run), *DISTILL, *words]) == 0
    folders = [tmp_path / '4', tmp_path / '8']
    for source, folder in zip((distilled, run), folders, strict=True):
        for name in ('student', 'recommender'):
            shutil.copytree(source / name, folder / name)
    return run, folders


def test_readers_beside_writers_load_a_whole_run(versions):
    run, folders = versions
    ended = threading.Event()

    def write():
        while not ended.is_set():
            for folder in folders:
                with temporary_folder(run) as temporary:
                    shutil.copytree(folder, temporary / 'new')
                    replace_entries(run, temporary / 'new')

    writer = threading.Thread(target=write)
    writer.start()
    opened, widths = Run.open(run), set()
    try:
        for count in range(100):
            if count >= 5 and widths == {4, 8}:
                break
            for reader in (opened, Run.open(run)):
                x_dicts = reader.embeddings()
                width = x_dicts['student']['item'].size(1)
                assert x_dicts['truncated_teacher']['item'].size(1) == width
                widths |= {width, reader.recommender().item_x.size(1)}
    finally:
        ended.set()
        writer.join()
    assert widths == {4, 8}


def test_nothing_is_replaced_while_a_run_is_read(distilled, monkeypatch):
    free = []

    def load(path, fix):
        with locked(distilled, timeout=0) as is_free:
            free.append(is_free)
        return load_tensors(path, fix)

    monkeypatch.setattr('promptmm_pyg.runs.run.load_tensors', load)
    Run.open(distilled).embeddings()
    assert free == [False] * 4


def test_an_interrupted_replacement_is_read_where_nothing_can_be_written(
    versions, monkeypatch
):
    run, folders = versions
    shutil.copytree(folders[0], run / '.next')
    shutil.rmtree(run / 'student')

    def denied(folder):
        raise PermissionError

    monkeypatch.setattr('promptmm_pyg.runs.run.exclusive', denied)
    assert Run.open(run).recommender().item_x.size(1) == 4
    assert Run.open(run).embeddings()['student']['item'].size(1) == 4
    monkeypatch.undo()
    Run.open(run)
    assert not (run / '.next').exists()
    assert (run / 'student').is_dir()


def test_a_model_that_was_replaced_since_is_not_evaluated(versions, monkeypatch):
    run, folders = versions
    embeddings = Run.embeddings

    def replaced_meanwhile(self):
        x_dicts = embeddings(self)
        shutil.copytree(folders[0], run / '.copy')
        replace_entries(run, run / '.copy')
        return x_dicts

    monkeypatch.setattr(Run, 'embeddings', replaced_meanwhile)
    with pytest.raises(RunError, match='must not be trained while it is evaluated'):
        Run.open(run).evaluate()
    assert not (run / 'evaluation-val.json').exists()


def test_a_lock_is_free_after_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='no'), exclusive(tmp_path / 'run'):
        raise ValueError('no')
    assert not (tmp_path / 'run').exists()
    expected = pytest.raises(RunError, match=f'process {os.getpid()}')
    with exclusive(tmp_path), expected, exclusive(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def start(run, *words):
    """A baseline that is trained for long, once its first checkpoint is written."""
    argv = ['distill', str(run), *DISTILL, *words, '--seed', '4']
    argv += ['--epochs', '100000', '--patience', '100000']
    process = get_context('forkserver').Process(target=main, args=(argv,))
    process.start()
    checkpoint = run / '.new-student' / 'student' / 'baseline' / CHECKPOINT
    for _ in range(600):
        if checkpoint.is_file() or not process.is_alive():
            break
        time.sleep(0.1)
    assert checkpoint.is_file()
    return process


def test_killing_a_training_loses_nothing(distilled, copy_of, fails, capsys):
    run = copy_of(distilled)
    before = files_of(run)
    # Else its best epoch may be the start, which is that of the former student.
    process = start(run, '--overwrite', '--start', 'random')
    message = fails('distill', run, *DISTILL, '--overwrite')
    assert f'(got process {process.pid} on ' in message
    process.kill()
    process.join()

    assert {name: files_of(run)[name] for name in before} == before
    assert 'has a student' in fails('distill', run, *DISTILL)
    assert main(['finish', str(run)]) == 0
    assert capsys.readouterr().out.startswith('student: validation Recall@20')
    assert (
        files_of(run)['student/model.safetensors']
        != before['student/model.safetensors']
    )
    assert Run(run).has('baseline')
    assert not [path for path in run.iterdir() if path.name.startswith('.')]
