import json
import shutil

import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.runs.run import FORMAT, Run, write_json
from promptmm_pyg.runs.stages import backup
from promptmm_pyg.training.loop import CHECKPOINT
from tests.cli.conftest import DISTILL, TRAIN


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--embedding-dim', '0'], "'embedding_dim' must be positive"),
        (['--list-views', 'nope'], "'views' must be some of"),
        (['--learning-rate', '-1'], 'learning_rate'),
        (['--monitor', 'Recall'], 'monitor'),
        (['--epochs', '0'], 'epochs'),
        (['--temperature', '0'], 'temperature'),
    ],
)
def test_a_mistake_costs_no_student(distilled, copy_of, fails, words, message):
    run = copy_of(distilled)
    before = files_of(run)
    command = ['distill', run, *DISTILL, '--overwrite', *words]
    assert message in fails(*command)
    assert files_of(run) == before


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--embedding-dim', '0'], 'embedding_dim'),
        (['--learning-rate', '-1'], 'learning_rate'),
        (['--batch-size', '0'], 'batch_size'),
        (['--titles', 'nowhere.csv'], "nowhere.csv' of titles"),
    ],
)
def test_a_mistake_costs_no_teacher(distilled, files, copy_of, fails, words, message):
    run = copy_of(distilled)
    before = files_of(run)
    data = [files.table, '--features', f'text={files.text}', '--out', run]
    assert message in fails('train', *data, *TRAIN, '--overwrite', *words)
    assert files_of(run) == before


def test_a_mistake_leaves_no_half_run(files, tmp_path, fails, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = [files.table, '--features', f'text={files.text}', '--out', 'new/run']
    fails('train', *data, *TRAIN, '--batch-size', '0')
    assert not (tmp_path / 'new' / 'run').exists()


def trained_again(run, error, write=None):
    """Replaces the student, or its checkpoint, and fails."""
    with backup(run, run.student_dir):
        shutil.rmtree(run.student_dir, ignore_errors=True)
        if write is not None:
            write()
        raise error


def test_what_was_trained_stays_after_a_late_mistake(tmp_path):
    run = Run(tmp_path)
    write_json(run.config_file, {'format': FORMAT})
    write_json(run.student_dir / 'old.json', {})
    checkpoint = run.student_dir / CHECKPOINT
    with pytest.raises(ValueError, match='late'):
        trained_again(run, ValueError('late'), lambda: write_json(checkpoint, {}))
    assert list(files_of(tmp_path)) == ['config.json', f'student/{CHECKPOINT}']


def test_an_interruption_is_no_mistake(tmp_path):
    run = Run(tmp_path)
    write_json(run.config_file, {'format': FORMAT})
    write_json(run.student_dir / 'old.json', {})
    with pytest.raises(KeyboardInterrupt):
        trained_again(run, KeyboardInterrupt())
    assert list(files_of(tmp_path)) == ['config.json']


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    write_json(tmp_path / 'teacher' / 'mine.json', {})
    with pytest.raises(ValueError, match='no'):
        trained_again(Run(tmp_path), ValueError('no'))
    assert list(files_of(tmp_path)) == ['teacher/mine.json']


def test_files_are_copied_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError('no links here')

    monkeypatch.setattr('os.link', refuse)
    run = Run(tmp_path)
    write_json(run.config_file, {'format': FORMAT, 'x': 1})
    new = {'format': FORMAT, 'x': 2}
    with pytest.raises(ValueError, match='no'):
        trained_again(run, ValueError('no'), lambda: write_json(run.config_file, new))
    assert json.loads(run.config_file.read_text())['x'] == 1


def test_resume_names_the_option_that_differs(distilled, fails):
    message = fails('distill', distilled, *DISTILL, '--resume', '--alpha', '3')
    assert "('losses.alpha' was 1.0, is 3.0)" in message
    assert main(['distill', str(distilled), *DISTILL, '--resume']) == 0


def test_resume_of_a_teacher_names_the_option_too(distilled, files, fails):
    data = [files.table, '--features', f'text={files.text}', '--out', distilled]
    words = [*data, '--titles', files.titles, *TRAIN, '--resume']
    message = fails('train', *words, '--split-seed', '7')
    assert "('data.split.seed' was 0, is 7)" in message
    message = fails('train', *words, '--features', f'x={files.text}')
    assert "('data.features.x' was None, is" in message
    words = [files.table, '--no-prompt', '--titles', files.titles, '--out', distilled]
    message = fails('train', *words, *TRAIN, '--resume')
    assert f"('data.features.text' was {files.text}, is None)" in message


def test_a_folder_that_is_taken_is_named_before_contents_are_encoded(
    distilled, files, tmp_path, fails, monkeypatch
):
    def never(*_):
        raise AssertionError('too late')

    monkeypatch.setattr('promptmm_pyg.runs.stages.load_split', never)
    (tmp_path / 'mine.txt').write_text('x')
    assert 'is not a run' in fails('train', files.table, '--out', tmp_path)
    assert 'holds a run. Choose' in fails('train', files.table, '--out', distilled)
