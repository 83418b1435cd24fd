"""Settings from a file: the same options, read by the same parser."""

import argparse
import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.parsing import Parser, UserError, named
from promptmm_pyg.cli.run_flags import flags_of_run, is_run

# What to do with the settings, and no setting: a file may not say these.
_DEEDS = ('help', 'config', 'print_config', 'dry_run', 'resume', 'overwrite')


def add_config_options(parser: Parser) -> None:
    """Adds ``--config FILE`` and ``--print-config``.

    What the file says stands in for the defaults, so what is typed wins; options that
    collect, such as ``--weight``, take those of the file first.
    """
    named_too = ', '.join(
        f"{action.metavar} as '{action.dest}'"
        for action in parser._actions
        if not action.option_strings
    )
    group = parser.add_argument_group('settings from a file')
    group.add_argument(
        '--config',
        metavar='FILE',
        help='.json or .toml with options by their long names without the dashes in '
        f'front, {named_too}; also the config.json that a run wrote. What is typed '
        'wins; paths are relative to where you are, as when typed',
    )
    group.add_argument(
        '--print-config',
        action='store_true',
        help='print all settings as such a file, and do nothing else',
    )
    parser.before_parsing = take_config
    parser.set_defaults(parser=parser)


def take_config(parser: Parser, argv: Sequence[str]) -> None:
    """Makes the settings of the file that ``--config`` names, if it does, the
    defaults of a parser.

    Raises:
        UserError: If the file cannot be read, or an entry is no option or no value
            of it.
    """
    finder = Parser(prog=parser.prog, add_help=False)
    finder.add_argument('--config')
    path = finder.parse_known_args(list(argv))[0].config
    if path is None:
        return
    known = _settings(parser)
    given: list[argparse.Action] = []
    words: list[str] = []
    last: list[str] = []  # What stands after '--' is positional, all of it.
    for name, value in read_settings(path).items():
        key = name.replace('_', '-')
        if key not in known:
            raise UserError(_unknown(path, name, list(known)))
        if value is not None:
            given.append(known[key])
            new = _words(path, key, known[key], value)
            (words if known[key].option_strings else last).extend(new)
    words += last
    for action, value in zip(given, _parse(parser, path, given, words), strict=True):
        action.default, action.required = value, False
        if not action.option_strings:
            action.nargs = '?'


def _parse(
    parser: Parser, path: str, given: list[argparse.Action], words: list[str]
) -> list[Any]:
    """The values that a parser makes of words that may lack what it requires."""
    needed = [action for action in parser._actions if action.required]
    nargs = [action.nargs for action in needed]
    for action in needed:
        action.required = False
        if not action.option_strings:
            action.nargs = '?'
    parser.before_parsing = None
    try:
        found, _ = parser.parse_known_args(words)
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error
    finally:
        for action, old in zip(needed, nargs, strict=True):
            action.required, action.nargs = True, old
    return [getattr(found, action.dest) for action in given]


def read_settings(path: str | Path) -> dict[str, Any]:
    """The entries of a ``.json`` or ``.toml`` file, by option.

    Raises:
        UserError: If there is no such file, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file '{path}' of settings")
    if path.suffix not in ('.json', '.toml'):
        raise UserError(f"--config requires a .json or .toml file (got '{path}')")
    try:
        text = path.read_text(encoding='utf-8')
        content = tomllib.loads(text) if path.suffix == '.toml' else json.loads(text)
    except ValueError as error:  # Also of bytes that are no text.
        raise UserError(f"'{path}' is no {path.suffix} file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"'{path}' must contain options by name, such as "
            f'{{"epochs": 50}} (got a {type(content).__name__})'
        )
    return flags_of_run(content) if is_run(content) else content


def config_text(args: argparse.Namespace) -> str:
    """All settings in use, as JSON that ``--config`` reads."""
    found = {}
    for action in args.parser._actions:
        if action.dest in _DEEDS:
            continue
        value = getattr(args, action.dest)
        if action.dest == 'weight':
            value = {name: float(number) for name, number in value}
        elif action.type is named:
            value = dict(value)
        found[_key(action)] = value
    return json.dumps(found, indent=2)


def _key(action: argparse.Action) -> str:
    long = [text for text in action.option_strings if text.startswith('--')]
    return long[0].removeprefix('--') if long else action.dest


def _settings(parser: Parser) -> dict[str, argparse.Action]:
    """The options that a file may hold, by name."""
    return {
        _key(action): action for action in parser._actions if action.dest not in _DEEDS
    }


def _unknown(path: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.replace('_', '-'), known, n=1)
    if name.replace('-', '_') in _DEEDS:
        return f"'{path}' may not hold '{name}', which is to be typed"
    meant = f". Did you mean '{near[0]}'?" if near else ". See '--help' for all"
    return f"'{path}' holds '{name}', which is no option{meant}"


def _words(path: str, key: str, action: argparse.Action, value: Any) -> Iterator[str]:
    """What one would type to give an option a value."""
    where = f"'{path}': '{key}'"
    if action.nargs == 0:  # A switch.
        if not isinstance(value, bool):
            raise UserError(f'{where} must be true or false (got {value!r})')
        if value:
            yield f'--{key}'
        elif isinstance(action, argparse.BooleanOptionalAction):
            yield f'--no-{key}'
    elif not action.option_strings:
        yield from ('--', _word(where, value))
    elif isinstance(value, list) and action.nargs == '+' and action.type is not named:
        yield from (f'--{key}', *(_word(where, inner) for inner in value))
    else:
        for inner in _pairs(where, value) if action.type is named else [value]:
            yield f'--{key}={_word(where, inner)}'


def _pairs(where: str, value: Any) -> list[Any]:
    """The values of an option of the form NAME=VALUE that may be repeated."""
    if isinstance(value, dict):
        return [f'{name}={_word(where, inner)}' for name, inner in value.items()]
    return value if isinstance(value, list) else [value]


def _word(where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f'{where} must be a text or a number (got {value!r})')
    return value if isinstance(value, str) else repr(value)
