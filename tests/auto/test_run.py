"""A search on small data, from its first model to its proof."""

import shutil
import sys
from unittest.mock import patch

import pytest
import torch

from promptmm_pyg.auto import auto_run, student
from promptmm_pyg.auto import run as module
from promptmm_pyg.auto.budget import Budget, Screen
from promptmm_pyg.auto.trials import Trial
from promptmm_pyg.auto.workers import Workers
from promptmm_pyg.cli import main
from promptmm_pyg.cli.auto import leaderboard
from promptmm_pyg.data import ITEM, USER
from promptmm_pyg.runs import Run, RunError
from promptmm_pyg.runs.folder import read_json, save_tensors
from promptmm_pyg.runs.teachers import student_teacher

DATA = {
    'format': 'synthetic',
    'synthetic': {'num_users': 80, 'num_items': 40, 'seed': 0},
    'split': {'method': 'per-user', 'val_ratio': 0.2, 'test_ratio': 0.2},
}
MODELS = ['Popularity', 'EASE', 'LightGCN', 'VBPR']
OPTIONS = {'minutes': 10, 'models': MODELS, 'jobs': 2, 'embedding_dim': 8}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A search that Ctrl-C ended, and that was resumed; one model fails."""
    folder = tmp_path_factory.mktemp('auto') / 'run'
    finished, as_config = Workers.finished, module.as_config

    def interrupted(self, timeout):
        if 'LightGCN' in self.running:
            Workers.finished = finished
            raise KeyboardInterrupt
        return finished(self, timeout)

    def broken(trial, settings):
        config = as_config(trial, settings)
        if trial.model == 'VBPR':
            config['train']['learning_rate'] = -1.0
        return config

    with (
        patch.object(module, 'as_config', broken),
        patch.object(module, 'draw_trial', lambda *_: None),  # It ends early.
        patch.object(student, '_TRIED', student._TRIED[:2]),
    ):
        with (
            patch.object(Workers, 'finished', interrupted),
            pytest.raises(KeyboardInterrupt),
        ):
            auto_run(folder, DATA, **OPTIONS)
        run = Run.open(folder)
        assert run.has('student')  # The best so far.
        assert run.recommender().user_x.size(1) == 8
        assert not run.evaluation_file('test').exists()
        auto_run(folder, DATA, resume=True, **OPTIONS)
    return folder


def test_the_result_is_a_run_whose_test_was_read_once(folder):
    run = Run.open(folder)
    content = read_json(run.evaluation_file('test'))
    assert len(content['test_reads']) == 1
    names = {'teacher', 'student', 'truncated_teacher'}
    assert {*names, 'LightGCN', 'EASE'} <= set(content['metrics'])
    assert {'student - LightGCN', 'student - EASE'} <= set(content['differences'])
    val = read_json(run.evaluation_file('val'))['metrics']
    truncated = val['truncated_teacher']['Recall@20']
    assert val['student']['Recall@20'] >= truncated - 1e-6
    assert run.recommender().user_x.size(1) == 8
    weights = {x['name']: x['weight'] for x in run.search['trials']}
    assert weights.pop('VBPR') is None  # It failed.
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-4)


def test_a_model_that_fails_is_left_out(folder):
    search = Run.open(folder).search
    trials = {trial['name']: trial for trial in search['trials']}
    assert trials['VBPR']['status'] == 'failed'
    assert trials['EASE']['tried'] == 6
    assert trials['LightGCN']['epochs'] > 0
    rows = {row[0]: row for row in leaderboard(search)}
    assert "left out: 'learning_rate' must be positive" in rows['VBPR'][-1]
    assert list(rows)[-1] == 'VBPR'


def test_a_moved_run_finds_its_members(folder, tmp_path):
    moved = Run.open(shutil.copytree(folder, tmp_path / 'moved'))
    shutil.rmtree(moved.path / 'work')
    config = {**moved.student_config, 'teachers': ['members/LightGCN']}
    student_teacher(moved, config, tmp_path)
    teachers = read_json(tmp_path / 'teachers.json')
    assert teachers.keys() == {'EASE', 'LightGCN'}
    assert teachers['EASE']['run'] == '.'
    assert teachers['LightGCN']['run'] == 'members/LightGCN'
    assert moved.evaluate('val').keys() >= {'LightGCN', 'EASE', 'student'}
    ensemble = moved.search['ensemble']['weights']
    moved.refit(progress=False)
    assert moved.final['teachers'] == ensemble
    assert moved.recommender().user_x.size(1) == 8


def test_the_report_has_the_leaderboard(folder, capsys):
    assert main(['report', str(folder)]) == 0
    page = (folder / 'report.html').read_text()
    assert '<h2>Search</h2>' in page
    assert 'left out: &#39;learning_rate&#39; must be positive' in page
    assert 'baseline' not in capsys.readouterr().err


def test_a_folder_with_a_search_is_not_replaced(folder):
    with pytest.raises(RunError, match=r'contains a run.*--resume.*--overwrite'):
        auto_run(folder, DATA, **OPTIONS)
    with pytest.raises(RunError, match=r"must be of 'promptmm auto'"):
        auto_run(folder / 'members' / 'EASE', DATA, resume=True, **OPTIONS)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'minutes': 0}, "'minutes' must be positive"),
        ({'models': ['GPT']}, "'models' must be one of"),
        ({'jobs': 0}, "'jobs' must be positive"),
        ({'minutes': 1e-4, 'models': ['LightGCN']}, '--minutes must allow one'),
    ],
)
def test_mistakes(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        auto_run(tmp_path / 'run', DATA, progress=False, **{**OPTIONS, **options})


def test_the_status_line_of_a_terminal(capsys):
    with patch.object(sys.stderr, 'isatty', lambda: True):
        screen = Screen(Budget(10, 300, lambda: 0.0), quiet=False)
        screen.status([Trial('a', 'EASE', value=0.25)], ['VBPR'])
        screen.line('done')
    text = capsys.readouterr().err
    assert '5:00 left  EASE 0.2500  training VBPR' in text
    assert text.rstrip().endswith('5:00  done')


def test_a_trial_that_cannot_be_continued_keeps_its_best_epoch(tmp_path):
    search = module._Search(tmp_path, None, None, Screen(Budget(1), quiet=True))
    search.trials = [
        Trial('a', 'VBPR', status='running', rung=0, value=0.1, epochs=4, seconds=8.0),
        Trial('b', 'VBPR', status='running'),
    ]
    for name in ('a', 'b'):
        search._finish(name, {'error': 'no epoch within 3 s', 'wall': 3.0})
    kept, failed = search.trials
    assert (kept.status, kept.error, kept.is_usable) == ('done', '', True)
    assert (failed.status, failed.error) == ('failed', 'no epoch within 3 s')
    assert kept.epoch_seconds == 11 / 4
    assert failed.epoch_seconds == 0.0


def test_new_trials_are_weighted_before_old_ones_without_weight(tmp_path, monkeypatch):
    search = module._Search(tmp_path, None, None, Screen(Budget(1), quiet=True))
    search.workers = Workers(1, 1, 'cpu')
    monkeypatch.setattr(module, 'MAX_TEACHERS', 4)
    weights = {'best': 0.0, 'a': 0.0, 'b': 0.2, 'c': 0.8, 'new': None}
    for n, (name, weight) in enumerate(weights.items()):
        search.trials.append(Trial(name, 'VBPR', value=0.5 - 0.1 * n, weight=weight))
        search.tables_of(search.trials[-1]).parent.mkdir(parents=True)
        tables = {key: torch.randn(4, 2) for key in (USER, ITEM)}
        save_tensors(search.tables_of(search.trials[-1]), tables)
    assert list(search._tables()) == ['new', 'c', 'b', 'best']
    assert list(search._tables(search.trials[1])) == ['a', 'new', 'c', 'b']
