"""Columns of a table as features: numbers, vectors, categories, lists of categories."""

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from promptmm_pyg.data.ids import is_text
from promptmm_pyg.data.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa

NumpyArray = np.ndarray[Any, Any]
Kind = Literal['number', 'vector', 'category']
KINDS: tuple[Kind, ...] = ('number', 'vector', 'category')
MAX_CATEGORIES = 64
HASH_WIDTH = 256
_SEPARATORS = '|;,'


@dataclass(frozen=True)
class ColumnEncoding:
    """How the cells of a column become numbers; the same for items that come later."""

    column: str
    kind: Kind
    width: int
    tokens: tuple[str, ...] | None = None
    """The categories, one column each; ``None`` for signed hashing."""
    separator: str | None = None
    """The character between the categories of a cell."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'ColumnEncoding':
        """The encoding of :meth:`to_dict`."""
        tokens = values['tokens']
        return cls(**{**values, 'tokens': None if tokens is None else tuple(tokens)})


def parse_column(name: str) -> tuple[str, Kind | None]:
    """The name and the kind in ``'zip:category'``; no kind in ``'zip'``."""
    column, _, kind = name.rpartition(':')
    for known in KINDS:
        if column and kind == known:
            return column, known
    return name, None


def fit_column(table: Table, name: str, separator: str | None = None) -> ColumnEncoding:
    """Returns the encoding of one column.

    Numbers are one column as they are. Lists of numbers of one length are a vector.
    Other cells are categories: up to 64 have a column each, more are hashed into 256
    columns with signs.

    Args:
        table: The table.
        name: The column, with its kind where it cannot be recognized:
            ``'zip:category'``.
        separator: The character between several categories of one cell.
            (default: a cell is one category)

    Raises:
        ValueError: If the column is missing, empty or of another kind, or is text with
            a different value in nearly every row.
    """
    column, kind = parse_column(name)
    if column not in table.header and name in table.header:
        column, kind = name, None
    table.check_column(column, _COLUMNS_OPTION)
    kind = kind or _kind(table, column)
    if kind == 'number':
        _check_numbers(table, column)
        return ColumnEncoding(column, kind, 1)
    if kind == 'vector':
        return ColumnEncoding(column, kind, vectors(table, column).shape[1])
    rows, _, tokens = _marks(table, column, separator)
    if not tokens:
        raise _empty(table, column)
    if len(tokens) <= MAX_CATEGORIES:
        width, known = len(tokens), tuple(sorted(tokens))
        return ColumnEncoding(column, kind, width, known, separator)
    if name == column and separator is None:
        _check_repeats(table, column, len(np.unique(rows)), tokens)
    return ColumnEncoding(column, kind, HASH_WIDTH, None, separator)


class Encoded(NamedTuple):
    """Columns of a table as modalities."""

    ids: dict[str, 'pa.Array']
    """The ids of the rows of each modality."""
    x: dict[str, NumpyArray]
    """Rows ``[N, width]``, NaN where missing."""
    encodings: dict[str, ColumnEncoding]


_COLUMNS_OPTION = (
    "'item_columns' or 'user_columns' (--item-columns, --user-columns), or its table "
    "with 'item_table' or 'user_table' (--item-table, --user-table)"
)


def encode_columns(
    table: Table,
    id_column: str,
    names: Sequence[str] = (),
    separator: str | None = None,
    encodings: Mapping[str, ColumnEncoding] | None = None,
) -> Encoded:
    """Returns columns of a table of items or users as a modality each.

    An id may have several rows, as in a table of interactions: its first value counts.

    Args:
        table: The table.
        id_column: The column of ids.
        names: The columns, as in :func:`fit_column`.
        separator: As in :func:`fit_column`. (default: none)
        encodings: Encodings by modality, in place of ``names``. (default: fitted)

    Raises:
        ValueError: As :func:`fit_column`, or if two columns give one name.
    """
    if encodings is None:
        fitted = [fit_column(table, name, separator) for name in names]
        encodings = {re.sub(r'\W', '_', x.column): x for x in fitted}
        if len(encodings) < len(fitted):
            raise ValueError(
                f'columns must have different names of letters, digits and underscores '
                f'(got {[x.column for x in fitted]}). Rename one'
            )
    coded = table.ids(id_column)
    ids, rows = {}, {}
    for modality, encoding in encodings.items():
        mask = _first_values(table, encoding.column, coded.codes)
        x, present = encode_column(table.keep(mask), encoding)
        x[~present] = np.nan
        ids[modality], rows[modality] = coded.values.take(coded.codes[mask]), x
    return Encoded(ids, rows, dict(encodings))


def _first_values(table: Table, column: str, codes: NumpyArray) -> NumpyArray:
    """Boolean ``[N]``: the first row of each id that is not empty there."""
    import pyarrow.compute as pc

    table.check_column(column)
    cells = table.data.column(column)
    filled = cells.is_valid().to_numpy().astype(bool)
    if is_text(cells.type):
        filled &= pc.fill_null(pc.not_equal(cells, ''), False).to_numpy().astype(bool)
    rows = np.flatnonzero(filled)
    mask = np.zeros(len(table), dtype=bool)
    mask[rows[np.unique(codes[rows], return_index=True)[1]]] = True
    return mask


def encode_column(
    table: Table, encoding: ColumnEncoding
) -> tuple[NumpyArray, NumpyArray]:
    """Returns the rows ``[N, width]`` of a column and which of them are present.

    A row without a known category is not present.

    Args:
        table: A table that has the column.
        encoding: What :func:`fit_column` returned for this or another table.

    Raises:
        ValueError: If the column is missing or of another kind.
    """
    column = encoding.column
    table.check_column(column)
    if encoding.kind == 'number':
        x = _check_numbers(table, column)[:, None]
        return _without_gaps(x)
    if encoding.kind == 'vector':
        x = vectors(table, column)
        if x.shape[1] != encoding.width:
            raise ValueError(
                f'{table.name!r} must contain lists of {encoding.width} numbers in the '
                f"column '{column}' (got {x.shape[1]})"
            )
        return _without_gaps(x)
    rows, codes, tokens = _marks(table, column, encoding.separator)
    place, sign = _places(tokens, encoding)
    known = place[codes] >= 0
    rows, codes = rows[known], codes[known]
    x = np.zeros((len(table), encoding.width), dtype=np.float32)
    np.add.at(x, (rows, place[codes]), sign[codes])
    present = np.zeros(len(table), dtype=bool)
    present[rows] = True
    return x, present


def _without_gaps(x: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    present: NumpyArray = np.asarray(np.isfinite(x).all(axis=1))
    return np.where(present[:, None], x, 0).astype(np.float32), present


def _kind(table: Table, column: str) -> Kind:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = table.data.schema.field(column).type
    if is_list(kind):
        inner = kind.value_type
        is_number = pa.types.is_integer(inner) or pa.types.is_floating(inner)
        lengths = pc.list_value_length(table.data.column(column)).drop_null()
        same = len(pc.unique(lengths)) == 1
        return 'vector' if is_number and same else 'category'
    if pa.types.is_dictionary(kind):
        return 'category'
    if is_text(kind):
        cells = table.texts(column)
        # 01234 is a code, not the number 1234.
        if pc.any(pc.match_substring_regex(cells, r'^\s*0\d')).as_py():
            return 'category'
        try:
            table.numbers(column)
        except ValueError:
            return 'category'
    return 'number'


def is_list(kind: 'pa.DataType') -> bool:
    """Whether a type of Arrow is lists."""
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    )


def _empty(table: Table, column: str) -> ValueError:
    return ValueError(
        f"{table.name!r} must contain values in the column '{column}' (got none in "
        f'{len(table)} rows). Leave the column out'
    )


def _check_numbers(table: Table, column: str) -> NumpyArray:
    values = table.numbers(column).astype(np.float64)
    if np.isnan(values).all():
        raise _empty(table, column)
    infinite = np.isinf(values)
    if infinite.any():
        raise ValueError(
            f"{table.name!r} must contain finite numbers in the column '{column}' (got "
            f'{values[infinite][0]} in {table.at(int(infinite.argmax()))}). Leave '
            f'unknown cells empty'
        )
    return values


def vectors(table: Table, column: str) -> NumpyArray:
    """Lists of numbers as a matrix, NaN where a list is missing."""
    cells = table.data.column(column)
    if not is_list(cells.type):
        raise ValueError(
            f"{table.name!r} must contain lists of numbers in the column '{column}' "
            f'(got {cells.type})'
        )
    rows = cells.to_pylist()
    widths = {len(row) for row in rows if row}
    if not widths:
        raise _empty(table, column)
    empty = [np.nan] * min(widths)
    try:
        return np.array([row or empty for row in rows], dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'{table.name!r} must contain lists of numbers of one length in the '
            f"column '{column}' (got the lengths {sorted(widths)[:5]}: {error})"
        ) from error


def _marks(
    table: Table, column: str, separator: str | None
) -> tuple[NumpyArray, NumpyArray, list[str]]:
    """The row and the token of each category that a cell has, and the tokens."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.data.column(column).combine_chunks()
    if is_list(cells.type):
        if pa.types.is_fixed_size_list(cells.type):
            cells = cells.cast(pa.large_list(cells.type.value_type))
        rows, flat = pc.list_parent_indices(cells), pc.list_flatten(cells)
        flat = flat.cast(pa.large_string())
    else:
        flat = table.texts(column).combine_chunks()
        rows = pa.array(np.arange(len(table)))
        if separator is not None:
            lists = pc.split_pattern(flat, pattern=separator)
            rows, flat = pc.list_parent_indices(lists), pc.list_flatten(lists)
    flat = pc.utf8_trim_whitespace(flat)
    filled = pc.fill_null(pc.not_equal(flat, ''), False)
    coded = pc.dictionary_encode(flat.filter(filled))
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    rows = rows.filter(filled).to_numpy(zero_copy_only=False).astype(np.int64)
    return rows, codes, coded.dictionary.to_pylist()


