import json
import sys

import pytest
import torch

from benchmarks import noise, report
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')

MODALITIES = ('text', 'image', 'audio')


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(noise, 'SIZES', (60, 55))
    monkeypatch.setattr(noise, 'PROMPT_CHANNELS', 4)
    monkeypatch.setattr(noise, 'TEACHER', {'embedding_dim': 4, 'num_layers': 1})
    schedule = Schedule(epochs=1, patience=1, progress=False)
    monkeypatch.setattr(noise, 'SCHEDULE', schedule)

    def start():
        folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', ['x', '--seeds', '0', '1', *folders])
        noise.main()
        return tmp_path / 'noise.json'

    return start


def make_graph():
    return make_synthetic_dataset(50, 40, 4, seed=0)


def changed(data, out, name):
    return (data['item'][name] != out['item'][name]).view(40, -1).any(dim=1)


def test_content_of_that_share_of_items_is_that_of_others():
    data = make_graph()
    out = noise.corrupt_features(data, 0.4, seed=1)
    noisy = torch.zeros(40, dtype=torch.bool)
    for modality in MODALITIES:
        noisy |= changed(data, out, f'x_{modality}')
    assert noisy.sum() == 16
    for modality in MODALITIES:
        old, new = data['item'][f'x_{modality}'], out['item'][f'x_{modality}']
        present = data['item'][f'mask_{modality}']
        for item in noisy.nonzero()[:, 0].tolist():
            donors = (old == new[item]).all(dim=1)
            assert donors.any()
            if present[item]:
                assert not donors[item], 'its own content'
            # What a donor lacks is lacking, and said to be.
            assert bool(out['item'][f'mask_{modality}'][item]) == bool(
                present[donors].all()
            )


def test_donors_differ_from_modality_to_modality():
    data = make_graph()
    out = noise.corrupt_features(data, 1.0, seed=1)
    donors = []
    for modality in ('text', 'image'):
        old, new = data['item'][f'x_{modality}'], out['item'][f'x_{modality}']
        donors.append((old == new[:, None]).all(dim=-1).float().argmax(dim=1))
    assert not torch.equal(*donors)


def test_the_rest_of_the_graph_and_the_given_one_stay():
    data, kept = make_graph(), make_graph()
    out = noise.corrupt_features(data, 0.4, seed=1)
    for modality in MODALITIES:
        name = f'x_{modality}'
        assert torch.equal(data['item'][name], kept['item'][name])
    edge_type = ('user', 'interacts', 'item')
    assert torch.equal(out[edge_type].edge_index, data[edge_type].edge_index)
    assert torch.equal(out['item'].taste, data['item'].taste)


def test_draws_go_by_the_seed_and_none_is_drawn_at_zero():
    data = make_graph()
    first = noise.corrupt_features(data, 0.4, seed=1)
    again = noise.corrupt_features(data, 0.4, seed=1)
    other = noise.corrupt_features(data, 0.4, seed=2)
    assert torch.equal(first['item'].x_text, again['item'].x_text)
    assert not torch.equal(first['item'].x_text, other['item'].x_text)
    none = noise.corrupt_features(data, 0.0, seed=1)
    assert torch.equal(none['item'].x_text, data['item'].x_text)


def test_features_without_mask_and_of_users_are_taken_as_they_are():
    data = make_graph()
    del data['item'].mask_text
    data['user'].x_age = torch.randn(50, 2)
    out = noise.corrupt_features(data, 0.4, seed=1)
    assert 'mask_text' not in out['item']
    assert changed(data, out, 'x_text').any()
    assert torch.equal(out['user'].x_age, data['user'].x_age)


def test_errors_of_corruption():
    with pytest.raises(ValueError, match=r"'share' must be in \[0, 1\] \(got 1.5"):
        noise.corrupt_features(make_graph(), 1.5, seed=0)
    with pytest.raises(ValueError, match=r"'data' requires at least two items \(got 1"):
        noise.corrupt_features(make_synthetic_dataset(5, 1, 1), 0.4, seed=0)


def test_the_result_holds_every_model_at_every_share(quick):
    path = quick()
    result = json.loads(path.read_text())
    found = [(row['share'], row['model']) for row in result['noise']]
    assert found == [(share, model) for share in (0.0, 0.4) for model in noise.MODELS]
    plain = {
        r['share']: r['test']['mean'] for r in result['noise'] if r['model'] == 'plain'
    }
    for row in result['noise']:
        assert len(row['test']['seeds']) == 2
        assert ('over_plain' in row) == (row['model'] != 'plain')
        if 'over_plain' in row:
            gain = row['test']['mean'] - plain[row['share']]
            assert row['over_plain']['difference'] == pytest.approx(gain, abs=1e-6)
    text = report.render(path)
    (line,) = (x for x in text.splitlines() if x.startswith('| denoise |'))
    (row,) = (
        r for r in result['noise'] if (r['share'], r['model']) == (0.4, 'denoise')
    )
    assert f'{row["test"]["mean"]:.4f} ± {row["test"]["std"]:.4f}' in line
    assert f'{row["over_plain"]["low"]:+.4f}' in line
    assert '40% noisy items' in text


def test_finished_models_are_not_trained_again(quick, monkeypatch):
    first = quick().read_text()
    monkeypatch.setattr(noise.Bench, '_fit', lambda *_: pytest.fail('trained again'))
    assert quick().read_text() == first


def test_the_trial_is_the_best_on_validation_at_the_first_seed(monkeypatch, tmp_path):
    values = dict(zip(noise.TRIALS, (0.1, 0.3, 0.2), strict=True))
    monkeypatch.setattr(
        noise.Bench,
        'outcome',
        lambda self, share, model, trial, seed: {'validation': values[trial]},
    )
    assert noise.Bench(tmp_path).choose(0.4, 'plain', 0) == noise.TRIALS[1]


def test_only_training_reads_noisy_features(tmp_path):
    bench = noise.Bench(tmp_path)
    clean, noisy = bench.train(0.0)['item'].x_text, bench.train(0.4)['item'].x_text
    assert not torch.equal(clean, noisy)
    assert torch.equal(
        bench.split.train['item'].x_text, bench.split.test['item'].x_text
    )
