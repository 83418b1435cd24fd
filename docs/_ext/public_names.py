"""Directives that document what a package offers, read from the package itself.

``.. public-names:: promptmm_pyg.losses`` lists every public name with its first
sentence and documents each where its home is; ``.. command-help::`` shows what every
command says about itself.
"""

import argparse
import inspect
from importlib import import_module
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from promptmm_pyg.cli import build_parser

ROOT = 'promptmm_pyg'
# Each has a page; an object is documented on the page of the package it is made in.
PACKAGES = (
    'adapters',
    'benchmark',
    'content',
    'data',
    'distillation',
    'evaluation',
    'explain',
    'functional',
    'hub',
    'loader',
    'losses',
    'models',
    'nn',
    'ranking',
    'report',
    'runs',
    'serving',
    'targets',
    'training',
    'transforms',
    'tuning',
    'viz',
)


def public_names(module: ModuleType) -> list[str]:
    """What a module offers: its ``__all__``, or what it defines without underscore."""
    if hasattr(module, '__all__'):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith('_')
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def home(module: ModuleType, name: str) -> str:
    """The full name of the package that a public name is documented in."""
    made_in = getattr(getattr(module, name), '__module__', '') or ''
    part = made_in.removeprefix(f'{ROOT}.').split('.')[0]
    offered = part in PACKAGES and name in public_names(import_module(f'{ROOT}.{part}'))
    return f'{ROOT}.{part}' if offered else module.__name__


def document(module: ModuleType, name: str) -> list[str]:
    """The lines of reStructuredText that document one name."""
    value = getattr(module, name)
    if inspect.isclass(value):
        # What it inherits inside of the package is its own, the rest is not.
        outside = [base for base in value.__mro__ if not _is_ours(base)]
        return [
            f'.. autoclass:: {name}',
            '   :members:',
            f'   :inherited-members: {", ".join(base.__name__ for base in outside)}',
            '   :exclude-members: extra_repr',
            '',
        ]
    if inspect.isfunction(value):
        return [f'.. autofunction:: {name}', '']
    # A constant would be described by the docstring of its type.
    return [f'.. py:data:: {name}', f'   :value: {value!r}', '']


def _is_ours(value: type) -> bool:
    return value.__module__.split('.')[0] == ROOT


def summary(module: ModuleType, homes: dict[str, str]) -> list[str]:
    """The lines of a table of names, each with its first sentence."""
    described = [name for name in homes if _is_described(getattr(module, name))]
    constants = [name for name in homes if name not in described]
    lines = ['.. autosummary::', '   :nosignatures:', '']
    for name in described:
        # Names of the module itself are given without it.
        full = f'{homes[name]}.{name}'.removeprefix(f'{module.__name__}.')
        lines.append(f'   ~{full}' if '.' in full else f'   {full}')
    if constants:
        links = (f':py:data:`~{homes[name]}.{name}`' for name in constants)
        lines += ['', 'Constants: ' + ', '.join(links)]
    return [*lines, '']


def _is_described(value: object) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value)


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every command of a program by what is typed, in the order of its help."""
    found = {parser.prog: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found |= commands(child)
    return found


class PublicNames(SphinxDirective):
    """A table of the public names of a package, and their documentation."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = import_module(self.arguments[0])
        names = sorted(public_names(module), key=str.casefold)
        homes = {name: home(module, name) for name in names}
        lines = [f'.. currentmodule:: {module.__name__}', '', *summary(module, homes)]
        for name in names:
            if homes[name] == module.__name__:
                lines += document(module, name)
        return self.parse_text_to_nodes('\n'.join(lines), allow_section_headings=False)


class CommandHelp(SphinxDirective):
    """What every command of ``promptmm`` prints with ``--help``."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for typed, parser in commands(build_parser()).items():
            section = nodes.section(ids=[nodes.make_id(typed)])
            section += nodes.title(typed, '', nodes.literal(typed, typed))
            text = parser.format_help()
            section += nodes.literal_block(text, text, language='text')
            found.append(section)
        return found


def mend(
    _app: Sphinx,
    what: str,
    _name: str,
    _obj: object,
    _options: object,
    lines: list[str],
) -> None:
    """Mends what Sphinx made of fields and properties.

    A field of a named tuple without words of its own shows name and type alone, and
    what stands before a colon in a docstring is no type here.
    """
    if lines and lines[0].startswith('Alias for field number'):
        lines.clear()
    kinds = [line for line in lines if line.startswith(':type: ')]
    if what in ('attribute', 'property') and kinds:
        lines.remove(kinds[0])
        lines[0] = f'{kinds[0].removeprefix(":type: ")}: {lines[0]}'


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive('public-names', PublicNames)
    app.add_directive('command-help', CommandHelp)
    app.connect('autodoc-process-docstring', mend, priority=900)  # After napoleon.
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
