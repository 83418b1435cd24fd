import json
import sys

import pytest
import torch

from benchmarks import content_report, hidden_content, missing
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.training import Schedule

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


def test_items_without_content_lack_every_modality_and_others_stay():
    data = make_synthetic_dataset(50, 40, 4, seed=0)
    out = hidden_content.hide_content(data, 0.4, seed=1)
    hidden = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:16]
    kept = torch.ones(40, dtype=torch.bool).index_fill(0, hidden, False)
    for name in ('text', 'image', 'audio'):
        x, mask = out['item'][f'x_{name}'], out['item'][f'mask_{name}']
        assert not x[hidden].any()
        assert not mask[hidden].any()
        torch.testing.assert_close(x[kept], data['item'][f'x_{name}'][kept])
        assert torch.equal(mask[kept], data['item'][f'mask_{name}'][kept])


def test_items_of_a_smaller_share_are_among_those_of_a_larger():
    data = make_synthetic_dataset(50, 40, 4, seed=0)
    few, many = (
        hidden_content.hide_content(data, s, seed=1)['item'] for s in (0.3, 0.9)
    )
    assert not (many.mask_text & ~few.mask_text).any()
    assert many.mask_text.sum() < few.mask_text.sum()


def test_each_modality_lacks_in_items_of_its_own():
    data = make_synthetic_dataset(50, 40, 4, seed=0)
    few, many = (
        hidden_content.hide_content(data, s, 1, 'modalities')['item']
        for s in (0.3, 0.6)
    )
    names = ('text', 'image', 'audio')
    for name in names:
        given = data['item'][f'mask_{name}']
        assert not (many[f'mask_{name}'] & ~few[f'mask_{name}']).any()
        assert (given & ~many[f'mask_{name}']).sum() <= 24
        assert not many[f'x_{name}'][~many[f'mask_{name}']].any()
    masks = torch.stack([many[f'mask_{name}'] for name in names])
    assert not (masks == masks[0]).all()


def test_what_is_absent_is_counted_by_item_and_modality():
    data = make_synthetic_dataset(50, 40, 4, seed=0)
    names = ('text', 'image', 'audio')
    there = sum(int(data['item'][f'mask_{name}'].sum()) for name in names)
    assert hidden_content.absent(data) == pytest.approx(1 - there / 120)
    assert hidden_content.absent(hidden_content.hide_content(data, 1.0, 0)) == 1


def test_the_prompt_starts_with_what_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setattr(missing, 'SIZES', (60, 55))
    monkeypatch.setattr(missing, 'PROMPT_CHANNELS', 4)
    bench = missing.Bench(tmp_path)
    hidden = ~bench.hidden(0.9)['item'].mask_text
    starts = [
        bench.train(0.9, model)['item'].prompt_start[hidden]
        for model in (missing.IMPUTED, 'zero')
    ]
    distinct = [start.unique(dim=0).size(0) for start in starts]
    assert distinct[0] > 2 * distinct[1]


def test_a_share_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match="'share' must be in"):
        hidden_content.hide_content(make_synthetic_dataset(50, 40, 4), 1.5, seed=0)


@pytest.mark.parametrize(
    ('pattern', 'name'),
    [('items', 'missing.json'), ('modalities', 'missing-modalities.json')],
)
def test_every_model_at_every_share_and_an_interrupted_run_goes_on(
    monkeypatch, tmp_path, pattern, name
):
    monkeypatch.setattr(missing, 'SIZES', (60, 55))
    monkeypatch.setattr(missing, 'PROMPT_CHANNELS', 4)
    monkeypatch.setattr(missing, 'L2', (0.1,))
    monkeypatch.setattr(missing, 'MODEL', {'embedding_dim': 4, 'num_layers': 1})
    schedule = Schedule(epochs=1, patience=1, progress=False)
    monkeypatch.setattr(missing, 'SCHEDULE', schedule)
    folders = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path)]
    shares = ['--shares', '0', '0.9']
    more = [*shares, *folders, '--pattern', pattern]
    monkeypatch.setattr(sys, 'argv', ['x', '--seeds', '0', '1', *more])
    missing.main()
    result = json.loads((tmp_path / name).read_text())
    assert [row['absent'] for row in result['missing']] == sorted(
        row['absent'] for row in result['missing']
    )
    models = [missing.FLOOR, *missing.TEACHERS]
    found = [(row['share'], row['model']) for row in result['missing']]
    assert found == [(share, model) for share in (0.0, 0.9) for model in models]
    floors = [r['test'] for r in result['missing'] if r['model'] == missing.FLOOR]
    assert floors[0] == floors[1]
    text = content_report.missing_table(result)
    assert all(f'| {model} |' in text for model in models)
    content_report.content_plot(result, tmp_path / 'missing.png')
    assert (tmp_path / 'missing.png').read_bytes()[:4] == b'\x89PNG'
    monkeypatch.setattr(missing.Bench, '_fit', None)
    missing.main()
    again = json.loads((tmp_path / name).read_text())
    assert again['missing'] == result['missing']