def _places(
    tokens: Sequence[str], encoding: ColumnEncoding
) -> tuple[NumpyArray, NumpyArray]:
    """The column of each token, -1 where it is unknown, and its sign."""
    if encoding.tokens is not None:
        known = {token: place for place, token in enumerate(encoding.tokens)}
        places = np.array([known.get(token, -1) for token in tokens], dtype=np.int64)
        return places, np.ones(len(tokens), dtype=np.float32)
    digests = [hashlib.blake2b(x.encode(), digest_size=8).digest() for x in tokens]
    numbers = np.array([int.from_bytes(x, 'little') for x in digests], dtype=np.uint64)
    signs = np.where(numbers & np.uint64(1), 1, -1)
    numbers = (numbers >> np.uint64(1)) % np.uint64(encoding.width)
    return numbers.astype(np.int64), signs.astype(np.float32)


def _check_repeats(
    table: Table, column: str, num_rows: int, tokens: Sequence[str]
) -> None:
    """Raises for text that is different in nearly every row, and warns of lists."""
    hint = ''
    for mark in _SEPARATORS:
        parts = [part.strip() for token in tokens for part in token.split(mark)]
        is_list = len(parts) > 1.5 * len(tokens) and len(set(parts)) < 0.6 * len(parts)
        if is_list:
            hint = (
                f"Split its lists with list_separator='{mark}' (--list-separator "
                f"'{mark}')"
            )
            break
    if len(tokens) > 0.8 * num_rows:
        fix = hint or (
            f"Encode text with '--text {table.name}:{column}' ('encode_content'), or "
            f"name it '{column}:category'"
        )
        raise ValueError(
            f"{table.name!r} must contain categories in the column '{column}' (got "
            f'{len(tokens)} different values in {num_rows} rows, such as '
            f'{tokens[0][:60]!r}). {fix}'
        )
    if hint:
        warnings.warn(
            f"the column '{column}' of {table.name!r} has {len(tokens)} different "
            f'values, most of them lists. {hint}',
            stacklevel=2,
        )
