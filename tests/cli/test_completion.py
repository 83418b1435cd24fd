import shutil
import subprocess
import sys

import pytest

from promptmm_pyg.cli import COMMANDS, build_parser, main
from promptmm_pyg.cli.completion import collect_commands, read_commands, read_words

WRITTEN_BY = 3, 11


def test_the_file_has_the_words_and_the_help_of_the_commands(monkeypatch):
    # Write it again: COLUMNS=80 python -m promptmm_pyg.cli.completion
    monkeypatch.setenv('COLUMNS', '120')  # As wide as in a terminal of 80.
    collected, written = collect_commands(build_parser()), read_commands()
    assert read_words() == {k: x['words'] for k, x in collected.items() if 'words' in x}
    assert set(read_words()['']) >= {*COMMANDS, '--version', '--help'}
    assert set(written) == {*read_words(), 'data check'}
    if sys.version_info[:2] == WRITTEN_BY:  # argparse changes its layout.
        assert written == collected


def test_help_is_that_of_the_parser_in_a_narrow_terminal_and_with_more_words(
    monkeypatch, capsys
):
    for columns, words in (
        ('80', ['train']),
        ('50', ['train']),
        ('80', ['train', '--model', 'EASE']),
    ):
        monkeypatch.setenv('COLUMNS', columns)
        with pytest.raises(SystemExit):
            main([*words, '--help'])
        is_written = capsys.readouterr().out == read_commands()['train']['help']
        assert is_written == ((columns, len(words)) == ('80', 1))


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
