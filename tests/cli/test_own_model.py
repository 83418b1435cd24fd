"""Models of the user: files and installed packages."""

import json
import re
import shutil
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.models import LightGCN, _resolve, get_model, model_names
from promptmm_pyg.runs import Run

PAGE = Path(__file__).parents[2] / 'docs' / 'guides' / 'own_model.md'
QUICK = ['--epochs', '1', '--batch-size', '128', '--embedding-dim', '4', '--quiet']


@pytest.fixture
def sage(tmp_path, monkeypatch):
    """The file of the guide, and a user who has allowed no file yet."""
    monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path / 'config'))
    monkeypatch.setattr(_resolve, 'LOADED', {})
    file = tmp_path / 'sage.py'
    file.write_text(re.search(r'```python\n(.*?)```', PAGE.read_text(), re.S)[1])
    return file


def another_process(monkeypatch):
    monkeypatch.setattr(_resolve, 'LOADED', {})


def test_the_model_of_the_guide_is_a_run_like_any_other(
    sage, files, tmp_path, monkeypatch, capsys, fails
):
    monkeypatch.chdir(tmp_path)
    out, model = str(tmp_path / 'run'), 'sage.py:Sage'
    with pytest.raises(SystemExit):
        main(['train', '--model', model, '--help'])
    helped = capsys.readouterr().out
    assert 'model Sage:' in helped
    assert re.search(
        r'--dropout X\s+The dropout between layers \(default: 0.1\)', helped
    )
    words = ['--model', model, '--num-layers', '1', *QUICK]
    assert main(['train', files.layout, '--out', out, *words]) == 0
    assert 'Sage: validation' in capsys.readouterr().out
    another_process(monkeypatch)
    monkeypatch.chdir('/')  # The path is absolute.
    run = Run.open(out)
    assert run.config['model'] == f'{sage}:Sage'
    assert len(run.config['model_sha256']) == 64
    teacher = run.teacher()
    assert type(teacher).__name__ == 'Sage'
    assert len(teacher.gnn.convs) == 1
    assert main(['distill', out, '--student', f'{sage}:Sage', *QUICK]) == 0
    assert type(run.student()).__name__ == 'Sage'
    assert main(['evaluate', out]) == 0
    card = (run.recommender_dir / 'README.md').read_text()
    assert 'a Sage student' in card
    assert str(tmp_path) not in card
    # The same settings again, from the file of the run.
    again = str(tmp_path / 'again')
    config = str(run.config_file)
    assert main(['train', '--config', config, '--out', again, '--quiet']) == 0
    sage.write_text(sage.read_text() + '\n# Altered.\n')
    message = fails('evaluate', out)
    assert 'altered' in message
    assert 'train again' in message
    sage.unlink()
    assert 'existing file' in fails('evaluate', out)
    assert main(['similar', out, '--items', str(run.recommender().items[0])]) == 0


def test_code_that_the_user_never_named_is_not_run(
    sage, files, tmp_path, monkeypatch, fails
):
    """As in a run that somebody else has sent."""
    out = str(tmp_path / 'run')
    words = ['--model', f'{sage}:Sage', *QUICK]
    assert main(['train', files.layout, '--out', out, *words]) == 0
    shutil.rmtree(tmp_path / 'config')
    another_process(monkeypatch)
    config = str(Run(out).config_file)
    for words in (
        ['evaluate', out],
        ['distill', out, *QUICK],
        ['refit', out],
        ['train', '--config', config, '--out', str(tmp_path / 'other')],
    ):
        message = fails(*words)
        assert 'must be code that you allowed' in message
        assert f'promptmm train --model {sage}:Sage --help' in message
        assert _resolve.LOADED == {}
    with pytest.raises(SystemExit):
        main(['train', '--model', f'{sage}:Sage', '--help'])
    another_process(monkeypatch)
    assert main(['evaluate', out]) == 0
    # Where nothing can be recorded, the permission is that of the process.
    shutil.rmtree(tmp_path / 'config')
    (tmp_path / 'config').write_text('')
    another_process(monkeypatch)
    get_model(f'{sage}:Sage')
    assert type(Run.open(out).teacher()).__name__ == 'Sage'


