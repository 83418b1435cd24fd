"""Interactions in a table: rows by rating and by value, ids, times and weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptmm_pyg._reading import check_parsed_size
from promptmm_pyg.data.ids import IdColumn, is_text, join_columns
from promptmm_pyg.data.split import part_codes
from promptmm_pyg.data.table_files import header_text
from promptmm_pyg.data.tables import (
    Table,
    is_table_name,
    not_a_number,
    read_file,
    read_header,
)
from promptmm_pyg.limits import ID_LENGTH

if TYPE_CHECKING:
    import pyarrow as pa

NumpyArray = np.ndarray[Any, Any]
Where = Mapping[str, str | int | Sequence[str | int]]
# Names of columns without case, spaces, '_' and '-', the most common one first.
_USUAL = {
    'user': (
        *('userid', 'user', 'uid', 'customerid', 'customer', 'visitorid'),
        'reviewerid',
    ),
    'item': (
        *('itemid', 'item', 'iid', 'productid', 'product', 'articleid', 'movieid'),
        *('songid', 'bookid', 'asin', 'parentasin', 'sku'),
    ),
    'time': (
        *('timestamp', 'time', 'datetime', 'date', 'ts', 'unixtimestamp', 'eventtime'),
    ),
    'rating': ('rating', 'ratings', 'stars', 'score', 'overall'),
}
_ZONE = r'(Z|[+-]\d\d(:?\d\d)?)$'


class Columns(NamedTuple):
    """The columns of a table of interactions; ``None`` where there is none."""

    user: str = 'user_id'
    item: str = 'item_id'
    time: str | None = None
    rating: str | None = None
    weight: str | None = None
    part: str | None = None

    def names(self, where: Where | None = None) -> list[str]:
        """All columns to read."""
        return [*(name for name in self if name is not None), *(where or {})]


def recognize(header: Sequence[str], name: str) -> str | None:
    """The column of users, items, times or ratings by a usual name."""
    by_name = {
        ''.join(c for c in str(column).lower() if c.isalnum()): column
        for column in reversed(header)
    }
    return next((by_name[x] for x in _USUAL[name] if x in by_name), None)


def id_column(table: Table, column: str | None, node_type: str = 'item') -> str:
    """The column of user or item ids in a table of features, titles or texts: that of
    the interactions, else one with a usual name.
    """
    if column is None or column not in table.header:
        column = recognize(table.header, node_type) or column or f'{node_type}_id'
    return column


def read_id_order(
    path: Path,
    node_type: str,
    column: str | None,
    *,
    separator: str | None = None,
    encoding: str | None = None,
) -> list[Any]:
    """All ids in the order of a file: a table with their column, or a text with one id
    per line.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not text in the encoding, or its table is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"'{node_type}_ids' (--{node_type}-ids) must be a file of ids, one per "
            f"line, or a table with their column (got '{path}')"
        )
    if is_table_name(path):
        header = read_header(path, separator, encoding)
        name = column if column in header else recognize(header, node_type)
        if name is not None:
            table = read_file(path, [name], separator=separator, encoding=encoding)
            coded = table.ids(name)
            return list(coded.values.take(coded.codes).to_pylist())
    return read_lines(path, encoding)


def read_lines(path: Path, encoding: str | None = None) -> list[str]:
    """The lines of a text that are not empty, as written.

    Raises:
        ValueError: If it is not text in the encoding.
    """
    check_parsed_size(path)
    try:
        text = path.read_bytes().decode(encoding or 'utf-8-sig')
    except (UnicodeError, LookupError) as error:
        raise ValueError(
            f"'{path}' must be text in {encoding or 'UTF-8'} (got {error}). Name its "
            f"encoding with 'encoding' (--encoding), or write it in UTF-8"
        ) from error
    lines = [line.removesuffix('\r') for line in text.split('\n')]
    long = max(range(len(lines)), key=lambda place: len(lines[place]))
    if len(lines[long]) > ID_LENGTH:
        raise ValueError(
            f"'{path}' must contain ids of at most {ID_LENGTH} characters (got "
            f'{len(lines[long])} in line {long + 1}). Write one id per line'
        )
    return [line for line in lines if line]


def option(name: str) -> str:
    """What names a column, in Python and on the command line."""
    name = 'split_column' if name == 'part' else name
    flag = name.replace('_', '-') if name.endswith('column') else f'{name}-column'
    return f"'{name}' (--{flag})"


