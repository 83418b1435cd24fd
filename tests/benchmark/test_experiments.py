from pathlib import Path

import numpy as np
import pytest
import torch

from promptmm_pyg.benchmark import KINDS, runner
from promptmm_pyg.benchmark.experiments import Suite, suite_minutes
from promptmm_pyg.benchmark.result import rows_by_name
from promptmm_pyg.benchmark.stats import compare
from promptmm_pyg.cli import main
from promptmm_pyg.models import MODELS
from tests.benchmark.setting import (
    CONFIGS,
    METRIC,
    TINY,
    check_finished,
    gain,
    plotted,
    rows_of,
    run,
    small_run,
    tiny,
)

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
SUITE = ['models=["Popularity","LightGCN","FREEDOM"]', 'trials=2', 'width=8']


@pytest.fixture(scope='module')
def suite(tmp_path_factory):
    return small_run('suite', SUITE, tmp_path_factory)


def test_a_finished_suite_is_repeated_from_its_cache(suite, monkeypatch):
    check_finished('suite', SUITE, *suite, monkeypatch)


STUDENT = """arms = [
  { name = "PromptMM", model = "PromptMM" },
  { name = "baseline", group = "MF", model = "MatrixFactorization", params = { embedding_dim = 4 }, trials = { l2 = [0.01, 0.1] } },
  { name = "student", group = "MF", model = "MatrixFactorization", params = { embedding_dim = 4 }, trials = { l2 = [0.01, 0.1] }, teacher = "PromptMM" },
]"""  # noqa: E501


def test_an_arm_may_be_the_student_of_an_earlier_one(tmp_path, monkeypatch):
    calls = []
    distill = runner.distill

    def observed(model, targets, *args, **options):
        calls.append(targets.x_dict['item'].size(1))
        return distill(model, targets, *args, **options)

    monkeypatch.setattr(runner, 'distill', observed)
    arms = STUDENT.replace('\n', ' ')
    rows = rows_by_name(run(tiny('shortcuts', arms), tmp_path))
    assert gain(rows['student'], rows['baseline'])
    assert calls == [8] * 3  # Two trials at one seed, then the other seed.
    with pytest.raises(ValueError, match=r"'teacher' must be one of 'PromptMM', 'base"):
        run(tiny('shortcuts', arms.replace('teacher = "P', 'teacher = "X')), tmp_path)


def test_variants_are_compared_within_their_group(tmp_path, monkeypatch):
    result = run(tiny('shortcuts'), tmp_path)
    check_finished('shortcuts', [], tmp_path, result, monkeypatch)
    rows = rows_of(result)
    assert {group for _, group in rows} == {
        *('LightGCN', 'PromptMM', 'MatrixFactorization')
    }
    for (name, group), row in rows.items():
        assert ('diff_vs_baseline' in row) == (name != 'exact')
        if name != 'exact':
            assert gain(row, rows['exact', group])
    lazy = rows["optimizer='lazy'", 'MatrixFactorization']
    assert lazy['best_params']['learning_rate'] in (3e-3, 1e-2)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('arms=[{name="a"}]', "'arms' must have 'name' and 'model'"),
        ('arms=[{name="a",model="LightGCN",impute=true}]', "'arms' must have 'name'"),
        ('arms=[{name="a",model="b"}]', "'model' must be one of 'Popularity', 'It"),
        (
            'arms=[{name="a",model="LightGCN",params={layers=2}}]',
            r"'model.LightGCN' must have keys among .*'num_layers'.*\['layers'\]",
        ),
        (
            'arms=[{name="a",model="LightGCN",trials={l1=[2]}}]',
            r"'model.LightGCN' must have keys among .*'l2'.*\['l1'\]",
        ),
        (
            'arms=[{name="a",model="LightGCN",training={epoch=2}}]',
            r"'training' must have keys among .*'epochs'.*\['epoch'\]",
        ),
    ],
)
def test_the_keys_of_an_arm_are_checked(override, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tiny('shortcuts', override), tmp_path)


def test_a_suite_has_all_trials_and_costs(suite):
    _, result = suite
    rows = rows_by_name(result)
    for name, row in rows.items():
        values = [trial['validation'] for trial in row['trials']]
        assert len(values) == 2
        assert row['best_params'] == row['trials'][values.index(max(values))]['params']
        assert row['trials'][0]['params'] == MODELS[name].search_space.defaults
        assert row['validation']['seeds'][0] == max(values)
        seconds = [trial['seconds'] for trial in row['trials']] + row['seconds'][1:]
        assert row['seconds_total'] == pytest.approx(sum(seconds))
        assert set(row['test']) == {'Recall@10', METRIC, 'Recall@50', 'NDCG@20'}
    assert rows['LightGCN']['parameters'] == 8 * 170
    assert len(rows['LightGCN']['seconds']) == 2
    assert len(rows['Popularity']['seconds']) == 1
    minutes = suite_minutes(result)
    assert f'{minutes:.0f} minutes' in Suite.table(result)
    del result['rows'][0]['seconds_total']
    assert suite_minutes(result) is None


