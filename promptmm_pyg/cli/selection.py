"""Users and items from the command line and from files, by known ids."""

import argparse
import sys
from collections.abc import Sequence

from promptmm_pyg.cli.parsing import UserError, add_flags, printable
from promptmm_pyg.data.tables import Table, read_file
from promptmm_pyg.runs.data import read_ids
from promptmm_pyg.serving import RawIds, Recommender
from promptmm_pyg.serving._ids import RawId

_SHOWN = 3  # Unknown ids in a message.
_COLUMNS = {'user': ('user', 'user_id'), 'item': ('item', 'item_id')}
Pairs = dict[RawId, list[RawId]]


def add_item_filters(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose items, to be read by :func:`item_filters`."""
    group = parser.add_argument_group('which items')
    add_flags(
        group.add_mutually_exclusive_group(),
        """
--allow FILE  only these items, one raw id per line
--deny FILE  none of these items, one raw id per line""",
    )
    group.add_argument(
        '--where',
        action='append',
        default=[],
        metavar='COLUMN=VALUE',
        help='only items with this value in a column of --item-table; several values '
        'as COLUMN=A,B; may be repeated, then all must hold',
    )
    add_flags(
        group,
        """
--item-table FILE  table of items for --where, such as items.csv
--item-column NAME  column of item ids in tables (default: item or item_id)
--encoding NAME  encoding of all text files, such as cp1252 (default: utf-8)""",
    )


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Adds ``--strict``."""
    text = '--strict  refuse unknown ids; by default they are counted and left out'
    add_flags(parser, text)


def check_item_filters(args: argparse.Namespace) -> None:
    """Raises before any work is done."""
    if bool(args.where) != (args.item_table is not None):
        raise UserError('--where and --item-table must be given together')
    for text in args.where:
        if not text.partition('=')[0] or '=' not in text:
            raise UserError(f"--where must be COLUMN=VALUE (got '{text}')")


def item_filters(
    args: argparse.Namespace, recommender: Recommender
) -> dict[str, list[RawId]]:
    """The arguments ``allow`` or ``deny`` of a recommendation."""
    items = recommender.items
    lists = {
        name: known_ids(
            f'--{name}', read_ids(path, args.encoding), items, strict=args.strict
        )
        for name, path in (('allow', args.allow), ('deny', args.deny))
        if path is not None
    }
    if lists.get('allow') == []:
        raise UserError(f"there are no items in '{args.allow}'")
    if not args.where:
        return lists
    rows = {row for row in items.find(_matching_items(args)) if row >= 0}
    if not rows:
        raise UserError(
            f"--where must match known items (got none in '{args.item_table}'; known "
            f'are {_examples(items)}). Check --item-column'
        )
    if 'allow' in lists:
        rows &= set(items.find(lists['allow']))
    rows -= set(items.find(lists.get('deny', [])))
    return {'allow': [items[row] for row in sorted(rows)]}


def _matching_items(args: argparse.Namespace) -> list[str]:
    """The ids of the rows that match every ``--where``."""
    conditions: dict[str, set[str]] = {}
    for text in args.where:
        column, _, values = text.partition('=')
        allowed = set(values.split(','))
        conditions[column] = conditions.get(column, allowed) & allowed
    table = read_file(args.item_table, encoding=args.encoding, caller='--item-table')
    for name in conditions:
        table.check_column(name)
    columns = [_texts(table, name) for name in conditions]
    ids = _texts(table, _id_column('item', args.item_column, table))
    matches = [True] * len(ids)
    for (name, allowed), column in zip(conditions.items(), columns, strict=True):
        unknown = sorted(allowed - set(column))
        if unknown:
            values = ', '.join(repr(x) for x in sorted(set(column))[:5])
            raise UserError(
                f"--where {name} must have a value of '{args.item_table}' (got "
                f'{unknown[0]!r}; its values are {values})'
            )
        pairs = zip(matches, column, strict=True)
        matches = [match and value in allowed for match, value in pairs]
    return [raw for raw, match in zip(ids, matches, strict=True) if match]


def read_pairs(
    option: str, args: argparse.Namespace, recommender: Recommender
) -> Pairs:
    """The known items of each known user in the file of an option."""
    texts = read_pair_texts(option, args)
    users, items = (
        find_ids(f'{option} ({kind})', ids, known, strict=args.strict)
        for kind, ids, known in (
            ('users', texts[0], recommender.users),
            ('items', texts[1], recommender.items),
        )
    )
    pairs: Pairs = {}
    for user, item in zip(users, items, strict=True):
        if user is not None and item is not None:
            pairs.setdefault(user, []).append(item)
    return pairs


def read_pair_texts(option: str, args: argparse.Namespace) -> list[list[str]]:
    """The ids of users and items in the file of an option, as text."""
    path = getattr(args, option.removeprefix('--'))
    table = read_file(path, encoding=args.encoding, caller=option)
    names = {'user': args.user_column, 'item': args.item_column}
    columns = [_id_column(kind, name, table) for kind, name in names.items()]
    return [_texts(table, column) for column in columns]


def known_ids(
    option: str, texts: Sequence[str], ids: RawIds, *, strict: bool
) -> list[RawId]:
    """The known ids among texts; the others are counted on stderr.

    Raises:
        UserError: If none is known, or one is not and ``strict`` is set.
    """
    known = find_ids(option, texts, ids, strict=strict)
    return [raw for raw in known if raw is not None]


def find_ids(
    option: str, texts: Sequence[str], ids: RawIds, *, strict: bool
) -> list[RawId | None]:
    """As :func:`known_ids`, with ``None`` for each unknown id."""
    rows = ids.find(texts)
    unknown = [text for text, row in zip(texts, rows, strict=True) if row < 0]
    if unknown:
        distinct = list(dict.fromkeys(unknown))
        shown = [_with_matches(text, ids) for text in distinct[:_SHOWN]]
        rest = len(distinct) - len(shown)
        text = ', '.join([*shown, *([f'{rest} others'] if rest else [])])
        if strict:
            fix = 'Correct them, or leave out --strict'
            raise UserError(f'{option} must contain known ids (got {text}). {fix}')
        if len(unknown) == len(texts):
            raise UserError(
                f'{option} must contain a known id (got {text}; known are '
                f'{_examples(ids)})'
            )
        count = f'{len(unknown)} of {len(texts)} ids are unknown and left out'
        log(f'warning: {option}: {count}: {text}')
    return [ids[row] if row >= 0 else None for row in rows]


def _with_matches(text: str, ids: RawIds) -> str:
    close = ', '.join(f"'{raw}'" for raw in ids.close_matches(text))
    short = text if len(text) <= 80 else f'{text[:77]}...'
    return f"'{short}' (similar: {close})" if close else f"'{short}'"


def _examples(ids: RawIds) -> str:
    return ', '.join([*(f"'{raw}'" for raw in ids[:_SHOWN]), '...'])


def _id_column(kind: str, name: str | None, table: Table) -> str:
    """The column of ids in a table: the given one, or the first usual name."""
    usual = _COLUMNS[kind]
    found = next((x for x in usual if x in table.header), usual[0])
    column = name or found
    table.check_column(column, f'--{kind}-column')
    table.ids(column)  # Raises where one is missing.
    return column


def _texts(table: Table, column: str) -> list[str]:
    return [text or '' for text in table.texts(column).to_pylist()]


def log(text: str) -> None:
    """Prints to stderr."""
    print(printable(text), file=sys.stderr)
