import errno
import os
import signal
import subprocess
import sys
import warnings

import pytest

from promptmm_pyg import __version__
from promptmm_pyg.cli import format_error, main

COMMANDS = [
    ['data', 'check'],
    ['train'],
    ['distill'],
    ['evaluate'],
    ['recommend'],
    ['similar'],
    ['serve'],
    ['add-items'],
    ['demo'],
    ['compare'],
    ['explain'],
    ['export'],
    ['doctor'],
    ['report'],
    ['benchmark'],
    ['completion'],
]


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_the_help_of_a_command_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, '--help'])
    assert stopped.value.code == 0
    assert f'\n  promptmm {" ".join(command)}' in capsys.readouterr().out


def test_the_help_of_the_program_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    out = capsys.readouterr().out
    assert all(f'promptmm {" ".join(command)} ' in out for command in COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(['--version'])
    assert capsys.readouterr().out.strip() == __version__


def test_no_command_is_a_mistake(fails):
    assert 'a command is required' in fails()


def test_an_unknown_command_is_a_mistake_of_one_line(fails):
    assert "invalid choice: 'fly'" in fails('fly')


def test_an_unknown_option_names_the_help_to_read(fails):
    assert "See 'promptmm" in fails('evaluate', 'runs/x', '--fast')


def test_an_option_may_not_be_abbreviated(fails):
    message = fails('recommend', 'runs/x', '--users', '1', '--mem', '1GiB')
    assert 'unrecognized arguments: --mem 1GiB' in message


def test_a_message_of_the_library_is_one_line(fails, monkeypatch):
    def broken(*args):
        raise ValueError('first\n- second')

    monkeypatch.setattr('promptmm_pyg.cli.data.resolve', broken)
    assert fails('data', 'check', '.') == 'promptmm: error: first - second'


def test_a_missing_package_is_a_mistake(fails, files, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    assert '".[frames]"' in fails('data', 'check', files.table)


def test_traceback_raises_what_happened():
    with pytest.raises(Exception, match='there is no file or folder'):
        main(['--traceback', 'data', 'check', 'nowhere'])


def test_a_bug_is_not_taken_for_a_mistake(monkeypatch, capsys):
    def broken(args):
        raise AssertionError('a bug')

    monkeypatch.setattr('promptmm_pyg.cli.evaluate.run', broken)
    assert main(['evaluate', 'runs/x']) == 1
    assert 'internal error (AssertionError: a bug)' in capsys.readouterr().err
    with pytest.raises(AssertionError, match='a bug'):
        main(['--traceback', 'evaluate', 'runs/x'])


def test_a_reader_that_stops_reading_is_no_mistake(monkeypatch, capsys):
    def closed(args):
        raise BrokenPipeError

    monkeypatch.setattr('promptmm_pyg.cli.evaluate.run', closed)
    assert main(['evaluate', 'runs/x']) == 141
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        (['train', 'a b', '--out', 'r', '--overwrite'], "train 'a b' --out r --resume"),
        (['distill', 'r', '--resume'], 'distill r --resume'),
        (['demo'], 'demo'),
    ],
)
def test_an_interruption_says_how_to_go_on(argv, expected, capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(f'promptmm_pyg.cli.{argv[0]}.run', interrupted)
    assert main(argv) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f'promptmm: interrupted. Continue with: promptmm {expected}'


@pytest.fixture
def interruptible():
    """SIGINT raises, also where the tests run in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
def test_an_import_that_hides_an_interruption_is_interrupted(capsys, monkeypatch):
    def hides(name):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError('initialization failed') from None

    monkeypatch.setattr('promptmm_pyg.cli.import_module', hides)
    assert main(['demo']) == 130
    assert capsys.readouterr().err.startswith('\npromptmm: interrupted')


@pytest.mark.parametrize(
    ('error', 'status', 'expected'),
    [
        (MemoryError('8 GiB'), 1, 'not enough memory (8 GiB)'),
        (RuntimeError("can't allocate memory: 9 bytes"), 1, 'not enough memory'),
        (OSError(errno.ENOSPC, 'No space left', 'x.csv'), 1, "'x.csv' cannot be"),
        (FileNotFoundError(errno.ENOENT, 'No such file', 'x.csv'), 2, "'x.csv' cannot"),
        (KeyError('a'), 1, "internal error (KeyError: 'a')"),
        (ValueError('a' * 1000), 2, f'{"a" * 200}...{"a" * 100}'),
        (ValueError('\x1b[31m'), 2, '\\x1b[31m'),
    ],
)
def test_every_error_is_one_line(error, status, expected, capsys, monkeypatch):
    def fails(args):
        raise error

    monkeypatch.setattr('promptmm_pyg.cli.demo.run', fails)
    assert main(['demo']) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'promptmm: error: {expected}')


def test_the_advice_fits_the_error():
    full = format_error(OSError(errno.ENOSPC, 'No space left', 'x.csv'))
    assert full.endswith(': No space left. Free disk space, or choose another folder')
    denied = format_error(OSError(errno.EACCES, 'Permission denied', 'x.csv'))
    assert denied.endswith('Check the path and its permissions')


def test_a_deleted_current_folder_is_an_error(tmp_path, capsys, monkeypatch):
    (tmp_path / 'gone').mkdir()
    monkeypatch.chdir(tmp_path / 'gone')
    (tmp_path / 'gone').rmdir()
    assert main(['doctor']) == 2
    assert 'the current folder must exist' in capsys.readouterr().err


def test_control_characters_of_any_output_are_escaped(capsys, monkeypatch):
    def shows(args):
        print('a\tb\n\x1b]0;title\x07', end='')
        return 0

    monkeypatch.setattr('promptmm_pyg.cli.demo.run', shows)
    assert main(['demo']) == 0
    assert capsys.readouterr().out == 'a\tb\n\\x1b]0;title\\x07'


def test_the_program_is_one_process_without_a_traceback():
    words = [sys.executable, '-m', 'promptmm_pyg', 'fly']
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.startswith('promptmm: error: argument COMMAND: invalid choice')
    assert done.stderr.count('\n') == 1


def test_errors_of_the_system_name_the_path(tmp_path, fails, distilled):
    (tmp_path / 'file').write_text('')
    out = tmp_path / 'file' / 'x.npz'
    message = fails('export', distilled, '--embeddings', out)
    assert "file' cannot be read or written: " in message
    assert 'Check the path' in message


@pytest.mark.filterwarnings('always')
def test_warnings_are_plain_lines(monkeypatch, capsys):
    def warn(args):
        warnings.warn('the data\nare \x1b[1m odd', stacklevel=1)
        return 0

    monkeypatch.setattr('promptmm_pyg.cli.doctor.run', warn)
    shown = warnings.showwarning
    assert main(['doctor']) == 0
    assert capsys.readouterr().err == 'warning: the data are \\x1b[1m odd\n'
    assert warnings.showwarning is shown


def test_stderr_that_cannot_be_written_does_not_change_the_status(tmp_path):
    # As in a shell script whose stderr is closed.
    file = tmp_path / 'script'
    file.touch()
    with file.open() as read_only:
        words = [sys.executable, '-m', 'promptmm_pyg', 'fly']
        done = subprocess.run(words, stderr=read_only, check=False)
    assert done.returncode == 2
