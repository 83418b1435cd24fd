import json
import sys

import pytest
import torch

from benchmarks import speed


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_times_every_alternative_on_small_graphs(monkeypatch, tmp_path, capsys):
    small = dict.fromkeys(speed.GRAPHS, (50, 40, 200))
    monkeypatch.setattr(speed, 'GRAPHS', small)
    monkeypatch.setattr(speed, 'FEATURES', {'2 x 8-d': (8, 8)})
    out = tmp_path / 'speed.json'
    monkeypatch.setattr(sys, 'argv', ['speed', '--repeats', '1', '--out', str(out)])
    monkeypatch.setattr(speed, 'RANKED_USERS', 30)
    speed.main()
    sections = json.loads(out.read_text())['sections']
    for name in small:
        ways = set(sections[f'propagation, {name}'])
        assert {'CSR pair (ours)', 'torch CSR', 'torch COO', 'PyG scatter'} <= ways
    assert len(sections['teacher, 2 x 8-d']) == 4
    assert '1.0x' in capsys.readouterr().out


def test_naive_and_fast_teachers_compute_the_same():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(7, 6, generator=g)
    prompt = torch.randn(7, 4, generator=g)
    torch.manual_seed(0)
    naive = speed.NaiveEncoder(6, 3)
    fast = speed.PromptedModalityEncoder(6, 3)
    fast.load_state_dict(naive.state_dict())
    torch.testing.assert_close(fast(x, prompt), naive(x, prompt))


def test_takes_turns_and_leaves_the_first_out():
    calls = []
    runs = {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}
    times = speed.interleaved(runs, repeats=2)
    assert calls == ['a', 'b'] * 3
    assert times['a']['min_ms'] <= times['a']['median_ms'] <= times['a']['max_ms']