@pytest.mark.parametrize(
    ('code', 'name', 'message'),
    [
        ('', 'Missing', "one of [] (got 'Missing')"),
        ('class A:\n    pass\n', 'B', "one of ['A']"),
        ('class A:\n    pass\n', 'A', 'subclass of GraphRecommender or ClosedForm'),
        ('A = 3\n', 'A', 'subclass of GraphRecommender'),
        ('x = 1\n1 / 0\n', 'A', 'ZeroDivisionError in line 2'),
        ('x = (\n', 'A', 'SyntaxError in line 1'),
        (
            'from promptmm_pyg.models import GraphRecommender as G\n'
            'class A(G):\n    pass\n',
            'A',
            "define ['forward']",
        ),
        (
            'from promptmm_pyg.models import ClosedForm\nclass A(ClosedForm):\n'
            '    def scores(self, users):\n        pass\n',
            'A',
            "define ['_products', 'fit']",
        ),
        (
            'from promptmm_pyg.models import LightGCN\nclass A(LightGCN):\n'
            '    def __init__(self, width=3):\n        pass\n',
            'A',
            "'**kwargs'",
        ),
    ],
)
def test_a_file_without_such_a_model(code, name, message, sage, fails):
    sage.write_text(code)
    error = fails('train', 'data', '--out', 'r', '--model', f'{sage}:{name}')
    assert message in error
    assert error.count('\n') <= 1


def test_a_file_that_is_missing(sage, fails):
    for option in (
        ['train', 'd', '--out', 'r', '--model'],
        ['distill', 'r', '--student'],
    ):
        assert 'existing file' in fails(*option, f'{sage.parent}/no.py:Net')


def test_arguments_without_types_or_docstrings_are_options(sage, capsys):
    sage.write_text(
        'from promptmm_pyg.models import LightGCN\n'
        'class A(LightGCN):\n'
        '    def __init__(self, *args, warm_up=3, **kwargs):\n'
        '        super().__init__(*args, **kwargs)\n'
    )
    words = ['train', 'd', '--out', 'r', '--model', f'{sage}:A', '--warm-up', '5']
    with pytest.raises(SystemExit):
        main([*words, '--help'])
    helped = capsys.readouterr().out
    assert re.search(r'--warm-up N\s+warm up \(default: 3\)', helped)
    assert '--embedding-dim' in helped  # Of LightGCN.


def test_an_installed_package_offers_models(
    monkeypatch, files, tmp_path, capsys, fails
):
    group = _resolve.GROUP
    points = EntryPoints(
        [
            EntryPoint('Deep', 'promptmm_pyg.models:LightGCN', group),
            EntryPoint('EASE', 'promptmm_pyg.models:LightGCN', group),
            EntryPoint('Broken', 'no_such_package:Net', group),
        ]
    )
    monkeypatch.setattr(_resolve, 'entry_points', points.select)
    assert get_model('Deep') is LightGCN
    assert get_model('EASE') is not LightGCN
    assert model_names()[-2:] == ['Broken', 'Deep']
    out = str(tmp_path / 'run')
    assert main(['train', files.layout, '--out', out, '--model', 'Deep', *QUICK]) == 0
    assert isinstance(Run.open(out).teacher(), torch.nn.Module)
    assert 'model_sha256' not in json.loads(Run(out).config_file.read_text())
    message = fails('train', files.layout, '--out', out, '--model', 'Broken')
    assert "'no_such_package:Net', ModuleNotFoundError" in message


def test_an_error_of_a_file_has_its_line(sage, files, tmp_path, fails):
    sage.write_text(sage.read_text().replace('item, user =', 'item, user, more ='))
    words = ['--model', f'{sage}:Sage', *QUICK, '--out', str(tmp_path / 'run')]
    message = fails('train', files.layout, *words)
    assert re.search(rf"unpack .*\(line \d+ of '{sage}'\)", message)
