import json
import sys

import pytest

from benchmarks import budget, report

TEST = {'A': 0.3, 'B': 0.2, 'LightGCN': 0.1}


def suite_result(test, above=(), *, trials=2, dataset='synthetic', seconds=60.0):
    """As :mod:`benchmarks.suite` writes it, as far as it is read here."""
    spread = {name: {'mean': x, 'std': 0.01} for name, x in test.items()}
    # Validation has another order than test.
    rows = {
        name: {
            'validation': {'mean': 1 - value['mean'], 'std': 0.01},
            'test': {'Recall@20': value},
            'seconds_in_all': seconds,
        }
        for name, value in spread.items()
    }
    gains = {
        name: {
            'difference': x - test['LightGCN'],
            'holm_p': 0.01 + 0.5 * (name not in above),
        }
        for name, x in test.items()
        if name != 'LightGCN'
    }
    return {
        'suite': {
            'dataset': dataset,
            'trials': trials,
            'seeds': [0, 1],
            'schedule': {'patience': 3 * trials},
        },
        'best': max(test, key=test.get),
        'models': rows,
        'comparisons': {'LightGCN': gains},
    }


def test_ranks_of_both_budgets_are_compared():
    large = suite_result(TEST)
    same = {name: x / 2 for name, x in TEST.items()}
    assert budget.beside(suite_result(same), large)['spearman'] == pytest.approx(1)
    # By hand: two neighbors of three swapped, 1 - 6 * 2 / (3 * 8).
    swapped = {'A': 0.2, 'B': 0.3, 'LightGCN': 0.1}
    small = suite_result(swapped)
    for name, x in TEST.items():
        small['models'][name]['validation'] = {'mean': x, 'std': 0.0}
    row = budget.beside(small, large)
    assert row['spearman'] == pytest.approx(0.5)
    assert (row['small']['best'], row['large']['best']) == ('B', 'A')


def test_only_models_of_both_are_compared():
    small = suite_result({'LightGCN': 0.1, 'A': 0.3, 'C': 0.9})
    row = budget.beside(small, suite_result(TEST))
    assert row['names'] == ['A', 'LightGCN']
    with pytest.raises(
        ValueError, match=r"two models in common \(got \['LightGCN'\]\)"
    ):
        budget.beside(suite_result({'LightGCN': 0.1, 'C': 0.9}), suite_result(TEST))


def test_what_is_significantly_better_than_lightgcn():
    test = {**TEST, 'Worse': 0.05}
    row = budget.budget(suite_result(test, above=('A', 'Worse')))
    assert row['above'] == ['A']


def test_minutes_are_those_of_all_models_or_unknown():
    result = suite_result(TEST, seconds=90.0)
    assert budget.budget(result)['minutes'] == pytest.approx(4.5)
    del result['models']['A']['seconds_in_all']
    assert budget.budget(result)['minutes'] is None


@pytest.fixture
def folders(tmp_path):
    small, out = tmp_path / 'small', tmp_path / 'out'
    for folder, trials, above in ((small, 2, 'A'), (out, 4, 'B')):
        folder.mkdir()
        for name in ('ml100k', 'synthetic'):
            result = suite_result(TEST, (above,), trials=trials, dataset=name)
            (folder / f'suite-{name}.json').write_text(json.dumps(result))
    return small, out


def run(monkeypatch, small, out):
    monkeypatch.setattr(sys, 'argv', ['budget', str(small), '--out', str(out)])
    budget.main()


def test_a_table_for_every_data_set(folders, monkeypatch):
    run(monkeypatch, *folders)
    text = report.render(folders[1] / 'budget.json')
    ml100k, synthetic = text.split('\n\n**')
    assert ml100k.startswith('**ml100k**')
    # The best on validation first, whatever test says.
    assert '|---|---|---|\n| LightGCN | 0.1000 ± 0.0100 | 0.1000 ± 0.0100 |' in ml100k
    assert synthetic.endswith('\n| A | 0.3000 ± 0.0100 * | 0.3000 ± 0.0100 |')
    head = '2 trials, patience 6, 3 min of trainings | 4 trials, patience 12, 3 min'
    assert head in ml100k


def test_results_need_to_be_in_both_folders(folders, monkeypatch, capsys):
    small, out = folders
    (out / 'suite-ml100k.json').unlink()
    with pytest.raises(SystemExit):
        run(monkeypatch, small, out)
    assert "there are no ['suite-ml100k.json'] in it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(monkeypatch, out / 'nothing', out)
    assert not (out / 'budget.json').exists()
