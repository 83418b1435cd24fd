"""``Study``: its trials are Optuna's, killed ones are run again, limits are exact."""

import math
import sys

import optuna
import pytest

from promptmm_pyg.search_space import Choices, Range, SearchSpace, trained_space
from promptmm_pyg.tuning import Study

SPACE = trained_space(1e-4, num_layers=Choices(3, (2, 3, 4, 6)))


def objective(params):
    return -abs(math.log(params['l2'] / 1e-2)) - abs(params['num_layers'] - 4)


def trials_by_hand(count):
    """The same search in plain Optuna."""
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction='maximize', sampler=sampler)
    first = {'learning_rate': 3e-3, 'num_layers': 3, 'l2': 1e-4}
    study.enqueue_trial(first)
    study.enqueue_trial({**first, 'l2': 0.03})
    for _ in range(count):
        trial = study.ask()
        params = {
            'learning_rate': trial.suggest_float('learning_rate', 1e-3, 2e-2, log=True),
            'num_layers': trial.suggest_categorical('num_layers', (2, 3, 4, 6)),
            'l2': trial.suggest_float('l2', 1e-5, 0.2, log=True),
        }
        study.tell(trial, objective(params))
        yield params


def test_trials_in_memory_are_those_of_optuna():
    study, found = Study(SPACE, seed=0), []
    while (trial := study.ask(limit=14)) is not None:
        found.append(trial.params)
        study.tell(trial, objective(trial.params))
    assert found == list(trials_by_hand(14))
    best = max(found, key=objective)
    assert (study.best.params, study.best.value) == (best, objective(best))


def test_processes_share_a_study_and_its_limit(tmp_path):
    with Study(SPACE, folder=tmp_path) as one, Study(SPACE, folder=tmp_path) as two:
        trials = [study.ask(limit=5) for study in (one, two, one, two, one)]
        assert one.ask(limit=5) is two.ask(limit=5) is None
        assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
        drawn = [trial.params for trial in trials]
        assert all(a != b for n, a in enumerate(drawn) for b in drawn[:n])
        for study, trial in zip((one, two, one, two, one), trials, strict=True):
            study.tell(trial, trial.number / 10, seconds=1.0)
        assert one.best == two.best
        assert two.best.number == 4
    with Study(SPACE, folder=tmp_path) as three:
        assert [trial.value for trial in three.trials()] == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_the_trial_of_a_killed_process_is_run_again(tmp_path):
    killed = Study(SPACE, folder=tmp_path)
    with killed:
        first, second = killed.ask(), killed.ask()
        killed.tell(first, 0.5)
    # Its lock is free, and no end of its second trial was recorded.
    with Study(SPACE, folder=tmp_path) as study:
        again = study.ask(limit=2)
        assert again.params == second.params
        assert study.ask(limit=2) is None
        study.tell(again, 0.25)
        assert [trial.value for trial in study.trials()] == [0.5, 0.25]


def test_a_forgotten_trial_leaves_no_record(tmp_path):
    with Study(SPACE, folder=tmp_path) as study:
        trial = study.ask()
        study.forget(trial)
        assert study.trials() == []
        assert trial.params in (study.ask().params, study.ask().params)


def test_a_trial_below_the_median_is_pruned_after_the_warmup():
    study = Study(SearchSpace({'x': Range(1.0, 0.1, 10.0)}), warmup=2)
    for value in (0.1, 0.2, 0.3, 0.4):
        trial = study.ask()
        assert not any(study.report(trial, epoch, value) for epoch in (1, 2, 3))
        study.tell(trial, value)
    bad, good = study.ask(), study.ask()
    assert [study.report(bad, epoch, 0.24) for epoch in (1, 2)] == [False, True]
    assert [study.report(good, epoch, 0.26) for epoch in (1, 2)] == [False, False]
    study.tell(bad, 0.24, 'pruned')
    study.tell(good, 0.26)
    assert [x.number for x in study.trials() if x.state == 'pruned'] == [4]


def test_failed_trials_are_recorded_and_not_the_best():
    study = Study(SPACE)
    good, bad = study.ask(), study.ask()
    study.tell(bad, None, 'failed', error='too large', seconds=1.0)
    study.tell(good, -1.0)
    assert study.best.number == 0
    assert study.trials()[1].error == 'too large'
    assert study.known(bad.params) is None
    assert study.known(good.params).value == -1.0


def test_a_search_requires_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(ImportError, match=r"'optuna'.*\[tune\]"):
        Study(SPACE)
