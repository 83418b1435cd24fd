import json
import sys

import pytest
import torch

from benchmarks import (
    losses,
    mix_bench,
    mix_teachers,
    mixture,
    report,
    suite,
    suite_teachers,
)
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.distillation import fit_ensemble_weights
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
MODELS = ('Popularity', 'EASE', 'LightGCN', 'VBPR')


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Runs a suite, then its mixture; returns the result's path."""
    split = split_per_user(make_synthetic_dataset(60, 120, 4))
    for module in (suite, mixture):
        monkeypatch.setattr(module, 'read', lambda *_: split)
    schedule = Schedule(epochs=1, patience=1, progress=False)
    for module in (losses, mix_bench, mixture):
        monkeypatch.setattr(module, 'SCHEDULE', schedule)

    def start(module, *arguments):
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', ['x', *arguments, *folders])
        module.main()

    def both(setting='synthetic'):
        seeds = ['--seeds', '0', '1']
        size = ['--trials', '1', '--epochs', '2', '--jobs', '0']
        start(suite, 'synthetic', '--models', *MODELS, *size, *seeds)
        path = str(tmp_path / 'suite-synthetic.json')
        start(mixture, setting, *seeds, '--widths', '4', '--suite', path)
        return tmp_path / 'mixture-suite-synthetic.json'

    both.split = split
    return both


def test_teachers_are_the_best_model_and_mixtures_of_all(quick):
    path = quick()
    result = json.loads(path.read_text())
    models = json.loads((path.parent / 'suite-synthetic.json').read_text())
    best, mixed, every = result['teachers']
    strongest = max(
        MODELS[1:], key=lambda name: models['models'][name]['validation']['mean']
    )
    assert [row['name'] for row in (best, mixed, every)] == [
        strongest,
        'mixture',
        'mixture of all seeds',
    ]
    assert best['weights'] == [{strongest: 1.0}] * 2
    for row in (mixed, every):
        assert all(set(w) == set(MODELS[1:]) for w in row['weights'])
        assert all(sum(w.values()) == pytest.approx(1.0) for w in row['weights'])
    assert every['val']['std'] == 0.0  # One teacher, whatever a student's seed.
    assert mixed['weights'][0] != mixed['weights'][1]
    rivals = result['students'][:2]
    rows = {row['name']: row for row in result['students'][2:]}
    for row in rivals:
        name = row['name']
        seeds = models['models'][name]['test']['Recall@20']['seeds']
        expected = seeds if len(seeds) == 2 else seeds * 2
        assert row['test']['seeds'] == pytest.approx(expected, abs=1e-6)
    assert [(row['name'], row['width']) for row in rivals] == [
        ('LightGCN', 64),
        ('EASE', 120),
    ]
    gain = rows['mixture']['test']['mean'] - rivals[0]['test']['mean']
    found = rows['mixture']['over_LightGCN']['difference']
    assert found == pytest.approx(gain, abs=1e-6)
    table = report.render(path)
    assert f'| {strongest} 1.00 |' in table
    assert '| mixture of all seeds, cut | 4 |' in table


def test_a_trained_models_tables_are_those_it_was_tested_with(quick, monkeypatch):
    made, original = [], suite_teachers.SuiteTeachers.__init__

    def init(self, *args):
        original(self, *args)
        made.append(self)

    monkeypatch.setattr(suite_teachers.SuiteTeachers, '__init__', init)
    quick()
    (teachers,) = made
    for name in ('LightGCN', 'VBPR'):
        for seed in (0, 1):
            x_dict = teachers.tables(name, seed).x_dict
            found = evaluate(x_dict, quick.split.test, ks=(20,)).per_user['Recall@20']
            assert torch.equal(found, teachers.rival(name, seed))
    both = teachers.every_seed('VBPR').x_dict
    parts = [teachers.tables('VBPR', seed).x_dict for seed in (0, 1)]
    scores = both['user'] @ both['item'].t()
    expected = sum(_units(part['user'] @ part['item'].t()) for part in parts)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    every = {name: teachers.every_seed(name) for name in MODELS[1:]}
    weights = fit_ensemble_weights(every, teachers.bench.train, quick.split.val)
    assert teachers.of_seed('mixture of all seeds', 1).weights == weights


def _units(scores):
    """Scores in units of their spread among a user's items."""
    return scores / scores.var(dim=1, unbiased=False).mean().sqrt()


def test_finished_trainings_are_not_repeated(quick, monkeypatch):
    first = quick().read_text()
    monkeypatch.setattr(losses, 'distill', None)
    monkeypatch.setattr(mix_teachers, 'fitted', None)
    assert quick().read_text() == first


def test_a_suite_of_other_data_is_told(quick):
    with pytest.raises(
        ValueError, match=r"result on 'tiktok' \(got one on 'synthetic'"
    ):
        quick('tiktok')
