import json
import sys

import pytest
import torch

from benchmarks import content_report, missing
from promptmm_pyg.data import planted_dataset
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


def test_items_without_content_lack_every_modality_and_others_stay():
    data = planted_dataset(50, 40, 4, seed=0)
    out = missing.hide_content(data, 0.4, seed=1)
    hidden = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:16]
    kept = torch.ones(40, dtype=torch.bool).index_fill(0, hidden, False)
    for name in ('text', 'image', 'audio'):
        x, mask = out['item'][f'x_{name}'], out['item'][f'mask_{name}']
        assert not x[hidden].any()
        assert not mask[hidden].any()
        torch.testing.assert_close(x[kept], data['item'][f'x_{name}'][kept])
        assert torch.equal(mask[kept], data['item'][f'mask_{name}'][kept])


def test_items_of_a_smaller_share_are_among_those_of_a_larger():
    data = planted_dataset(50, 40, 4, seed=0)
    few, many = (missing.hide_content(data, s, seed=1)['item'] for s in (0.3, 0.9))
    assert not (many.mask_text & ~few.mask_text).any()
    assert many.mask_text.sum() < few.mask_text.sum()


def test_a_share_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match="'share' needs to be in"):
        missing.hide_content(planted_dataset(50, 40, 4), 1.5, seed=0)


def test_every_model_at_every_share_and_an_interrupted_run_goes_on(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(missing, 'SIZES', (60, 55))
    monkeypatch.setattr(missing, 'PROMPT_CHANNELS', 4)
    monkeypatch.setattr(missing, 'L2', (0.1,))
    monkeypatch.setattr(missing, 'MODEL', {'embedding_dim': 4, 'num_layers': 1})
    schedule = Schedule(epochs=1, patience=1, progress=False)
    monkeypatch.setattr(missing, 'SCHEDULE', schedule)
    folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
    shares = ['--shares', '0', '0.9']
    monkeypatch.setattr(sys, 'argv', ['x', '--seeds', '0', '1', *shares, *folders])
    missing.main()
    result = json.loads((tmp_path / 'missing.json').read_text())
    models = [missing.FLOOR, *missing.TEACHERS]
    found = [(row['share'], row['model']) for row in result['missing']]
    assert found == [(share, model) for share in (0.0, 0.9) for model in models]
    floors = [r['test'] for r in result['missing'] if r['model'] == missing.FLOOR]
    assert floors[0] == floors[1]
    text = content_report.missing_table(result)
    assert all(f'| {model} |' in text for model in models)
    monkeypatch.setattr(missing.Bench, '_fit', None)
    missing.main()
    again = json.loads((tmp_path / 'missing.json').read_text())
    assert again['missing'] == result['missing']
