"""Starting the program imports what the command runs, and nothing else."""

import subprocess
import sys

import pytest

from promptmm_pyg.cli import COMMANDS, build_parser, command_of

HEAVY = ('torch', 'torch_geometric', 'torchmetrics', 'pandas', 'numpy')


def imported(code):
    """Which heavy packages a new process imports while it runs ``code``."""
    code += f"\nprint('heavy:', [x for x in {HEAVY} if x in sys.modules])"
    done = subprocess.run(
        [sys.executable, '-c', 'import sys\n' + code],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    'words',
    [['--help'], ['--version'], ['completion', 'bash'], ['data', 'check', '--help']],
)
def test_help_version_and_completion_import_nothing_heavy(words):
    code = (
        'from promptmm_pyg.cli import main\n'
        f'try: main({words})\n'
        'except SystemExit: pass'
    )
    assert imported(code) == 'heavy: []'


def test_a_mistake_in_the_name_of_a_command_imports_nothing_heavy():
    code = "from promptmm_pyg.cli import main\nassert main(['fly']) == 2"
    assert imported(code) == 'heavy: []'


def test_a_command_imports_its_own_module_only():
    code = (
        'from promptmm_pyg.cli import build_parser\n'
        "build_parser('completion')\n"
        "print('heavy:', [x for x in sys.modules if x.startswith('promptmm_pyg.cli.')])"
    )
    done = subprocess.run(
        [sys.executable, '-c', 'import sys\n' + code],
        capture_output=True,
        text=True,
        check=True,
    )
    names = ('parsing', 'completion')
    expected = [f'promptmm_pyg.cli.{name}' for name in names]
    assert done.stdout.strip() == f'heavy: {expected}'


@pytest.mark.parametrize('name', COMMANDS)
def test_one_command_is_parsed_as_among_all(name):
    whole, alone = build_parser(), build_parser(name)
    one, other = (
        parser._subparsers._group_actions[0].choices[name].format_help()
        for parser in (whole, alone)
    )
    assert one == other
    assert whole.format_help() == alone.format_help() == build_parser('').format_help()


def test_the_command_is_the_first_word_that_is_no_option():
    assert command_of(['--traceback', 'train', 'x']) == 'train'
    assert command_of(['--help']) == ''
