"""Which trial is trained next, against learning curves made by hand."""

import pytest

from promptmm_pyg.auto.trials import (
    Trial,
    as_config,
    draw_trial,
    models_for,
    next_trial,
    setting,
)
from promptmm_pyg.models import MODELS


def halve(curves, num_steps, weights=()):
    """The trained (name, rung), one at a time; ``curves`` has a value per rung."""
    trials = [Trial(name, 'VBPR') for name in curves]
    steps = []
    for _ in range(num_steps):
        trial = next_trial(trials, explore=True)
        if trial is None:
            break
        trial.rung += 1
        trial.value = max(trial.value, curves[trial.name][trial.rung])
        trial.weight = dict(weights).get(trial.name, 0.0)
        trial.status = 'paused'
        steps.append(f'{trial.name}{trial.rung}')
    return steps


def test_one_in_three_is_continued_the_highest_rung_first():
    curves = {
        'a': (0.10,),
        'b': (0.20,),
        'c': (0.30, 0.31),  # The best of three.
        'd': (0.40, 0.50, 0.6),  # Better than these: continued at once.
        'e': (0.05,),
        'f': (0.35, 0.36),  # The second of six.
        'g': (0.01,),
    }
    # With c, d and f on rung 1, the best of them goes on to rung 2 before g begins.
    expected = ['a0', 'b0', 'c0', 'c1', 'd0', 'd1', 'e0', 'f0', 'f1', 'd2', 'g0']
    assert halve(curves, 20) == expected


def test_a_weaker_trial_with_most_weight_in_the_ensemble_is_continued():
    curves = {'a': (0.3, 0.3), 'b': (0.2, 0.2), 'c': (0.1, 0.1)}
    assert halve(curves, 9) == ['a0', 'b0', 'c0', 'a1']
    steps = halve(curves, 9, {'b': 0.01, 'c': 0.05}.items())
    assert steps == ['a0', 'b0', 'c0', 'a1', 'c1']


def test_the_best_trial_of_a_reference_is_continued_too():
    trials = [
        Trial(name, model, status='paused', rung=rung, value=value)
        for name, model, rung, value in (
            ('x', 'VBPR', 1, 0.5),
            ('y', 'VBPR', 0, 0.4),
            ('z', 'VBPR', 0, 0.3),
            ('LightGCN', 'LightGCN', 0, 0.1),
            ('LightGCN-2', 'LightGCN', 0, 0.05),
        )
    ]
    assert next_trial(trials, explore=True).name == 'LightGCN'
    trials[3].status = 'done'
    assert next_trial(trials, explore=True) is None
    # At the end, the most promising one of any rung.
    assert next_trial(trials, explore=False).name == 'x'


def test_a_failed_trial_is_no_peer_and_nothing_is_left_of_an_empty_search():
    trials = [Trial('a', 'VBPR', status='failed'), Trial('b', 'VBPR')]
    assert next_trial(trials, explore=True).name == 'b'
    assert next_trial(trials[:1], explore=False) is None
    assert draw_trial(trials[:1], 0) is None


def test_settings_begin_with_the_defaults_and_are_drawn_from_the_search_space():
    space = MODELS['LightGCN'].search_space.space
    assert setting('LightGCN', 0, 0) == {}
    assert setting('LightGCN', 1, 0)['l2'] == 0.03
    assert 'learning_rate' not in setting('LightGCN', 1, 0)  # 'auto' chooses it.
    drawn = [setting('LightGCN', n, 0) for n in range(2, 30)]
    rates = [params['learning_rate'] for params in drawn]
    assert min(rates) >= space['learning_rate'].low
    assert max(rates) <= space['learning_rate'].high
    assert {params['num_layers'] for params in drawn} == {2, 3, 4, 6}
    assert drawn == [setting('LightGCN', n, 0) for n in range(2, 30)]
    assert drawn != [setting('LightGCN', n, 1) for n in range(2, 30)]


