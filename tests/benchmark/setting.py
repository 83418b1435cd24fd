"""A data set and configurations that train in seconds."""

import json

import numpy as np
import pytest

from benchmarks import report as page
from promptmm_pyg.benchmark import load_config, run_benchmark, runner
from promptmm_pyg.benchmark.config import Dataset
from promptmm_pyg.benchmark.result import load_result
from promptmm_pyg.benchmark.runner import Bench

CONFIGS = 'benchmarks/configs'
METRIC = 'Recall@20'
TINY = [
    'dataset.synthetic.synthetic={num_users=60,num_items=110,num_clusters=4,seed=0}',
    'dataset.synthetic.prompt_channels=4',
    'dataset.synthetic.training={epochs=1,batch_size=128}',
    'training={epochs=1,batch_size=128}',
]
SMALL_MODELS = [
    'dataset.synthetic.models.LightGCN={embedding_dim=8,num_layers=1,l2=0.1}',
    'dataset.synthetic.models.PromptMM={embedding_dim=8,num_layers=1,l2=0.1}',
    'dataset.synthetic.students={MatrixFactorization={embedding_dim=4,l2=0.1}}',
]


def tiny(name, *overrides, seeds=(0, 1), models=SMALL_MODELS):
    """A committed configuration on tiny data."""
    return load_config(
        f'{CONFIGS}/{name}.toml',
        datasets=['synthetic'],
        seeds=seeds,
        overrides=[*TINY, *models, *overrides],
    )


def run(config, folder, jobs=0):
    """The result of a configuration, with its cache in the folder."""
    (path,) = run_benchmark(config, out=folder, work=folder / 'work', jobs=jobs)
    return load_result(path)


def tiny_dataset(**options):
    """A data set with hyper-parameters."""
    return Dataset(
        'synthetic',
        synthetic={'num_users': 60, 'num_items': 110, 'num_clusters': 4, 'seed': 0},
        prompt_channels=4,
        training={'epochs': 1, 'batch_size': 128},
        models={'PromptMM': {'embedding_dim': 8, 'num_layers': 1, 'l2': 0.1}},
        **options,
    )


def tiny_bench(work, seeds=(0, 1), **options):
    """A data set with a cache."""
    return Bench(tiny_dataset(), seeds, work, **options)


def gain(row, reference, key='diff_vs_baseline', test='test'):
    """Whether the difference of a row equals that of the means."""
    values = [x[test][METRIC]['mean'] for x in (row, reference)]
    return row[key]['difference'] == pytest.approx(values[0] - values[1], abs=1e-6)


def rows_of(result):
    """The rows by name and factors."""
    keys = ('name', 'width', 'start', 'share', 'group')
    return {
        tuple(row[key] for key in keys if key in row): row for row in result['rows']
    }


def small_run(name, overrides, tmp_path_factory):
    """The folder and the result of a small run."""
    folder = tmp_path_factory.mktemp(name)
    return folder, run(tiny(name, *overrides), folder)


def check_finished(name, overrides, folder, result, monkeypatch):
    """A finished benchmark has its rows in the table, reads test once, and is repeated
    from its cache.
    """
    for function in ('train', 'distill'):
        monkeypatch.setattr(runner, function, lambda *_, **__: pytest.fail('trained'))
    again = run(tiny(name, *overrides), folder)
    for key in result.keys() - {'costs', 'date'}:  # Which are measured again.
        assert again[key] == result[key], key
    assert result['test_reads'] == 1
    assert len(result['data_sha256']) == 64
    assert {'date', 'versions', 'seeds'} <= set(result)
    assert json.loads(json.dumps(result['protocol'])) == result['protocol']
    text = page.render(folder / f'{name}-synthetic.json')
    assert text.startswith('**synthetic**')
    arrays = np.load(folder / result['per_user'])
    for row in result['rows']:
        test = row.get('test_cold') or row['test']
        means = arrays[runner.row_name(row)].mean(1).tolist()
        assert means == pytest.approx(test[METRIC]['seeds'], abs=1e-6), row['name']
    # All models of these tests end at the last epoch, unless their start is better.
    trained = [row for row in result['rows'] if 'epochs' in row]
    limited = [row for row in trained if row['epochs'].count(row['max_epochs'])]
    assert len(limited) > len(trained) / 2
    for row in limited:
        count = row['epochs'].count(row['max_epochs'])
        assert f'{row["name"]}' in text.splitlines()[-1]
        assert f'({count} of ' in text.splitlines()[-1]
    for row in result['rows']:
        assert row['name'] in text
        assert row['num_trials'] >= 1
        for key, value in row.items():
            if key.startswith('diff_vs_') and name not in ('suite', 'losses'):
                assert f'{value["low"]:+.4f}' in text


def plotted(path):
    """Whether a file is a PNG."""
    assert path.read_bytes()[:4] == b'\x89PNG'