def test_differences_can_be_computed_again_from_the_per_user_values(suite):
    folder, result = suite
    arrays = np.load(folder / result['per_user'])
    rows = rows_by_name(result)
    assert list(arrays) == ['users', *rows]
    tables = {name: torch.from_numpy(arrays[name]) for name in rows}
    for reference in {'LightGCN', result['best']}:
        for name, values in compare(tables, reference).items():
            assert rows[name][f'diff_vs_{reference}'] == values
    for name, table in tables.items():
        expected = rows[name]['test'][METRIC]['mean']
        assert float(table.mean()) == pytest.approx(expected, abs=1e-6)


def test_a_suite_continues_from_the_trainings_of_a_smaller_one(suite, tmp_path):
    _, complete = suite
    _, *options = SUITE
    run(tiny('suite', *options, 'models=["Popularity","LightGCN"]'), tmp_path)
    files = set((tmp_path / 'work').iterdir())
    result = run(tiny('suite', *SUITE), tmp_path)
    assert files < set((tmp_path / 'work').iterdir())
    for one, two in zip(complete['rows'], result['rows'], strict=True):
        for key in ('name', 'test', 'validation', 'diff_vs_LightGCN', 'best_params'):
            assert one.get(key) == two.get(key)


def test_entries_train_in_processes_of_their_own(tmp_path):
    config = tiny('suite', 'models=["MatrixFactorization"]', 'trials=1', seeds=[0])
    result = run(config, tmp_path, jobs=2)
    (row,) = result['rows']
    assert row['threads'] == [1]
    assert not [key for key in row if key.startswith('diff_vs_')]


def test_every_kind_is_documented():
    guide = Path('docs/guides/benchmarks.md').read_text()
    for name, cls in KINDS.items():
        assert f'`{name}`' in guide
        assert cls.__doc__


def test_the_command_runs_a_configuration_and_prints_a_result(tmp_path, capsys):
    sets = [
        x
        for text in [*TINY, 'models=["EASE","LightGCN"]', 'trials=1']
        for x in ('--set', text)
    ]
    folders = ['--out', str(tmp_path), '--work', str(tmp_path / 'work')]
    command = ['benchmark', f'{CONFIGS}/suite.toml', '--dataset', 'synthetic']
    assert main([*command, '--seeds', '0', '--jobs', '0', *sets, *folders]) == 0
    out = capsys.readouterr().out
    path = tmp_path / 'suite-synthetic.json'
    assert f'written: {path}' in out
    image = tmp_path / 'x.png'
    assert main(['benchmark', str(path), '--plot', str(image)]) == 0
    assert capsys.readouterr().out.strip() in out
    plotted(image)
    assert main(['benchmark', str(tmp_path / 'none.toml')]) == 2
    assert 'must be a configuration (TOML) or result (JSON)' in capsys.readouterr().err
    assert main([*command, '--plot', 'x.png']) == 2
    assert "'--plot' requires a result file" in capsys.readouterr().err


KIND_OF_MINE = """
from dataclasses import dataclass
from promptmm_pyg.benchmark import Arm, Entry, Experiment

@dataclass(frozen=True, kw_only=True)
class Mine(Experiment):
    model: str = 'EASE'

    def entries(self, bench):
        return [Entry(self.model, Arm(self.model))]
"""


def test_a_kind_of_your_own_is_found_in_the_current_folder(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / 'kind_of_mine.py').write_text(KIND_OF_MINE)
    text = ''.join(f'{x}\n' for x in TINY[:1])
    lines = ['kind = "kind_of_mine:Mine"', 'datasets = ["synthetic"]', text]
    (tmp_path / 'mine.toml').write_text('\n'.join(lines))
    monkeypatch.chdir(tmp_path)
    folders = ['--out', str(tmp_path), '--work', str(tmp_path / 'work')]
    assert main(['benchmark', 'mine.toml', *folders]) == 0
    out = capsys.readouterr().out
    assert '| variant | epochs | Recall@20 |' in out
    assert main(['benchmark', str(tmp_path / 'mine-synthetic.json')]) == 0
    assert capsys.readouterr().out.strip() in out