def test_a_reference_is_tuned_by_as_many_trials_as_any_other_model():
    # The reference is the worst of ten models.
    names = [m for m in MODELS if MODELS[m].search_space.space and m != 'LightGCN']
    names = [m for m in names if m not in ('EASE', 'ItemKNN', 'GraphFilter')][:9]
    trials = [Trial(m, m, status='done', value=0.5) for m in names]
    trials.append(Trial('LightGCN', 'LightGCN', status='done', value=0.1))
    for number in range(27):
        trial = draw_trial(trials, 0)
        assert trial is not None
        trial.value, trial.status = 0.01 * number / 27, 'done'
        trials.append(trial)
    counts = [sum(x.model == m for x in trials) for m in names]
    assert sum(x.model == 'LightGCN' for x in trials) >= max(counts) > 1
    assert trials[10].name == 'LightGCN-2'


def test_models_with_weight_are_tried_again_and_with_other_seeds():
    names = ('LightGCN', 'VBPR', 'BM3', 'CLCRec')
    trials = [
        Trial(m, m, status='done', value=0.3 - 0.1 * n) for n, m in enumerate(names)
    ]
    trials[3].weight = 0.8  # The worst one.
    trials[1].weight = 0.2
    for _ in range(20):
        trial = draw_trial(trials, 7, num_best=2)
        assert trial is not None
        trial.value, trial.status = -1.0, 'done'
        trials.append(trial)
    counts = {m: sum(x.model == m for x in trials) for m in names}
    # Shares .5, .7 (1/2 + .2), 0 and .8; a reference is tried as often as any other.
    assert counts == {'LightGCN': 9, 'VBPR': 6, 'BM3': 1, 'CLCRec': 8}
    drawn = [x for x in trials if x.model == 'CLCRec']
    assert [x.seed for x in drawn] == [None, None, 9, None, 11, None, 13, None]
    assert drawn[2].params == drawn[0].params == {}
    assert drawn[1].params == setting('CLCRec', 1, 7)
    assert drawn[3].params == setting('CLCRec', 3, 7)
    config = as_config(drawn[2], {'train': {'seed': 7}})
    assert config['train']['seed'] == 9


def test_without_features_only_models_of_ids_are_trained():
    names = models_for(None, has_features=False)
    assert {'EASE', 'GraphFilter', 'LightGCN'} <= set(names)
    assert not {'VBPR', 'FREEDOM', 'PromptMM'} & set(names)
    with pytest.raises(ValueError, match=r"'models' \(--models\) must .*got .'VBPR'"):
        models_for(['VBPR'], has_features=False)


def test_hyperparameters_are_sorted_into_the_settings_of_a_run():
    params = {'learning_rate': 0.01, 'num_layers': 2, 'l2': 0.1}
    config = as_config(Trial('x', 'LightGCN', params), {'train': {'seed': 3}})
    assert config['train'] == {'seed': 3, 'learning_rate': 0.01}
    assert config['teacher'] == {'embedding_dim': 64, 'num_layers': 2}
    assert config['loss_weights'] == {'l2': 0.1}


def test_a_model_of_four_times_the_seconds_is_tried_half_as_often():
    trials = [
        Trial('VBPR', 'VBPR', status='done', value=0.2, seconds=10.0),
        Trial('BM3', 'BM3', status='done', value=0.1, seconds=40.0),
    ]
    for _ in range(28):
        trial = draw_trial(trials, 0)
        assert trial is not None
        trial.value, trial.status = -1.0, 'done'
        trial.seconds = {'VBPR': 10.0, 'BM3': 40.0}[trial.model]
        trials.append(trial)
    assert sum(x.model == 'VBPR' for x in trials) == 20


def test_at_the_end_only_trials_of_the_best_third_are_continued():
    trials = [
        Trial(f'{n}', 'VBPR', status='paused', rung=0, value=0.1 * n) for n in range(6)
    ]
    assert next_trial(trials, explore=False).name == '5'
    trials[5].status = trials[4].status = 'done'
    assert next_trial(trials, explore=False) is None
    trials[0].weight = 0.5  # The weakest one, but in the ensemble.
    assert next_trial(trials, explore=False).name == '0'
