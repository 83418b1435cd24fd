import pytest

from promptmm_pyg.cli import main
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


def test_a_folder_in_use_is_an_error_before_contents_are_encoded(
    distilled, files, tmp_path, fails, monkeypatch
):
    def never(*_):
        raise AssertionError('too late')

    monkeypatch.setattr('promptmm_pyg.runs.stages.load_split', never)
    (tmp_path / 'notes.txt').write_text('x')
    assert 'is not a run' in fails('train', files.table, '--out', tmp_path)
    assert 'contains a run. Choose' in fails('train', files.table, '--out', distilled)
