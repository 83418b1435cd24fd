import copy
import json
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from promptmm_pyg.benchmark import stats
from promptmm_pyg.benchmark.result import (
    TIMINGS,
    check_result,
    commit,
    data_sha256,
    load_result,
    rows_by_name,
    write_result,
)
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
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
    if result['kind'] not in TIMINGS:
        assert path.stem == f'{result["name"]}-{result["dataset"]}'


def test_a_result_is_written_whole_and_read_back(tmp_path):
    write_result(tmp_path / 'x.json', RESULT)
    written = load_result(tmp_path / 'x.json')
    assert written == {**written, **RESULT}
    assert datetime.fromisoformat(written['date']).tzinfo is not None
    incomplete = {k: v for k, v in RESULT.items() if k != 'kind'}
    with pytest.raises(ValueError, match=r"must have the keys \['kind'\]"):
        write_result(tmp_path / 'x.json', incomplete)
    assert load_result(tmp_path / 'x.json') == written
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


def test_the_commit_is_that_of_the_package(tmp_path, monkeypatch):
    def git(*words):
        user = ('-c', 'user.name=a', '-c', 'user.email=a@b')
        command = ['git', *user, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode().strip()

    package, studies = tmp_path / 'package', tmp_path / 'studies'
    for folder in (package, studies):
        folder.mkdir()
        (folder / '__init__.py').write_text('')
    monkeypatch.setattr(
        'promptmm_pyg.__file__', str(package / '__init__.py'), raising=True
    )
    assert commit() is None
    git('init')
    assert commit() is None  # Of a repository around it.
    git('add', '.')
    git('commit', '-m', 'x')
    head = git('rev-parse', 'HEAD')
    assert head.startswith(commit())
    (studies / '__init__.py').write_text('pass')
    assert head.startswith(commit())
    assert commit(studies) == f'{commit()}-dirty'
    (package / 'new.py').write_text('')
    assert commit().endswith('-dirty')


def test_the_hash_of_data_depends_on_content_and_not_on_order():
    split = split_per_user(make_synthetic_dataset(40, 60, 4))
    expected = data_sha256(split)

    def changed(name, change):
        parts = {key: graph.clone() for key, graph in split._asdict().items()}
        change(parts[name])
        return data_sha256(split._replace(**parts))

    def reverse_items(graph):
        # The same items in another order, with their ids and features.
        for key, value in graph['item'].items():
            if key != 'num_nodes':
                graph['item'][key] = (
                    value[::-1].copy()
                    if isinstance(value, np.ndarray)
                    else value.flip(0)
                )
        index = graph[INTERACTS].edge_index
        graph[INTERACTS].edge_index = torch.stack([index[0], 59 - index[1]])

    def shuffle(graph):
        graph[INTERACTS].edge_label_index = graph[INTERACTS].edge_label_index.flip(1)

    assert changed('test', shuffle) == expected
    parts = {key: graph.clone() for key, graph in split._asdict().items()}
    reverse_items(parts['train'])
    for name in ('val', 'test'):
        user, item = parts[name][INTERACTS].edge_label_index
        parts[name][INTERACTS].edge_label_index = torch.stack([user, 59 - item])
    assert data_sha256(split._replace(**parts)) == expected

    def move(graph):
        graph[INTERACTS].edge_label_index[1, 0] ^= 1

    def features(graph):
        graph['item'].x_text = graph['item'].x_text * 2

    for name, change in (('val', move), ('test', move), ('train', features)):
        assert changed(name, change) != expected, name


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
