import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.runs import Run
from promptmm_pyg.training import loop

from .conftest import DISTILL, TRAIN

LONG = ['--epochs', '9', '--patience', '9']


@pytest.fixture
def interrupted(monkeypatch):
    """Runs a command that is interrupted after some epochs."""

    def run(epochs, *words):
        shown = []

        def interrupt(*_):
            shown.append(None)
            if len(shown) == epochs:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loop, '_show', interrupt)
            assert main([str(word) for word in words]) == 130

    return run


def model(run, name):
    return (run / name / 'model.safetensors').read_bytes()


def test_a_finished_teacher_is_that_of_its_best_epoch(
    trained, files, tmp_path, interrupted, capsys
):
    data = [files.table, '--features', f'text={files.text}', '--titles', files.titles]
    run = tmp_path / 'run'
    interrupted(2, 'train', *data, '--out', run, *TRAIN, *LONG)
    assert main(['finish', str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith('teacher: validation Recall@20')
    assert f'next: promptmm distill {run}' in out
    assert model(run, 'teacher') == model(trained, 'teacher')
    assert Run.open(run).metrics('teacher') == Run(trained).metrics('teacher')


@pytest.mark.parametrize('epochs', [2, 4])  # In the baseline's run, in the student's.
def test_a_finished_student_and_its_baseline_are_those_of_their_best_epochs(
    trained, distilled, copy_of, interrupted, epochs
):
    run = copy_of(trained)
    interrupted(epochs, 'distill', run, *DISTILL)
    assert main(['finish', str(run)]) == 0
    for name in ('student', 'student/baseline'):
        assert model(run, name) == model(distilled, name)
    assert Run(run).recommender().num_items == 60


def test_a_finished_training_can_be_continued(trained, distilled, copy_of, interrupted):
    run = copy_of(trained)
    interrupted(1, 'distill', run, *DISTILL)
    assert main(['finish', str(run)]) == 0
    assert main(['distill', str(run), *DISTILL, '--resume']) == 0
    assert model(run, 'student') == model(distilled, 'student')
    assert model(run, 'student/baseline') == model(distilled, 'student/baseline')


def test_a_search_is_finished_with_the_trials_it_has(trained, copy_of, interrupted):
    run = copy_of(trained)
    interrupted(5, 'distill', run, *DISTILL, '--tune', '3')
    assert main(['finish', str(run)]) == 0
    assert len(Run(run).metrics('student')['trials']) == 2


def test_a_run_without_an_interrupted_training_is_a_mistake(distilled, fails):
    message = fails('finish', distilled)
    assert 'with a complete epoch (got none)' in message


def test_an_epoch_before_the_first_validation_is_validated(
    trained, copy_of, interrupted
):
    run = copy_of(trained)
    words = ['--validate-every', '5', '--start', 'random', '--no-baseline']
    interrupted(1, 'distill', run, *DISTILL, *LONG, *words)
    assert main(['finish', str(run)]) == 0
    assert Run(run).metrics('student')['best_epoch'] == 1


def test_a_folder_that_is_no_run_is_a_mistake(tmp_path, fails):
    assert 'is not a run' in fails('finish', tmp_path)
