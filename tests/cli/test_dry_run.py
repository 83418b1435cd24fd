import re
from pathlib import Path

import pytest
import torch

from promptmm_pyg.cli import main, system
from promptmm_pyg.cli.system import Cost, _Clock, _EnoughError, without_cache
from promptmm_pyg.training import neighborhood

from .conftest import DISTILL, TRAIN


def test_a_dry_run_of_the_teacher_tells_costs_and_writes_nothing(
    files, tmp_path, capsys
):
    words = [files.table, '--features', f'text={files.text}', *TRAIN]
    run = tmp_path / 'run'
    assert main(['train', *words, '--out', str(run), '--dry-run']) == 0
    out = capsys.readouterr().out
    pairs = len(Path(files.table).read_text().splitlines()) - 1
    assert out.startswith('data: 40 users, 60 items, ')
    held = int(re.search(r'(\d+) interactions', out)[1])
    assert held < pairs
    assert f'\n  {-(-held // 128)} steps per epoch, ' in out
    assert re.search(r'\nteacher: [\d,]+ parameters \(', out)
    assert re.search(r'\ntime: [\d.]+ s for 2 epochs\n', out)
    assert re.search(r'\nmemory: about [\d.]+ MiB at most: ', out)
    assert out.endswith('nothing was written\n')
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_the_student_has_its_control_and_changes_nothing(
    distilled, capsys
):
    before = {path: path.stat().st_mtime_ns for path in distilled.rglob('*')}
    words = [*DISTILL, '--epochs', '50', '--patience', '3', '--dry-run']
    assert main(['distill', str(distilled), *words]) == 0
    out = capsys.readouterr().out
    # LightGCN of width 4: a row for each of 40 users and 60 items.
    assert '\nstudent: 400 parameters (1.6 KiB)\n' in out
    assert '\nbaseline: 400 parameters (1.6 KiB)\n' in out
    assert 'from 4 epochs each, the earliest end by --patience' in out
    assert f"note: '{distilled}' has a student" in out
    assert {path: path.stat().st_mtime_ns for path in distilled.rglob('*')} == before


def test_without_a_control_none_is_timed(trained, capsys):
    words = [*DISTILL, '--no-baseline', '--dry-run']
    assert main(['distill', str(trained), *words]) == 0
    out = capsys.readouterr().out
    assert 'baseline' not in out
    assert 'note' not in out
    assert not (trained / 'student').exists()


def test_a_run_that_is_there_is_mentioned(files, trained, capsys):
    words = [files.table, '--features', f'text={files.text}', *TRAIN, '--dry-run']
    assert main(['train', *words, '--out', str(trained)]) == 0
    assert f"note: '{trained}' contains a run" in capsys.readouterr().out


def test_batches_that_share_a_step_are_one_step(files, tmp_path, capsys):
    words = [files.table, '--features', f'text={files.text}', *TRAIN]
    words += ['--batch-size', '16', '--propagate-every', '2', '--dry-run']
    assert main(['train', *words, '--out', str(tmp_path / 'run')]) == 0
    out = capsys.readouterr().out
    held = int(re.search(r'(\d+) interactions', out)[1])
    assert f'\n  {-(-held // 32)} steps per epoch, ' in out


def test_a_mistake_shows_as_in_training(files, tmp_path, fails):
    words = [files.table, *TRAIN, '--out', str(tmp_path / 'run'), '--dry-run']
    assert 'requires item features' in fails('train', *words)


def test_time_is_steps_and_validations():
    cost = Cost('x', 1, 4, 0.5, steps_per_epoch=10, seconds_per_validation=3.0)
    # Five epochs of ten steps; validations after the second, fourth and last.
    assert cost.seconds(5, 2) == pytest.approx(5 * 10 * 0.5 + 3 * 3.0)


def test_the_clock_leaves_out_the_first_step_and_evaluation(monkeypatch):
    moments = iter([0.0, 9.0, 10.0, 11.0, 12.0, 15.0, 18.0, 21.0])
    monkeypatch.setattr(system.time, 'perf_counter', lambda: next(moments))
    monkeypatch.setattr(system, '_SECONDS', 100.0)
    clock, module = _Clock(), torch.nn.Identity()
    clock(module.eval(), None)
    module.train()
    for _ in range(7):
        clock(module, None)
    with pytest.raises(_EnoughError):
        clock(module, None)
    assert clock.seconds() == 2.0  # The median of 1, 1, 1, 3, 3 and 3.


def test_the_clock_stops_slow_steps_early(monkeypatch):
    moments = iter([0.0, 60.0, 120.0])
    monkeypatch.setattr(system.time, 'perf_counter', lambda: next(moments))
    clock, module = _Clock(), torch.nn.Identity().train()
    clock(module, None)
    clock(module, None)
    with pytest.raises(_EnoughError):
        clock(module, None)
    assert clock.seconds() == 60.0


def test_no_cache_of_contents_is_written():
    data = {'path': 'x', 'content': [{'modality': 'text', 'cache': '/c'}]}
    found = without_cache(data)
    assert found['content'] == [{'modality': 'text', 'cache': None}]
    assert data['content'][0]['cache'] == '/c'
    assert without_cache({'path': 'x'})['content'] == []


def test_a_dry_run_names_what_steps_are_trained_on(
    files, tmp_path, capsys, monkeypatch
):
    words = [files.table, '--features', f'text={files.text}', *TRAIN]
    words += ['--out', str(tmp_path / 'run'), '--dry-run']

    def steps(*more):
        assert main(['train', *words, *more]) == 0
        return capsys.readouterr().out

    out = steps()
    assert 'steps: on the whole graph: about ' in out
    assert 'warning' not in out
    assert 'neighborhoods of 5 and 5 edges' in steps('--edges-per-hop', '5', '5')
    monkeypatch.setattr(neighborhood, 'total_memory', lambda: 1000)
    assert 'neighborhoods of 10 and 10 edges' in steps('--num-layers', '2')
    out = steps('--edges-per-hop', 'none')
    assert 'may not fit into memory. Pass --edges-per-hop auto' in out
    out = steps('--model', 'VBPR')
    assert 'VBPR is not trained on neighborhoods' in out


def test_a_training_of_more_than_an_hour_is_warned_about(capsys, files, tmp_path):
    words = [files.table, *TRAIN, '--model', 'LightGCN', '--epochs', '9999999']
    assert main(['train', *words, '--out', str(tmp_path / 'run'), '--dry-run']) == 0
    assert 'warning: it can take more than an hour' in capsys.readouterr().out
