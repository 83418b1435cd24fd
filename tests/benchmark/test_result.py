import copy
import json
from pathlib import Path

import pytest
import torch

from promptmm_pyg.benchmark import stats
from promptmm_pyg.benchmark.result import (
    check_result,
    load_result,
    rows_by_name,
    write_result,
)
from promptmm_pyg.evaluation import paired_test

RESULTS = sorted(Path('benchmarks/results').glob('*.json'))
ROW = {
    'name': 'a',
    'validation': {'seeds': [0.1]},
    'test': {'Recall@20': {'mean': 0.1, 'std': 0.0, 'seeds': [0.1]}},
    'diff_vs_baseline': {'difference': 0.1, 'low': 0.0, 'high': 0.2},
}
RESULT = {
    'kind': 'main',
    'name': 'main',
    'dataset': 'a',
    'protocol': {},
    'rows': [ROW],
    'versions': {},
}


@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_committed_results_follow_the_schema(path):
    result = load_result(path)
    if result['kind'] not in ('speed', 'scale'):
        assert path.stem == f'{result["name"]}-{result["dataset"]}'


def test_a_result_is_written_whole_and_read_back(tmp_path):
    write_result(tmp_path / 'x.json', RESULT)
    assert load_result(tmp_path / 'x.json') == RESULT
    incomplete = {k: v for k, v in RESULT.items() if k != 'kind'}
    with pytest.raises(ValueError, match=r"must have the keys \['kind'\]"):
        write_result(tmp_path / 'x.json', incomplete)
    assert load_result(tmp_path / 'x.json') == RESULT
    assert rows_by_name(RESULT) == {'a': ROW}


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('validation', [0.1]),
        ('validation', {'mean': 0.1}),
        ('test', {'Recall@20': {'mean': 0.1, 'seeds': [0.1], 'other': 1}}),
        ('test', {'Recall@20': {'mean': 0.1}}),
        ('test_cold', {'Recall@20': {}}),
        ('diff_vs_other', {'difference': 0.1}),
    ],
)
def test_a_row_that_does_not_follow_the_schema_is_an_error(key, value, tmp_path):
    result = copy.deepcopy(RESULT)
    result['rows'][0][key] = value
    with pytest.raises(ValueError, match=f"'rows' of 'a' must have a '{key}'"):
        check_result(result)
    (tmp_path / 'x.json').write_text(json.dumps(result))
    with pytest.raises(ValueError, match='must be a result file'):
        load_result(tmp_path / 'x.json')
    with pytest.raises(ValueError, match="'rows' must have a 'name' each"):
        check_result({**RESULT, 'rows': [{'test': {}}]})


def test_a_spread_has_the_sample_deviation():
    assert stats.spread([1.0, 3.0]) == {'mean': 2.0, 'std': 2**0.5, 'seeds': [1.0, 3.0]}
    assert stats.spread([1.0])['std'] == 0.0
    assert stats.mean({'mean': 3.0, 'seeds': [1.0]}) == 3.0
    assert stats.mean({'seeds': [1.0, 2.0]}) == 1.5


def test_p_values_are_corrected_within_their_reference():
    g = torch.Generator().manual_seed(0)
    per_user = {name: torch.rand(2, 40, generator=g) for name in ('a', 'b', 'c', 'd')}
    rows = stats.compare(per_user, 'b')
    assert set(rows) == {'a', 'c', 'd'}
    p = [row['p'] for row in rows.values()]
    smallest = min(range(3), key=p.__getitem__)
    corrected = [*rows.values()][smallest]['holm_p']
    assert corrected == pytest.approx(min(1, 3 * p[smallest]))
    for name, row in rows.items():
        expected = float((per_user[name] - per_user['b']).mean())
        assert row['difference'] == pytest.approx(expected, abs=1e-6)


def test_differences_are_those_of_the_paired_test():
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(5, 30, generator=g), torch.rand(1, 30, generator=g)
    test = paired_test(a, b)
    assert stats.difference(a, b) == {
        'difference': test.difference,
        'low': test.low,
        'high': test.high,
        'p': test.p_value,
    }
