import shutil
import subprocess

import pytest

from promptmm_pyg.cli import COMMANDS, build_parser, main
from promptmm_pyg.cli.completion import collect_words, read_words


def test_the_file_of_words_is_that_of_the_commands():
    # Write it again: python -m promptmm_pyg.cli.completion
    assert read_words() == collect_words(build_parser())
    assert set(read_words()['']) >= {*COMMANDS, '--version', '--help'}


@pytest.mark.parametrize(
    ('typed', 'expected'),
    [
        (['promptmm', 'di'], ['distill']),
        (['promptmm', 'train', '--batch'], ['--batch-size']),
        (['promptmm', '--traceback', 'data', 'ch'], ['check']),
        (['promptmm', 'recommend', 'runs/x', '--his'], ['--history']),
        (['promptmm', 'completion', '--x'], []),
    ],
)
@pytest.mark.skipif(shutil.which('bash') is None, reason='needs bash')
def test_bash_completes_commands_and_options(typed, expected, capsys):
    assert main(['completion', 'bash']) == 0
    words = ' '.join(typed)
    script = capsys.readouterr().out + (
        f'COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _promptmm\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ['bash', '--norc'], input=script, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected
    assert done.stderr == ''


def test_the_other_shells_get_a_script_of_their_own(capsys):
    assert main(['completion', 'zsh']) == 0
    assert capsys.readouterr().out.startswith('autoload')
    assert main(['completion', 'fish']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "complete -c promptmm -n '__fish_use_subcommand' -a train" in lines
    line = "complete -c promptmm -n '__fish_seen_subcommand_from train' -l batch-size"
    assert line in lines
