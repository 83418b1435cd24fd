import json

import pytest
import torch

from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.distillation import distill
from promptmm_pyg.distillation.search import search_settings
from promptmm_pyg.models import LightGCN, PromptMM
from promptmm_pyg.training import LastEpochWarning, TrainingConfig, train

CONFIG = TrainingConfig(epochs=2, batch_size=256, learning_rate=3e-3, progress=False)


@pytest.fixture(scope='module')
def data():
    return split_per_user(make_synthetic_dataset(60, 40, 4), 0.2, 0.0)


def models(data):
    torch.manual_seed(0)
    return (
        LightGCN.from_data(data, embedding_dim=4),
        PromptMM.from_data(data, embedding_dim=8),
    )


def test_settings_start_with_those_given_and_stay_in_range():
    settings = search_settings(0.001, 0.01, 9)
    assert settings[0] == (0.001, 0.01)
    assert len(set(settings)) == 9
    rates, penalties = zip(*settings, strict=True)
    assert min(rates) >= 0.0001
    assert max(rates) <= 0.004
    assert min(penalties) >= 1e-4
    assert max(penalties) <= 0.3
    assert settings[:4] == search_settings(0.001, 0.01, 4)


@pytest.mark.parametrize('prompt', ['frozen', 'joint'])
def test_student_and_baseline_are_the_best_of_the_same_trials(data, prompt):
    student, teacher = models(data)
    result = distill(student, teacher, data, prompt=prompt, config=CONFIG, tune=3)
    expected = []
    for rate, penalty in search_settings(CONFIG.learning_rate, 1e-4, 3):
        own, other = models(data)
        config = TrainingConfig(
            epochs=2, batch_size=256, progress=False, learning_rate=rate
        )
        weights = {'l2': penalty}
        trial = distill(
            own, other, data, prompt=prompt, config=config, loss_weights=weights
        )
        expected.append((trial, other))
    assert [trial['student'] for trial in result.trials] == [
        trial.history.best_value for trial, _ in expected
    ]
    best, best_teacher = max(expected, key=lambda pair: pair[0].history.best_value)
    assert result.student is student
    assert torch.equal(
        student.embeddings.tables['item'], best.student.embeddings.tables['item']
    )
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, best_teacher.state_dict()[key])
    baseline, _ = max(expected, key=lambda pair: pair[0].baseline_history.best_value)
    assert torch.equal(
        result.baseline.embeddings.tables['item'],
        baseline.baseline.embeddings.tables['item'],
    )
    assert result.baseline_history.best_value == baseline.baseline_history.best_value


def test_without_a_search_there_are_no_trials(data):
    student, teacher = models(data)
    assert distill(student, teacher, data, config=CONFIG).trials is None


def test_an_interrupted_search_continues(data, tmp_path):
    config = TrainingConfig(
        epochs=2, batch_size=256, progress=False, run_dir=tmp_path / 'a'
    )
    student, teacher = models(data)
    expected = distill(student, teacher, data, config=config, tune=3)
    config = TrainingConfig(
        epochs=2, batch_size=256, progress=False, run_dir=tmp_path / 'b'
    )
    other, teacher = models(data)
    distill(other, teacher, data, config=config, tune=2)
    other, teacher = models(data)
    config = TrainingConfig(**{**vars(config), 'resume': True})
    result = distill(other, teacher, data, config=config, tune=3)
    assert result.trials == expected.trials
    assert torch.equal(
        other.embeddings.tables['item'], student.embeddings.tables['item']
    )
    for name in ('log.jsonl', 'baseline/log.jsonl'):
        lines = (tmp_path / 'b' / name).read_text().splitlines()
        assert [json.loads(line)['epoch'] for line in lines] == [1, 2]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'tune': -1}, "'tune' must be zero or more"),
        ({'tune': 2, 'baseline_loss_weights': {'l2': 1.0}}, "'baseline_loss_weights'"),
    ],
)
def test_options_of_the_search_are_checked(data, options, message):
    student, teacher = models(data)
    with pytest.raises(ValueError, match=message):
        distill(student, teacher, data, config=CONFIG, **options)


def test_a_student_without_a_penalty_has_no_search(data):
    student, teacher = models(data)
    student.loss_weights = {'bpr': 1.0}
    with pytest.raises(ValueError, match="'tune' requires a student"):
        distill(student, teacher, data, config=CONFIG, tune=2)


def test_the_last_epoch_as_the_best_one_is_a_warning(data):
    student, teacher = models(data)
    config = TrainingConfig(epochs=1, batch_size=256, progress=False)
    with pytest.warns(LastEpochWarning, match="'LightGCN' is the last .1.: raise"):
        train(student, data, config=config)
    with pytest.warns(LastEpochWarning) as caught:
        distill(student, teacher, data, start='random', config=config)
    assert [x.message.args for x in caught] == [('baseline', 1), ('student', 1)]


def test_without_validation_the_last_epoch_is_kept(data, recwarn):
    student, _ = models(data)
    states = []
    student.register_forward_pre_hook(
        lambda *_: states.append(student.embeddings.tables['item'].detach().clone())
    )
    config = TrainingConfig(epochs=3, validate_every=0, progress=False)
    history = train(student, data, config=config)
    assert history.num_epochs == history.best_epoch == 3
    assert all('validation' not in record for record in history.records)
    assert not student.training
    assert len(states) == 3  # One batch per epoch, and no validation.
    assert not [x for x in recwarn if issubclass(x.category, LastEpochWarning)]
