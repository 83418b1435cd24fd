"""``tune``: its best trial is a training, budgets end it, failures are left out."""

import signal
import sys
from dataclasses import replace

import pytest
import torch

from promptmm_pyg.models import EASE, LightGCN, Popularity
from promptmm_pyg.search_space import Choices, SearchSpace
from promptmm_pyg.training import History, TrainingConfig, train
from promptmm_pyg.tuning import split_params, tune
from tests.training.setting import make_split

QUICK = TrainingConfig(epochs=3, patience=5, batch_size=64)
SMALL = {'embedding_dim': 4}
module = sys.modules[tune.__module__]


@pytest.fixture(scope='module')
def data():
    return make_split()


def tuned(data, **options):
    options = {'trials': 3, 'config': QUICK, 'progress': False, **options}
    return tune('LightGCN', data, arguments=SMALL, **options)


def test_the_best_trial_is_the_training_with_its_parameters(data):
    result = tuned(data)
    values = []
    for trial in result.trials:
        arguments, weights, training = split_params(LightGCN, trial.params)
        torch.manual_seed(QUICK.seed)
        model = LightGCN.from_data(data, **SMALL, **arguments)
        config = replace(QUICK, progress=False, **training)
        history = train(model, data, config=config, loss_weights=weights)
        assert (trial.value, trial.best_epoch) == history[2:0:-1]
        values.append(history.best_value)
        if trial.params == result.best_params:
            parts = zip(model.parameters(), result.model.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in parts)
    assert result.history.best_value == max(values)
    assert [trial.state for trial in result.trials] == ['complete'] * 3


@pytest.fixture
def scripted(monkeypatch):
    """Makes ``train`` validate as given, per trial and epoch; a model's first
    parameters are then the number of its trial.
    """

    def script(*curves):
        numbers = iter(range(len(curves)))

        def fake(model, _, *, config, **__):
            number, records = next(numbers), []
            torch.nn.init.constant_(next(model.parameters()), number)
            for epoch, value in enumerate(curves[number], 1):
                record = {'epoch': epoch, 'validation': {config.monitor: value}}
                records.append(record)
                if any(x.on_epoch('', record) for x in config.callbacks):
                    break
            values = curves[number][: len(records)]
            best = max(values)
            return History(records, values.index(best) + 1, best, config.monitor)

        monkeypatch.setattr(module, 'train', fake)

    return script


@pytest.mark.parametrize('is_on_disk', [False, True])
def test_the_best_trial_is_returned_of_equals_the_first(
    data, scripted, tmp_path, is_on_disk
):
    scripted([0.2], [0.1, 0.5, 0.4], [0.3], [0.5])
    result = tuned(data, trials=4, folder=tmp_path if is_on_disk else None)
    assert [trial.value for trial in result.trials] == [0.2, 0.5, 0.3, 0.5]
    assert result.best_params == result.trials[1].params
    assert result.history[1:3] == (2, 0.5)
    assert (next(result.model.parameters()) == 1).all()


@pytest.mark.parametrize('prune', [True, False])
def test_a_trial_that_is_worse_than_the_median_is_pruned(data, scripted, prune):
    config = replace(QUICK, patience=2, validate_every=1)
    median = [0.4, 0.5, 0.5]
    better, worse = [0.1, 0.6, 0.7], [0.4, 0.4, 0.9]
    scripted(*[median] * 4, better, worse)
    result = tuned(data, trials=6, config=config, prune=prune)
    ends = [(trial.state, trial.num_epochs, trial.value) for trial in result.trials]
    assert ends[:4] == [('complete', 3, 0.5)] * 4
    assert ends[4] == ('complete', 3, 0.7)
    # After the two epochs of ``patience``, with its best value so far.
    assert ends[5] == (('pruned', 2, 0.4) if prune else ('complete', 3, 0.9))
    assert (next(result.model.parameters()) == (4 if prune else 5)).all()


def test_closed_forms_are_tuned_alike(data):
    result = tune('EASE', data, trials=3, progress=False)
    refit = EASE.from_data(data, l2=result.best_params['l2'])
    users = torch.arange(60)
    scores = refit.fit(data.train['interacts'].edge_index).scores(users)
    assert torch.equal(result.model.scores(users), scores)


def test_a_setting_is_tried_once(data):
    assert len(tune(Popularity, data, trials=4, progress=False).trials) == 1
    space = SearchSpace({'k': Choices(5, (5, 10))})
    result = tune('ItemKNN', data, trials=9, space=space, progress=False)
    assert [trial.params['k'] for trial in result.trials] == [5, 10]


def test_what_is_given_is_not_tuned(data):
    result = tuned(data, trials=2, loss_weights={'l2': 0.01})
    assert set(result.best_params) == {'learning_rate', 'num_layers'}


def test_a_folder_is_continued(data, tmp_path):
    first = tuned(data, trials=2, folder=tmp_path)
    again = tuned(data, trials=3, folder=tmp_path)
    assert again.trials[:2] == first.trials
    assert len(again.trials) == 3
    # The best state is read from the folder, also without a further trial.
    same = tuned(data, trials=3, folder=tmp_path)
    parts = zip(same.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parts)


def test_a_failing_trial_is_left_out(data, monkeypatch, capsys):
    calls = []

    def flaky(*arguments, **options):
        calls.append(options['config'])
        if len(calls) == 1:
            raise FloatingPointError("'loss' must be finite")
        return train(*arguments, **options)

    monkeypatch.setattr(module, 'train', flaky)
    result = tuned(data, trials=2, progress=True)
    assert [trial.state for trial in result.trials] == ['failed', 'complete']
    assert "'loss' must be finite" in result.trials[0].error
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("trial 1: failed (FloatingPointError: 'loss' must")
    assert lines[1].startswith('trial 2: Recall@20 0.')
    assert 'learning_rate 0.003, num_layers 3, l2 0.03; best 0.' in lines[1]


def test_the_error_of_every_trial_is_raised(data):
    with pytest.raises(ValueError, match="'embedding_dim' must be positive"):
        tune('LightGCN', data, trials=9, arguments={'embedding_dim': 0}, progress=False)


def test_the_end_of_the_time_ends_a_trial_with_its_best_epoch(data):
    config = replace(QUICK, batch_size=4096)
    (trial,) = tuned(data, trials=None, minutes=1e-4, config=config).trials
    assert (trial.state, trial.num_epochs) == ('stopped', 1)
    with pytest.raises(ValueError, match=r"'minutes' .*at least .* epoch of LightGCN"):
        tuned(data, minutes=1e-4, config=replace(QUICK, batch_size=4))


def test_ctrl_c_ends_with_the_best_so_far(data):
    def press():  # Called before each trial and after each epoch.
        calls.append(None)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return False

    calls = []
    before = signal.getsignal(signal.SIGINT)
    (trial,) = tuned(data, should_stop=press).trials
    assert (trial.state, trial.num_epochs) == ('stopped', 2)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, "'trials' or 'minutes' must be set"),
        ({'trials': 0}, "'trials' must be positive"),
        ({'minutes': -1.0}, "'minutes' must be positive"),
        ({'trials': 1, 'config': replace(QUICK, validate_every=0)}, 'validate_every'),
    ],
)
def test_mistakes(data, options, message):
    with pytest.raises(ValueError, match=message):
        tune('LightGCN', data, progress=False, **options)