class Interactions(NamedTuple):
    """The rows of a table that count."""

    users: IdColumn
    items: IdColumn
    time: NumpyArray | None
    weight: NumpyArray | None
    part: NumpyArray | None = None


def join_parts(
    parts: Mapping[int, Interactions],
    known_users: 'pa.Array | None' = None,
    known_items: 'pa.Array | None' = None,
) -> Interactions:
    """The interactions of several tables as those of one.

    Args:
        parts: The rows of each part of a split by its code.
        known_users: Ids that come before those of the interactions. (default: none)
        known_items: The same for items.
    """
    rows = list(parts.values())
    users, user_codes = join_columns([x.users for x in rows], known_users)
    items, item_codes = join_columns([x.items for x in rows], known_items)
    times = [x.time for x in rows if x.time is not None]
    weights = [x.weight for x in rows if x.weight is not None]
    return Interactions(
        IdColumn(user_codes, users),
        IdColumn(item_codes, items),
        np.concatenate(times) if len(times) == len(rows) else None,
        np.concatenate(weights) if len(weights) == len(rows) else None,
        np.repeat([*parts], [len(x.users.codes) for x in rows]),
    )


def read_interactions(
    table: Table,
    columns: Columns,
    *,
    where: Where | None = None,
    min_rating: float | None = None,
    may_be_empty: bool = False,
) -> Interactions:
    """The interactions of a table.

    Args:
        table: One row per interaction.
        columns: The names of its columns.
        where: Values of columns that a row must have. (default: none)
        min_rating: The lowest rating that counts. (default: all count)
        may_be_empty: Whether no row has to be left, as in a part of a split.
            (default: ``False``)

    Raises:
        ValueError: If a column is missing, a cell is empty or of another kind, or no
            row is left.
    """
    for name, column in columns._asdict().items():
        if column is not None:
            table.check_column(column, option(name))
    table = select_interactions(
        table,
        where=where,
        rating=columns.rating,
        min_rating=min_rating,
        may_be_empty=may_be_empty,
    )
    time = None if columns.time is None else read_times(table, columns.time)
    weight = None if columns.weight is None else finite_numbers(table, columns.weight)
    return Interactions(
        table.ids(columns.user, option('user')),
        table.ids(columns.item, option('item')),
        time,
        weight,
        None if columns.part is None else _parts(table, columns.part),
    )


def _parts(table: Table, column: str) -> NumpyArray:
    """The part of the split that each row belongs to."""
    coded = IdColumn.encode(table.texts(column))
    assert coded is not None
    values = coded.values.to_pylist()
    if (coded.codes < 0).any():
        values.append(None)  # At the place -1.
    name = f"the column '{column}' (--split-column) of {table.name!r}"
    return part_codes(name, values).numpy()[coded.codes]


def select_interactions(
    table: Table,
    *,
    where: Where | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    may_be_empty: bool = False,
) -> Table:
    """The rows that count, as in :func:`read_interactions`.

    Raises:
        ValueError: If a column is missing, a rating is not a number, or no row is left.
    """
    if len(table) == 0 and not may_be_empty:
        raise ValueError(
            f'{table.name!r} must contain at least one row (got none below its header)'
        )
    table = select_rows(table, where, may_be_empty)
    if min_rating is None:
        return table
    return _rated(table, rating, min_rating, may_be_empty)


