"""Every example runs, on data small enough for a test."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / 'examples'
ARGUMENTS = {
    'quickstart.py': ['--users', '80', '--items', '50', '--epochs', '2'],
    'losses_in_your_model.py': ['--epochs', '1'],
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob('*.py')} == set(ARGUMENTS)


@pytest.mark.parametrize('name', ARGUMENTS)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_example_runs_and_reports(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [name, *ARGUMENTS[name]])
    runpy.run_path(str(EXAMPLES / name), run_name='__main__')
    assert 'Recall@20' in capsys.readouterr().out


@pytest.mark.parametrize('name', ARGUMENTS)
def test_example_is_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) <= 100
