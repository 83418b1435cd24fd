import json
import sys

import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed import operators
from benchmarks.speed.__main__ import speed_table
from benchmarks.speed.common import interleaved


@pytest.fixture(name='result')
def tiny_run(monkeypatch, tmp_path):
    small = dict.fromkeys(speed.GRAPHS, (50, 40, 200))
    monkeypatch.setattr(speed, 'GRAPHS', small)
    monkeypatch.setattr(speed, 'FEATURES', {'2 x 8-d': (8, 8)})
    monkeypatch.setattr(speed, 'RANKED_USERS', 30)
    monkeypatch.setattr(speed, 'triad_numbers', lambda: 1000)
    out = tmp_path / 'speed.json'
    monkeypatch.setattr(sys, 'argv', ['speed', '--repeats', '1', '--out', str(out)])
    speed.main()
    return json.loads(out.read_text())


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_times_every_alternative_on_small_graphs(capsys, result):
    sections = result['sections']
    for name in speed.GRAPHS:
        ways = set(sections[f'propagation, {name}'])
        assert {'CSR pair (ours)', 'torch CSR', 'torch COO', 'PyG scatter'} <= ways
        assert 'Python loop' in sections[f'negatives, {name}']
    for title in ('teacher, 2 x 8-d', 'teacher, 2 x 8-d, freed memory given back'):
        assert len(sections[title]) == 11
    assert 'PyG, edge_index' in sections['LightGCN epoch, 9k x 7k, 60k edges']
    assert speed_table(result) == capsys.readouterr().out.rstrip('\n')


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_graph_has_a_roofline_at_every_width(result):
    found = [(row['graph'], row['channels']) for row in result['roofline']]
    assert found == [(g, c) for g in speed.GRAPHS for c in operators.CHANNELS]


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_group_starts_with_ours(result):
    for title, times in result['sections'].items():
        assert '(ours)' in next(iter(times)), title


def test_takes_turns_and_leaves_the_first_out():
    calls = []
    runs = {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}
    times = interleaved(runs, repeats=2)
    assert calls == ['a', 'b'] * 3
    assert times['a']['min_ms'] <= times['a']['median_ms'] <= times['a']['max_ms']