def select_rows(table: Table, where: Where | None, may_be_empty: bool = False) -> Table:
    """The rows that have one of the values in each column, compared as text.

    Raises:
        ValueError: If a column is missing, or a value occurs in no row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for column, given in (where or {}).items():
        table.check_column(column, "'where' (--where)")
        single = isinstance(given, str | int | float)
        values = [str(x) for x in ([given] if single else given)]  # type: ignore[union-attr]
        cells = table.texts(column)
        missing = [
            x for x in values if pc.index(cells, pa.scalar(x, cells.type)).as_py() < 0
        ]
        if missing and not may_be_empty:
            known = pc.unique(cells).to_pylist()
            more = f' and {len(known) - 10} more' if len(known) > 10 else ''
            raise ValueError(
                f"'where' (--where {column}=...) must name values of the column "
                f"'{column}' (got {missing[0]!r}; {table.name!r} has "
                f'{known[:10]}{more})'
            )
        mask = pc.is_in(cells, pa.array(values, cells.type))
        table = table.keep(mask.to_numpy().astype(bool))
    if len(table) == 0 and not may_be_empty:
        raise ValueError(
            f"'where' (--where) must leave at least one row of {table.name!r} (got "
            f'{dict(where or {})}, which no row has at once)'
        )
    return table


def _rated(
    table: Table, column: str | None, min_rating: float, may_be_empty: bool
) -> Table:
    if column is None:
        raise ValueError(
            f"'min_rating' (--min-rating) requires a column of ratings in "
            f'{table.name!r} (got {header_text(table.header)}). Name yours with '
            f'{option("rating")}'
        )
    table.check_column(column, option('rating'))
    ratings = finite_numbers(table, column)
    mask = ratings >= min_rating
    if not mask.any() and not may_be_empty:
        raise ValueError(
            f"'min_rating' (--min-rating) must keep at least one interaction (got "
            f'{min_rating}, the highest in {table.name!r} is {ratings.max():g})'
        )
    return table if mask.all() else table.keep(mask)


def finite_numbers(table: Table, column: str) -> NumpyArray:
    """Numbers without gaps."""
    values = table.numbers(column)
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f'{table.name!r} must contain a number in each row of the column '
            f"'{column}' (got {int(bad.sum())} rows without one, the first in "
            f'{table.at(int(bad.argmax()))}). Fill or delete those rows'
        )
    return values


def read_times(table: Table, column: str) -> NumpyArray:
    """Times as numbers: numbers are unchanged, dates become nanoseconds since 1970.

    Text may hold numbers or dates as in ISO 8601; without a zone they are in UTC.

    Raises:
        ValueError: If a cell is empty, or neither a number nor a date.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values = table.data.column(column)
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        times = values.cast(pa.timestamp('us'))
    elif is_text(kind) and _has_dates(values):
        times = _parse_dates(table, column, values)
    else:
        return finite_numbers(table, column)
    if times.null_count:
        row = pc.index(pc.is_null(times), pa.scalar(True)).as_py()
        raise ValueError(
            f'{table.name!r} must contain a time in each row of the column '
            f"'{column}' (got {times.null_count} missing, the first in "
            f'{table.at(row)}). Fill or delete those rows'
        )
    micros: NumpyArray = times.cast(pa.int64()).to_numpy()
    if np.abs(micros).max(initial=0) > np.iinfo(np.int64).max // 1000:
        raise ValueError(
            f'{table.name!r} must contain dates from 1678 to 2261 in the column '
            f"'{column}' (got {pc.min_max(times).as_py()}). Correct those rows"
        )
    return micros * 1000


def _has_dates(values: 'pa.ChunkedArray') -> bool:
    cells = (text for text in values.slice(0, 100).to_pylist() if text)
    return not_a_number(next(cells, '0'))


def _parse_dates(
    table: Table, column: str, values: 'pa.ChunkedArray'
) -> 'pa.ChunkedArray':
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(values)
    text = pc.if_else(pc.equal(trimmed, ''), pa.scalar(None, trimmed.type), trimmed)
    zoned = pc.match_substring_regex(pc.utf8_slice_codeunits(text, 10), _ZONE)
    nothing = pa.scalar(None, text.type)
    try:
        with_zone = pc.if_else(zoned, text, nothing).cast(pa.timestamp('us', 'UTC'))
        local = pc.if_else(zoned, nothing, text).cast(pa.timestamp('us'))
    except pa.ArrowInvalid as error:
        wrong = ~np.array([_is_date(x) for x in text.to_pylist()], dtype=bool)
        row = int(wrong.argmax())
        raise ValueError(
            f"{table.name!r} must contain numbers or dates like '2026-03-01 17:30' in "
            f"the column '{column}' (got {values[row].as_py()!r} in {table.at(row)}, "
            f'{int(wrong.sum())} such rows in total). Write dates as in ISO 8601'
        ) from error
    return pc.coalesce(with_zone.cast(pa.timestamp('us')), local)


def _is_date(text: str | None) -> bool:
    import re

    import pyarrow as pa

    if text is None:
        return True
    zone = 'UTC' if re.search(_ZONE, text[10:]) else None
    try:
        pa.array([text]).cast(pa.timestamp('us', zone))
    except pa.ArrowInvalid:
        return False
    return True
