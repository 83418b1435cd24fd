"""Options of a model, from its signature and its docstring."""

import argparse
import inspect
import re
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from promptmm_pyg.cli.parsing import Parser, UserError, add_options, read_settings
from promptmm_pyg.models import (
    ClosedForm,
    get_model,
    model_names,
)
from promptmm_pyg.models._resolve import ModelClass, constructors, full_name
from promptmm_pyg.runs.stages import trained_models

_KINDS = (bool, int, float, str)
_ROLE = re.compile(r':\w+:`~?(?:[\w.]+\.)?([^`<]*?)(?: <[^>]*>)?`')
_SYMBOL = re.compile(r':math:`([^`]*)`')
_NOT_OPTIONS = ('edge_type',)


def add_model(parser: Parser, option: str, default: str, text: str) -> None:
    """Adds the option that names a model; ``text`` is its help."""
    names = model_names() if option == 'model' else trained_models()
    parser.add_argument(
        f'--{option}',
        type=full_name,
        default=default,
        metavar='NAME',
        help=f"{text}: {', '.join(names)}, or 'path/to/file.py:Class' (default: "
        f'{default})',
    )


def model_of(argv: Sequence[str], option: str, default: str) -> ModelClass:
    """The model that the command line, or else its file of settings, names. Only a file
    that is typed is allowed to run.

    Raises:
        UserError: If there is no such model, or it cannot be a student.
    """
    finder = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    finder.add_argument('--config')
    finder.add_argument(f'--{option}')
    try:
        found = finder.parse_known_args(list(argv))[0]
    except argparse.ArgumentError:  # A value is missing.
        return get_model(default)
    name = typed = getattr(found, option)
    if name is None and found.config is not None:
        name = read_settings(found.config).get(option)
    try:
        cls = get_model(
            str(name or default), option=f'--{option}', allow=typed is not None
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if option == 'student' and issubclass(cls, ClosedForm):
        raise UserError(
            f"'--student' must be trained in steps, such as {trained_models()} (got "
            f'{name!r}, which is fitted). Train it as a teacher'
        )
    return cls


def add_model_options(parser: Parser, model: ModelClass) -> None:
    """Adds an option for each argument of a model that is a number, a text or a switch.
    One that the command has already is named ``--model-...``.
    """
    group = parser.add_argument_group(f'model {model.__name__}')
    texts = argument_texts(model)
    dests: dict[str, str] = {}
    for cls in constructors(model):
        own = {
            key: texts.get(key, key.replace('_', ' '))
            for key in _plain_arguments(cls)
            if key not in dests
        }
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


def _plain_arguments(cls: type) -> list[str]:
    try:
        hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    except NameError:  # Of a file; the types of the defaults remain.
        hints = {}
    return [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in _NOT_OPTIONS
        and parameter.default is not parameter.empty
        and (
            isinstance(parameter.default, _KINDS)
            or {*get_args(hints.get(name))} & {*_KINDS}
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
    for owner in reversed([*constructors(cls)]):
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
