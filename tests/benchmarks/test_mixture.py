import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import (
    losses,
    mix_bench,
    mix_teachers,
    mixture,
    report,
    run,
    settings,
)
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Runs the teachers' benchmark, then this one; returns its result."""
    setting = replace(settings.SETTINGS['synthetic'], epochs=1, validate_every=1)
    monkeypatch.setitem(settings.SETTINGS, 'synthetic', setting)
    split = split_per_user(make_synthetic_dataset(60, 120, 4))
    schedule = Schedule(epochs=1, patience=1, progress=False)
    for module in (run, mixture):
        monkeypatch.setattr(module, 'read', lambda *_: split)
    for module in (losses, mix_bench, mixture):
        monkeypatch.setattr(module, 'SCHEDULE', schedule)

    def start(module, *arguments):
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', ['x', 'synthetic', *arguments, *folders])
        module.main()

    def both():
        if not (tmp_path / 'work').exists():
            start(run, '--seeds', '0', '1')
        start(mixture, '--seeds', '0', '1', '--widths', '4', '8')
        return tmp_path / 'mixture-synthetic.json'

    return both


def test_every_student_stands_beside_control_cut_teacher_and_other_models(quick):
    path = quick()
    result = json.loads(path.read_text())
    names = [(row['name'], row['width']) for row in result['students']]
    of_width = ['no teacher']
    for name in mix_teachers.TEACHERS:
        of_width += [name, f'{name}, cut']
    expected = [('LightGCN', 64), ('EASE', 120)]
    assert names == expected + [(x, width) for width in (4, 8) for x in of_width]
    rows = {(row['name'], row['width']): row for row in result['students']}
    assert all(len(row['test']['seeds']) == 2 for row in rows.values())
    rivals = {'over_control': None, 'over_LightGCN': 64, 'over_EASE': 120}
    for (name, width), row in rows.items():
        for key, other in rivals.items():
            taught = name in mix_teachers.TEACHERS and width in (4, 8)
            assert (key in row) == taught
            if taught:
                rival = rows[key[5:] if other else 'no teacher', other or width]
                gain = row['test']['mean'] - rival['test']['mean']
                assert row[key]['difference'] == pytest.approx(gain, abs=1e-6)
    table = report.render(path)
    assert all(f'| {name} |' in table for name, _ in rows)
    assert '| - no teacher (95 %) | - LightGCN (95 %) | - EASE (95 %) |' in table


def test_lightgcn_is_that_of_the_teachers_benchmark(quick, tmp_path):
    result = json.loads(quick().read_text())
    (row,) = (row for row in result['students'] if row['name'] == 'LightGCN')
    other = json.loads((tmp_path / 'synthetic.json').read_text())
    for name, values in (('LightGCN', row), ('EASE', result['students'][1])):
        expected = other['models'][name]['test']['Recall@20']['seeds']
        assert values['test']['seeds'] == pytest.approx(expected, abs=1e-6)


def test_the_mixture_has_weights_of_all_and_the_others_of_one(quick):
    result = json.loads(quick().read_text())
    *singles, mixed = (row['weights'][0] for row in result['teachers'])
    for name, weights in zip(mix_teachers.TEACHERS, singles, strict=False):
        assert weights == {x: float(x == name) for x in mix_teachers.TEACHERS[:-1]}
    assert sum(mixed.values()) == pytest.approx(1.0)
    assert list(mixed) == ['PromptMM', 'GraphFilter', 'EASE']


def test_numbers_of_closed_forms_are_the_best_on_validation(quick, monkeypatch):
    values = iter([0.1, 0.3, 0.3, *[0.2] * 20])
    monkeypatch.setattr(mix_teachers, 'recall', lambda *_: next(values, 0.0))
    result = json.loads(quick().read_text())
    layers, weight = mix_teachers.FILTER_GRID[1]
    assert result['filter'] == {
        'num_layers': layers,
        'modality_weight': weight,
        'width': 60,
    }
    assert result['ease']['l2'] in run.EASE_L2
    assert result['ease']['width'] == 60


def test_finished_trials_are_not_trained_again(quick, monkeypatch):
    first = quick().read_text()
    monkeypatch.setattr(losses, 'distill', None)
    monkeypatch.setattr(mix_teachers, 'fitted', None)
    assert quick().read_text() == first


def test_sharper_scores_rank_alike():
    torch.manual_seed(0)
    x_dict = {'user': torch.randn(3, 4), 'item': torch.randn(5, 4)}
    sharp = mix_teachers.sharpened(SoftTargets(x_dict, {}), 3.0).x_dict
    scores = sharp['user'] @ sharp['item'].t()
    torch.testing.assert_close(scores, 3.0 * x_dict['user'] @ x_dict['item'].t())


def test_the_sharpness_of_a_teacher_is_chosen_on_validation(quick, monkeypatch):
    told = []
    sharpened, teach = mix_bench.sharpened, losses.Bench.teach

    def observed(targets, factor):
        told.append(factor)
        return sharpened(targets, factor)

    def judged(self, student, targets, recipe, trial, seed):
        value = 0.1 + 0.1 * (told[-1] == 3) + 0.1 * (trial.weight == 10)
        said = teach(self, student, targets, recipe, trial, seed)
        return said | {'validation': value}

    monkeypatch.setattr(mix_bench, 'sharpened', observed)
    monkeypatch.setattr(losses.Bench, 'teach', judged)
    result = json.loads(quick().read_text())
    assert len(result['trials']) == 6
    chosen = [
        (row['trial']['sharpness'], row['trial']['weight'])
        for row in result['students']
        if 'over_control' in row
    ]
    assert chosen == [(3, 10)] * 8
