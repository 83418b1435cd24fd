import dataclasses
import json
import sys

import pytest
import torch

from benchmarks import ablation, report
from benchmarks.settings import SETTINGS
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture
def bench(monkeypatch, tmp_path):
    schedule = Schedule(epochs=2, patience=2, progress=False)
    monkeypatch.setattr(ablation, 'SCHEDULE', schedule)
    setting = dataclasses.replace(
        SETTINGS['synthetic'],
        prompt_channels=4,
        teacher={'embedding_dim': 4, 'num_layers': 1},
        batch_size=16,
    )
    split = split_per_user(make_synthetic_dataset(60, 55, 4, seed=0))
    return ablation.Bench(setting, split, tmp_path / 'work')


def test_every_option_is_added_once_and_left_out_once():
    chosen = {option: trials[-1] for option, trials in ablation.OPTIONS.items()}
    models = ablation.models(chosen)
    assert len(models) == 3 + 2 * len(chosen)
    assert models['plain'] == models['plain without prompt'] == {}
    everything = models['all options']
    assert len(everything) == len(chosen)
    for option, part in chosen.items():
        assert models[option] == part
        assert models[f'all but {option}'] | part == everything
        assert not models[f'all but {option}'].keys() & part.keys()


def test_penalty_and_strengths_are_the_best_on_validation(bench, monkeypatch):
    l2 = bench.setting.teacher_weights['l2']
    values = {'{}': {l2: 0.1, 3 * l2: 0.2}}
    asked = []

    def outcome(self, options, penalty, seed, *, prompt=True):
        asked.append((options, penalty, seed))
        known = values.get(str(options), {})
        return {'validation': known.get(penalty, options.get('edge_dropout', 0.0))}

    monkeypatch.setattr(ablation.Bench, 'outcome', outcome)
    assert bench.penalty(5) == 3 * l2
    assert bench.strength('edge dropout', 7.0, 5) == {'edge_dropout': 0.5}
    assert bench.strength('item graph', 7.0, 5) == {'item_graph_weight': 0.1}
    assert {seed for _, _, seed in asked} == {5}
    assert {penalty for options, penalty, _ in asked if options} == {7.0}


def test_models_are_built_as_told(bench, monkeypatch):
    told = []

    def fitted(model, *args, **how):
        told.append((model, how))
        return {'validation': 0.0, 'epoch': 1, 'test': torch.rand(5)}

    monkeypatch.setattr(ablation, 'fitted', fitted)
    bench.outcome({'edge_dropout': 0.5, 'alignment_weight': 0.1}, 0.7, 3)
    bench.outcome({}, 0.7, 3, prompt=False)
    (full, how), (bare, _) = told
    assert (full.edge_dropout, full.prompt is None, bare.prompt) == (0.5, False, None)
    assert how['weights']['alignment'] == 0.1
    assert (how['weights']['l2'], how['seed']) == (0.7, 3)


def test_a_run_writes_a_table_and_is_not_made_again(bench, monkeypatch, tmp_path):
    monkeypatch.setitem(ablation.SETTINGS, 'synthetic', bench.setting)
    monkeypatch.setattr(ablation, 'read', lambda *_: bench.split)
    folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['x', 'synthetic', '--seeds', '0', '1', *folders])
    ablation.main()
    path = tmp_path / 'ablation-synthetic.json'
    result = json.loads(path.read_text())
    tested = {row['model']: row['test']['mean'] for row in result['ablation']}
    for row in result['ablation']:
        assert ('over_plain' in row) == (row['model'] != 'plain')
        assert ('over_all' in row) == row['model'].startswith('all but')
        for key, base in (('over_plain', 'plain'), ('over_all', 'all options')):
            if key in row:
                gain = row['test']['mean'] - tested[base]
                assert row[key]['difference'] == pytest.approx(gain, abs=1e-6)
    table = report.render(path)
    assert len(table.splitlines()) == 4 + len(result['ablation'])
    assert '| all but alignment | edge_dropout 0.' in table
    monkeypatch.setattr(ablation, 'fitted', None)
    ablation.main()
    assert json.loads(path.read_text())['ablation'] == result['ablation']
