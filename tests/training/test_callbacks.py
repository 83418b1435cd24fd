"""Callbacks of trainings, and trackers with their real libraries."""

import warnings

import pytest

from promptmm_pyg.distillation import distill
from promptmm_pyg.models import EASE
from promptmm_pyg.training import (
    Callback,
    MLflowTracker,
    TensorBoardTracker,
    TrainingConfig,
    WandbTracker,
    train,
)
from tests.training.setting import Stop, make_split, make_student, make_teacher


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_epoch(self, name, record):
        self.calls.append(('epoch', name, record['epoch']))

    def on_validation(self, name, record):
        self.calls.append(('validation', name, record['epoch']))

    def on_end(self, name, history):
        self.calls.append(('end', name, history.num_epochs))


def configured(callback, **options):
    options = {'epochs': 3, 'validate_every': 2, **options}
    return TrainingConfig(progress=False, callbacks=(callback,), **options)


def test_callbacks_are_called_in_order():
    data, recorder = make_split(), Recorder()
    train(make_student(data.train), data, config=configured(recorder))
    name = type(make_student(data.train)).__name__
    assert recorder.calls == [
        ('epoch', name, 1),
        ('epoch', name, 2),
        ('validation', name, 2),
        ('epoch', name, 3),
        ('validation', name, 3),  # The last one, always.
        ('end', name, 3),
    ]
    recorder.calls.clear()
    config = configured(recorder, epochs=1)
    distill(make_student(data.train), make_teacher(data.train), data, config=config)
    ends = [call for call in recorder.calls if call[0] == 'end']
    assert ends == [('end', 'baseline', 1), ('end', 'student', 1)]
    recorder.calls.clear()
    train(EASE.from_data(data), data, config=config)
    assert recorder.calls == [('validation', 'EASE', 1), ('end', 'EASE', 1)]


def test_a_callback_ends_a_training_and_all_see_its_end():
    data, recorder = make_split(), Recorder()
    callbacks = (Stop(), recorder)
    config = TrainingConfig(validate_every=2, progress=False, callbacks=callbacks)
    history = train(make_student(data.train), data, config=config)
    assert [call[::2] for call in recorder.calls] == [('epoch', 1), ('end', 1)]
    assert history.best_epoch == 1


def tracked(tracker):
    """A training; returns its history."""
    data = make_split()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = make_student(data.train)
        return type(model).__name__, train(model, data, config=configured(tracker))


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name, history = tracked(TensorBoardTracker(tmp_path, {'width': 4}))
    events = EventAccumulator(str(tmp_path / name)).Reload()
    losses = [event.value for event in events.Scalars('loss')]
    assert losses == pytest.approx([x['loss'] for x in history.records])
    (first, last) = events.Scalars('validation/Recall@20')
    assert (first.step, last.step) == (2, 3)
    assert events.Scalars('best_value')[0].value == pytest.approx(history.best_value)


@pytest.mark.filterwarnings('ignore')
def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    uri = f'file:{tmp_path}'
    name, history = tracked(MLflowTracker(uri, params={'width': 4}))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name('promptmm_pyg')
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (name, 'FINISHED')
    assert run.data.params == {'width': '4'}
    values = client.get_metric_history(run.info.run_id, 'validation/Recall_at_20')
    assert [x.step for x in values] == [2, 3]
    assert run.data.metrics['best_value'] == pytest.approx(history.best_value)


@pytest.mark.filterwarnings('ignore')
def test_weights_and_biases(tmp_path):
    pytest.importorskip('wandb')
    tracked(WandbTracker('mine', tmp_path, params={'width': 4}))
    (folder,) = (tmp_path / 'wandb').glob('offline-run-*')
    assert list(folder.glob('*.wandb'))


def test_a_tracker_that_cannot_write_is_turned_off(tmp_path):
    class Broken(TensorBoardTracker):
        def __init__(self):
            super(TensorBoardTracker, self).__init__()

        def _open(self, name):
            raise OSError('No space\nleft')

    data = make_split()
    with pytest.warns(
        UserWarning, match=r"^'Broken' must be able .* left\). N"
    ) as seen:
        history = train(make_student(data.train), data, config=configured(Broken()))
    assert history.num_epochs == 3
    assert sum('Broken' in str(x.message) for x in seen) == 1


@pytest.mark.parametrize(
    ('tracker', 'module'),
    [
        (lambda path: TensorBoardTracker(path), 'torch.utils.tensorboard'),
        (lambda path: MLflowTracker('file:x'), 'mlflow'),
        (lambda path: WandbTracker('x'), 'wandb'),
    ],
)
def test_a_missing_library_is_named(tracker, module, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, module, None)
    package = module.rpartition('.')[2]
    with pytest.raises(ImportError, match=f"requires '{package}'.*pip install"):
        tracker(tmp_path)
