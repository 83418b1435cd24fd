"""``promptmm completion``: a script for the shell that completes what is typed.

The words and the help of every command are in a file of the package, so that no command
is imported to show them. ``python -m promptmm_pyg.cli.completion`` prints it, with
``COLUMNS=80``.
"""

import argparse
import json
from importlib.resources import files
from typing import Any

from promptmm_pyg.cli.parsing import Parser

FILE = 'commands.json'
DESCRIPTION = """\
Print a script that completes the commands and options of promptmm in your shell."""
EXAMPLE = """\
example:
  promptmm completion bash > ~/.local/share/bash-completion/completions/promptmm
  promptmm completion zsh > ~/.zfunc/_promptmm
  promptmm completion fish > ~/.config/fish/completions/promptmm.fish"""
_BASH = """\
_promptmm() {
  local words command word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) command="$word"; break ;; esac
  done
  case "$command" in
%s  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _promptmm promptmm
"""


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    parser.add_argument('shell', choices=('bash', 'zsh', 'fish'))


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    words = read_words()
    if args.shell == 'fish':
        for command, options in words.items():
            inside = f'__fish_seen_subcommand_from {command}'
            where = inside if command else '__fish_use_subcommand'
            for word in options:
                kind = f'-l {word[2:]}' if word.startswith('--') else f'-a {word}'
                print(f"complete -c promptmm -n '{where}' {kind}")
        return 0
    cases = ''.join(
        f'    {command or chr(34) * 2}) words="{" ".join(options)}" ;;\n'
        for command, options in words.items()
    )
    head = (
        'autoload -U +X bashcompinit && bashcompinit\n' if args.shell == 'zsh' else ''
    )
    print(head + _BASH % cases, end='')
    return 0


def read_words() -> dict[str, list[str]]:
    """The words after each command, and after none (``''``)."""
    return {name: x['words'] for name, x in read_commands().items() if 'words' in x}


def read_commands() -> dict[str, dict[str, Any]]:
    """The words and the help of each command, from ``commands.json``."""
    text = (files('promptmm_pyg.cli') / FILE).read_text(encoding='utf-8')
    commands: dict[str, dict[str, Any]] = json.loads(text)
    return commands


def collect_commands(parser: Parser) -> dict[str, dict[str, Any]]:
    """The content of ``commands.json``, from a program with all its commands."""
    commands: dict[str, dict[str, Any]] = {'': {'words': _words(parser)}}
    for name, child in _children(parser).items():
        inner = _children(child)
        if isinstance(child, Parser):
            child.complete(())
        below = [word for x in inner.values() for word in _words(x)]
        words = list(dict.fromkeys([*_words(child), *below]))
        commands[name] = {'words': words, 'help': child.format_help()}
        for word, x in inner.items():
            commands[f'{name} {word}'] = {'help': x.format_help()}
    return commands


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser) -> list[str]:
    options = [
        word
        for action in parser._actions
        for word in action.option_strings
        if word.startswith('--')
    ]
    return [*_children(parser), *options]


if __name__ == '__main__':
    from promptmm_pyg.cli import build_parser

    print(json.dumps(collect_commands(build_parser()), indent=1))
