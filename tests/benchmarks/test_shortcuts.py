import dataclasses
import json
import sys

import pytest
import torch

from benchmarks import report, shortcuts
from benchmarks.settings import SETTINGS
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture
def bench(monkeypatch, tmp_path):
    schedule = Schedule(epochs=2, patience=2, progress=False)
    monkeypatch.setattr(shortcuts, 'SCHEDULE', schedule)
    small = {'embedding_dim': 4, 'num_layers': 1}
    setting = dataclasses.replace(
        SETTINGS['synthetic'],
        prompt_channels=4,
        light_gcn=small,
        teacher=small,
        batch_size=16,
    )
    split = split_per_user(make_synthetic_dataset(60, 55, 4, seed=0))
    return shortcuts.Bench(setting, split, tmp_path / 'work')


def test_every_model_starts_with_the_way_that_takes_no_shortcut():
    first = {}
    for way in shortcuts.WAYS:
        first.setdefault(way.model, way)
    assert set(first) == set(shortcuts.RATES)
    for way in first.values():
        assert way == shortcuts.Way(way.model, shortcuts.EXACT, {})


def test_all_ways_of_a_model_start_from_the_same_parameters(bench):
    starts = {}
    for way in shortcuts.WAYS:
        torch.manual_seed(3)
        model, _ = bench.model(way)
        state = starts.setdefault(way.model, model.state_dict())
        assert model.state_dict().keys() == state.keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name


def test_features_of_a_teacher_are_kept_as_asked_and_no_others(bench):
    way = next(w for w in shortcuts.WAYS if w.features == torch.bfloat16)
    model, _ = bench.model(way)
    held = {rows.x.dtype for rows in model._row_blocks.values()}
    assert held == {torch.bfloat16}
    assert bench.train['item'].x_image.dtype == torch.float


def test_a_way_is_what_training_is_told(bench, monkeypatch):
    told = []

    def fitted(model, *args, **how):
        told.append((type(model).__name__, how))
        return {'validation': 0.0, 'epoch': 1, 'test': torch.rand(5)}

    monkeypatch.setattr(shortcuts, 'fitted', fitted)
    rows = shortcuts.rows(bench, [0, 1], ['LightGCN', 'MatrixFactorization'])
    assert [row['way'] for row in rows] == [
        'exact',
        'propagate_every=2',
        'propagate_every=4',
        'propagate_every=8',
        'exact',
        "optimizer='lazy'",
    ]
    # Two rates at the first seed, the better one at the second.
    assert len(told) == 6 * 3
    steps = [how.get('propagate_every', 1) for name, how in told if name == 'LightGCN']
    assert steps == [1] * 3 + [2] * 3 + [4] * 3 + [8] * 3
    assert [how.get('optimizer') for _, how in told[-3:]] == ['lazy'] * 3
    assert {how['seed'] for _, how in told} == {0, 1}


def test_a_run_writes_a_table_and_is_not_made_again(bench, monkeypatch, tmp_path):
    monkeypatch.setitem(shortcuts.SETTINGS, 'synthetic', bench.setting)
    monkeypatch.setattr(shortcuts, 'read', lambda *_: bench.split)
    folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['x', 'synthetic', '--seeds', '0', '1', *folders])
    shortcuts.main()
    path = tmp_path / 'shortcuts-synthetic.json'
    table = report.render(path)
    assert 'PromptMM teacher | bfloat16 features' in table
    assert len(table.splitlines()) == 4 + len(shortcuts.WAYS)
    rows = json.loads(path.read_text())['shortcuts']
    for row in rows:
        assert ('over_exact' in row) == (row['way'] != 'exact')
    monkeypatch.setattr(shortcuts, 'fitted', None)
    shortcuts.main()
    assert json.loads(path.read_text())['shortcuts'] == rows
