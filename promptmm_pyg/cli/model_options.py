"""Options of a model, from its signature and its docstring."""

import argparse
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

from promptmm_pyg.cli.parsing import Parser, add_options, read_settings
from promptmm_pyg.models import MODELS, PromptMM
from promptmm_pyg.runs.stages import trained_models

_KINDS = (bool, int, float, str)
_ROLE = re.compile(r':\w+:`~?(?:[\w.]+\.)?([^`<]*?)(?: <[^>]*>)?`')
_SYMBOL = re.compile(r':math:`([^`]*)`')
_NOT_OPTIONS = ('edge_type',)


def add_model(parser: Parser, option: str, default: str, text: str) -> None:
    """Adds the option that names a model of ``MODELS``; ``text`` is its help."""
    names = _names(option)
    parser.add_argument(
        f'--{option}',
        choices=names,
        default=default,
        metavar='NAME',
        help=f'{text}: {", ".join(names)} (default: {default})',
    )


def _names(option: str) -> list[str]:
    return list(MODELS) if option == 'model' else trained_models()


def model_of(argv: Sequence[str], option: str, default: str) -> str:
    """The model that the command line, or else its file of settings, names; the default
    where neither has a known one, which the parser reports.
    """
    finder = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    finder.add_argument('--config')
    finder.add_argument(f'--{option}')
    try:
        found = finder.parse_known_args(list(argv))[0]
    except argparse.ArgumentError:  # A value is missing.
        return default
    name = getattr(found, option)
    if name is None and found.config is not None:
        name = read_settings(found.config).get(option)
    return name if name in _names(option) else default


def add_model_options(parser: Parser, name: str) -> None:
    """Adds an option for each argument of a model that is a number, a text or a switch.
    One that the command has already is named ``--model-...``.
    """
    group = parser.add_argument_group(f'model {name}')
    texts = argument_texts(MODELS[name])
    dests: dict[str, str] = {}
    for cls in _constructors(MODELS[name]):
        own = {key: texts[key] for key in _plain_arguments(cls) if key not in dests}
        rename = {
            key: f'model_{key}'
            for key in own
            if f'--{key.replace("_", "-")}' in parser._option_string_actions
        }
        add_options(group, cls, own, rename)
        dests |= {key: rename.get(key, key) for key in own}
    parser.set_defaults(model_dests=dests)


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the model whose options were added."""
    return {name: getattr(args, dest) for name, dest in args.model_dests.items()}


def _constructors(cls: type) -> Iterator[type]:
    """The class, and PromptMM where it takes further keyword arguments."""
    yield cls
    parameters = inspect.signature(cls).parameters.values()
    if any(x.kind is x.VAR_KEYWORD for x in parameters):
        yield PromptMM


def _plain_arguments(cls: type) -> list[str]:
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    return [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in _NOT_OPTIONS
        and parameter.default is not parameter.empty
        and (
            isinstance(parameter.default, _KINDS)
            or {*get_args(hints[name])} & {*_KINDS}
        )
    ]


def argument_texts(cls: type) -> dict[str, str]:
    """The description of each argument of a class, from its docstring and those of the
    classes that take its further arguments, as plain text without the default.

    Example:
        >>> from promptmm_pyg.models import LightGCN
        >>> argument_texts(LightGCN)['num_layers']
        'The number of propagation layers'
    """
    texts: dict[str, str] = {}
    for owner in reversed([*_constructors(cls)]):
        section = re.search(
            r'^Args:\n((?:    .*\n|\n)*)', f'{inspect.getdoc(owner)}\n', re.MULTILINE
        )
        entries = re.split(
            r'^    (?=[*\w]+:)', section[1] if section else '', flags=re.M
        )
        for entry in entries[1:]:
            name, _, text = entry.partition(':')
            texts[name] = _plain(text)
    return texts


def _plain(text: str) -> str:
    text = re.sub(r'\(default:.*?\)\s*$', '', ' '.join(text.split()))
    text = _SYMBOL.sub(lambda symbol: re.sub(r'[\\{}]', '', symbol[1]), text)
    text = _ROLE.sub(r'\1', text).replace('``', '')
    return text.strip().rstrip('.').replace('%', '%%')
