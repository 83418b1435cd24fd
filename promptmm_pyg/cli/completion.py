"""``promptmm completion``: a script for the shell that completes what is typed.

The words are in a file of the package, so that no command is imported.
"""

import argparse
from importlib.resources import files

from promptmm_pyg.cli.parsing import Parser

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
    text = (files('promptmm_pyg.cli') / 'completion.txt').read_text(encoding='utf-8')
    lines = (line.partition(':') for line in text.splitlines())
    return {command: rest.split() for command, _, rest in lines}


def collect_words(parser: Parser) -> dict[str, list[str]]:
    """The words of a program with all its commands, for ``completion.txt``."""
    words = {'': _words(parser)}
    for name, child in _children(parser).items():
        if isinstance(child, Parser):
            child.complete(())
        inner = _children(child)
        below = [word for x in inner.values() for word in _words(x)]
        words[name] = list(dict.fromkeys([*_words(child), *below]))
    return words


def format_words(words: dict[str, list[str]]) -> str:
    """The content of ``completion.txt``."""
    return ''.join(f'{name}: {" ".join(found)}\n' for name, found in words.items())


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

    print(format_words(collect_words(build_parser())), end='')
