"""The engine on a tiny synthetic data set: one configuration of each kind."""

import json

import pytest

from promptmm_pyg.benchmark import KINDS, load_config, render, run_benchmark
from promptmm_pyg.cli import main

CONFIGS = 'benchmarks/configs'
TINY = ['dataset.synthetic.synthetic={ num_users = 60, num_items = 50, seed = 0 }']
TINY += ['dataset.synthetic.training.epochs=1']


@pytest.mark.parametrize('name', ['main', 'noise'])
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_a_configuration_runs_and_its_result_is_rendered(name, tmp_path, capsys):
    argv = ['benchmark', f'{CONFIGS}/{name}.toml', '--dataset', 'synthetic']
    argv += ['--seeds', '0', '--work', str(tmp_path / 'work'), '--jobs', '0']
    argv += ['--out', str(tmp_path / 'out')]
    for pair in TINY:
        argv += ['--set', pair]
    assert main(argv) == 0
    first = capsys.readouterr().out
    (path,) = (tmp_path / 'out').glob('*.json')
    result = json.loads(path.read_text())
    assert {row['name'] for row in result['rows']}
    assert render(path) in first
    # Again from the cache: the same numbers.
    assert main(argv) == 0
    again = json.loads(path.read_text())
    tests = [[row['test'] for row in r['rows']] for r in (result, again)]
    assert tests[0] == tests[1]


def test_every_configuration_is_read_and_has_a_kind():
    from pathlib import Path

    for path in sorted(Path(CONFIGS).glob('*.toml')):
        if path.stem != 'datasets':
            assert load_config(path).kind in KINDS


def test_a_file_that_is_not_there_is_a_mistake(capsys):
    assert main(['benchmark', 'nothing.toml']) == 2
    assert "'nothing.toml' must be a configuration" in capsys.readouterr().err
    assert callable(run_benchmark)
