"""``tune_run``: a run whose teacher is the best trial."""

import time

import pytest
import torch

from promptmm_pyg.runs import Run, RunError, train_run, tune_run
from promptmm_pyg.runs import tune as module
from promptmm_pyg.runs.tune import tuned_space

DATA = {
    'format': 'synthetic',
    'synthetic': {'num_users': 40, 'num_items': 60, 'num_clusters': 4},
    'split': {'method': 'per-user', 'val_ratio': 0.2, 'test_ratio': 0.2},
}
TRAIN = {'epochs': 2, 'batch_size': 128}
LIGHT_GCN = {
    'data': DATA,
    'model': 'LightGCN',
    'teacher': {'embedding_dim': 8, 'num_layers': 3},
    'train': TRAIN,
}


def tuned(path, config=LIGHT_GCN, **options):
    return tune_run(path, config, progress=False, **{'trials': 3, **options})


def test_the_teacher_is_the_best_trial(tmp_path):
    run = tuned(tmp_path / 'a')
    metrics = run.metrics('teacher')
    assert metrics['best_value'] == max(x['value'] for x in metrics['trials'])
    again = train_run(tmp_path / 'b', run.config, progress=False)
    parts = zip(run.teacher().parameters(), again.teacher().parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parts)
    assert run.evaluate()['teacher'].metrics['Recall@20'] == metrics['best_value']
    assert run.recommender().num_items == 60

    # What was made from the same trial stays; another one replaces it.
    (run.path / 'student').mkdir()
    run = tuned(run.path, trials=4, resume=True)
    assert len(run.metrics('teacher')['trials']) == 4
    is_new = run.metrics('teacher')['best_value'] > metrics['best_value']
    assert (run.path / 'student').exists() != is_new
    train_run(run.path, LIGHT_GCN, progress=False, overwrite=True)
    assert not (run.path / 'tuning').exists()


def test_the_first_trial_has_the_learning_rate_of_a_training(tmp_path):
    config = {**LIGHT_GCN, 'train': {'epochs': 1, 'batch_size': 8192}}
    (first,) = tuned(tmp_path, config, trials=1).metrics('teacher')['trials']
    assert first['params']['learning_rate'] == 0.01


def test_processes_tune_one_run(tmp_path, monkeypatch):
    journal, search = tmp_path / 'tuning' / 'trials.jsonl', module._search

    def search_later(*arguments, **options):
        while not journal.is_file() or '"worker"' not in journal.read_text():
            time.sleep(0.05)  # Until the other process runs a trial.
        return search(*arguments, **options)

    monkeypatch.setattr(module, '_search', search_later)
    run = tuned(tmp_path, {'data': DATA, 'model': 'EASE'}, trials=5, jobs=2)
    metrics = run.metrics('teacher')
    assert [trial['number'] for trial in metrics['trials']] == [0, 1, 2, 3, 4]
    assert run.config['teacher']['l2'] == metrics['best_params']['l2']


def test_a_setting_that_is_not_the_default_is_fixed():
    config = {**LIGHT_GCN, 'loss_weights': {'bpr': 1.0, 'l2': 1e-4}}
    assert set(tuned_space(config).space) == {'learning_rate', 'num_layers', 'l2'}
    config['teacher'] = {'num_layers': 2}
    config['loss_weights'] = {'bpr': 1.0, 'l2': 0.5}
    assert set(tuned_space(config).space) == {'learning_rate'}
    config['train'] = {'learning_rate': 0.1}
    assert set(tuned_space(config).space) == set()


def test_mistakes(tmp_path):
    with pytest.raises(RunError, match='has no search to continue'):
        tuned(tmp_path, resume=True)
    config = {**LIGHT_GCN, 'train': {'batch_size': 4}}
    with pytest.raises(ValueError, match=r"'minutes' .*at least .* \(got 1e-05\)"):
        tuned(tmp_path / 'a', config, minutes=1e-5)
    with pytest.raises(RunError, match=r'contains a search\. Pass --resume'):
        tuned(tmp_path / 'a')
    with pytest.raises(RunError, match=r"options and data of the search \('train.ba"):
        tuned(tmp_path / 'a', resume=True)
    assert Run(tuned(tmp_path / 'a', overwrite=True).path).has('teacher')
    with pytest.raises(RunError, match=r'contains a run\. Choose another --out'):
        tuned(tmp_path / 'a')
