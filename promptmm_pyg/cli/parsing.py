"""Options made from signatures, so that a default stands in one place."""

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

SCHEDULE = {
    'epochs': 'passes over the training interactions, at most',
    'patience': 'validations in a row without a better value before training stops',
    'monitor': 'validation metric that chooses the best epoch',
    'validate_every': 'epochs between two validations',
}


class UserError(Exception):
    """A mistake in what the user typed; its message is all that is shown."""


class Parser(argparse.ArgumentParser):
    """Errors are raised as :class:`UserError` instead of ending the program."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault('allow_abbrev', False)
        super().__init__(*args, **kwargs)
        self.before_parsing: Callable[[Parser, Sequence[str]], None] | None = None
        """Is shown the words before they are parsed. (default: nobody)"""

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses what is known, with :attr:`before_parsing` ahead."""
        if self.before_parsing is not None:
            self.before_parsing(self, args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise UserError(f"{message}. See '{self.prog} --help'")


Group = argparse.ArgumentParser | argparse._ArgumentGroup


def add_options(
    group: Group,
    function: Callable[..., Any],
    helps: Mapping[str, str],
    rename: Mapping[str, str] | None = None,
) -> None:
    """Adds an option for each named parameter of ``function``, with the type, the
    choices and the default of its signature.

    Args:
        group: Where to add them.
        function: A function or a class.
        helps: What to say about each parameter.
        rename: Other names for the options. (default: the parameters' own)
    """
    rename = rename or {}
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(function.__init__ if _is_class(function) else function)
    for name, text in helps.items():
        default = parameters[name].default
        flag = rename.get(name, name).replace('_', '-')
        options: dict[str, Any] = {'default': default, 'dest': rename.get(name, name)}
        if isinstance(default, bool):
            options['action'] = argparse.BooleanOptionalAction
        elif get_origin(hints.get(name)) is Literal:
            options['choices'] = get_args(hints[name])
        else:
            options['type'] = type(default)
            options['metavar'] = {int: 'N', float: 'X', str: 'NAME'}[type(default)]
        group.add_argument(f'--{flag}', help=f'{text} (default: {default})', **options)


def _is_class(function: Callable[..., Any]) -> bool:
    # Named tuples have no `__init__` of their own to read.
    return inspect.isclass(function) and not hasattr(function, '_fields')


def chosen(
    args: argparse.Namespace,
    names: Iterable[str],
    rename: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The values of options that :func:`add_options` added, by parameter."""
    rename = rename or {}
    return {name: getattr(args, rename.get(name, name)) for name in names}


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Adds the options about the length of a training run."""
    from promptmm_pyg.training import TrainingConfig

    add_options(parser.add_argument_group('length'), TrainingConfig, SCHEDULE)


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Adds ``--quiet``."""
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')


def add_weights(group: Group, defaults: Mapping[str, float]) -> None:
    """Adds ``--weight NAME=X``, to be read by :func:`weights`."""
    shown = ', '.join(f'{name}={value}' for name, value in defaults.items())
    group.add_argument(
        '--weight',
        action='append',
        default=list(defaults.items()),
        type=named,
        metavar='TERM=X',
        help=f'weight of a term of the loss, may be repeated (default: {shown})',
    )


def weights(
    args: argparse.Namespace, defaults: Mapping[str, float]
) -> dict[str, float]:
    """The weights of all terms, those given in place of the defaults."""
    found = dict(defaults)
    for name, value in args.weight:
        if name not in found:
            raise UserError(f"--weight requires one of {sorted(found)} (got '{name}')")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UserError(
                f"--weight {name} requires a number (got '{value}')"
            ) from error
    return found


def named(text: str) -> tuple[str, str]:
    """The parts of ``NAME=VALUE``."""
    name, sign, value = text.partition('=')
    if not name or not sign:
        raise argparse.ArgumentTypeError(
            f"must have the form NAME=VALUE (got '{text}')"
        )
    return name, value
