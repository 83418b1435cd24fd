import json
import sys

import pytest
import torch

from benchmarks import cold, cold_data, cold_models, content_report
from benchmarks.settings import SETTINGS
from promptmm_pyg.data import ITEM, make_synthetic_dataset, split_per_user
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(cold, 'SIZES', (60, 55))
    monkeypatch.setattr(cold_models, 'L2', (0.1,))
    schedule = Schedule(epochs=1, patience=1, progress=False)
    monkeypatch.setattr(cold_models, 'SCHEDULE', schedule)

    def start():
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        monkeypatch.setattr(
            sys, 'argv', ['x', 'synthetic', '--seeds', '0', '1', *folders]
        )
        cold.main()
        return json.loads((tmp_path / 'cold-synthetic.json').read_text())

    return start


def edges(data, name):
    return set(map(tuple, data['user', 'interacts', 'item'][name].t().tolist()))


def test_cold_items_have_no_edge_in_what_is_trained_or_stopped_by():
    outer, inner = cold_data.cold_split(make_synthetic_dataset(60, 55, seed=0))
    trained = {i for _, i in edges(inner.train, 'edge_index')}
    stopped = {i for _, i in edges(inner.val, 'edge_label_index')}
    val = {i for _, i in edges(outer.val, 'edge_label_index')}
    test = {i for _, i in edges(outer.test, 'edge_label_index')}
    assert val
    assert test
    assert not val & test
    assert not (trained | stopped) & (val | test)


def test_a_split_put_together_has_every_interaction():
    data = make_synthetic_dataset(60, 55, seed=0)
    whole = cold_data.unsplit(split_per_user(data))
    assert edges(whole, 'edge_index') == edges(data, 'edge_index')


def test_rows_of_warm_items_stay_and_those_of_cold_items_are_predicted():
    outer, inner = cold_data.cold_split(make_synthetic_dataset(60, 55, seed=0))
    warm = torch.ones(55, dtype=torch.bool)
    for part in (outer.val, outer.test):
        warm &= ~cold_data.mask_of(55, part)
    torch.manual_seed(0)
    x_dict = {'user': torch.randn(60, 4), 'item': torch.randn(55, 4)}
    out = cold_data.add_cold(x_dict, inner.train, warm)
    torch.testing.assert_close(out[warm], x_dict['item'][warm])
    assert (out[~warm] != x_dict['item'][~warm]).any(dim=1).all()
    x_dict['item'][~warm] = 7.0  # What was there does not matter.
    torch.testing.assert_close(cold_data.add_cold(x_dict, inner.train, warm), out)


def test_every_model_is_reported_and_an_interrupted_run_goes_on(quick, monkeypatch):
    result = quick()
    names = [row['model'] for row in result['cold']]
    assert names == [cold_models.RANDOM, cold_models.POPULARITY, *cold_models.TRAINED]
    students = [row for row in result['cold'] if 'over_control' in row]
    assert len(students) == 2
    text = content_report.cold_table(result)
    assert all(f'| {name} |' in text for name in names)
    monkeypatch.setattr(cold_models.Bench, '_fit', None)
    assert quick()['cold'] == result['cold']


def test_popularity_knows_no_more_of_cold_items_than_chance(quick):
    rows = {row['model']: row for row in quick()['cold']}
    assert rows[cold_models.POPULARITY]['cold'] == rows[cold_models.RANDOM]['cold']


@pytest.mark.parametrize('kind', ['control', 'student'])
def test_nothing_in_training_draws_a_cold_item(quick, tmp_path, kind):
    del quick
    data = make_synthetic_dataset(60, 55, seed=0)
    bench = cold_models.Bench(SETTINGS['synthetic'], data, tmp_path, first_seed=0)
    name = f'MatrixFactorization {kind}'
    item_x = bench.outcome(name, 0.1, seed=0)['x_dict'][ITEM]
    assert not item_x[~bench.warm].any()  # Where it was put to begin with.
    assert item_x[bench.warm].any(dim=1).all()


@pytest.mark.parametrize('name', ['VBPR', 'CLCRec', cold_models.TEACHER])
def test_cold_items_of_equal_features_have_equal_rows(quick, tmp_path, name):
    del quick
    data = make_synthetic_dataset(60, 55, seed=0)
    val = cold_data.cold_split(data)[0].val
    one, other, *rest = cold_data.mask_of(55, val).nonzero().view(-1).tolist()
    for key in [key for key in data[ITEM] if key.startswith(('x_', 'mask_'))]:
        data[ITEM][key][other] = data[ITEM][key][one]
    bench = cold_models.Bench(SETTINGS['synthetic'], data, tmp_path, first_seed=0)
    assert not bench.warm[[one, other, *rest]].any()
    item_x = bench.outcome(name, 0.1, seed=0)['x_dict'][ITEM]
    torch.testing.assert_close(item_x[one], item_x[other])
    assert (item_x[one] != item_x[rest[0]]).any()
