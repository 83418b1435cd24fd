"""Tables as Arrow columns: files of every kind, and data frames."""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promptmm_pyg._reading import check_file
from promptmm_pyg._utils import missing_extra
from promptmm_pyg.data.ids import IdColumn, is_text
from promptmm_pyg.data.table_files import (
    PEEK,
    SUFFIXES,
    TextTable,
    as_arrow,
    check_distinct,
    header_text,
    json_rows,
    kind_of,
    line_of,
    open_parquet,
    read_json,
    read_parquet,
)
from promptmm_pyg.limits import ID_LENGTH

if TYPE_CHECKING:
    import pyarrow as pa

NumpyArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Table:
    """Columns of a file or a frame. Text of CSV, TSV and TXT is as written."""

    name: str
    """The file or the argument, for messages."""
    data: 'pa.Table'
    header: Sequence[str]
    """The names of all columns, also of those that were not read."""
    path: Path | None = None
    """The file, where rows have line numbers."""
    separator: str | None = None
    """The character between the cells of that file; ``None`` for JSON lines."""
    encoding: str = 'utf-8'
    rows: NumpyArray | None = None
    """The place of each row in the file; ``None`` for all in order."""

    @property
    def columns(self) -> list[str]:
        """The names of the columns that were read."""
        return list(self.data.column_names)

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def check_column(self, column: str, option: str = '') -> None:
        """Raises unless there is such a column.

        Args:
            column: Its name.
            option: What names it: ``"'user' (--user-column)"``.
        """
        if column in self.data.column_names:
            return
        fix = f'. Name yours with {option}' if option else ''
        raise ValueError(
            f"{self.name!r} must have a column '{column}' (got "
            f'{header_text(self.header)}){fix}{header_hint(self.header)}'
        )

    def keep(self, mask: NumpyArray) -> 'Table':
        """The rows where ``mask`` is true."""
        import pyarrow as pa

        rows = np.flatnonzero(mask) if self.rows is None else self.rows[mask]
        return replace(self, data=self.data.filter(pa.array(mask)), rows=rows)

    def ids(self, column: str, option: str = '') -> IdColumn:
        """The ids of a column: integers where they are typed so, else text.

        Raises:
            ValueError: If the column is missing, or has an empty cell, or neither
                integers nor text.
        """
        self.check_column(column, option)
        coded = IdColumn.encode(self.data.column(column))
        if coded is None:
            raise ValueError(
                f'{self.name!r} must contain integers or text in the column of ids '
                f"'{column}' (got {self.data.schema.field(column).type}). Write the "
                f'ids as text'
            )
        missing = coded.missing()
        if missing.any():
            raise ValueError(
                f'{self.name!r} must contain an id in each row of the column '
                f"'{column}' (got {int(missing.sum())} empty, the first in "
                f'{self.at(int(missing.argmax()))}). Fill or delete those rows'
            )
        long = coded.longer_than(ID_LENGTH)
        if long is not None:
            raise ValueError(
                f'{self.name!r} must contain ids of at most {ID_LENGTH} characters in '
                f"the column '{column}' (got {len(coded.values[long].as_py())} in "
                f'{self.at(int((coded.codes == long).argmax()))}). Is it the right '
                f'column?'
            )
        return coded

    def texts(self, column: str) -> 'pa.ChunkedArray':
        """A column as text; missing cells are null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.data.column(column)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if is_text(values.type) or pa.types.is_null(values.type):
            return values.cast(pa.large_string())
        try:
            return pc.cast(values, pa.large_string())
        except pa.ArrowNotImplementedError:  # Lists and structures.
            cells = [None if x is None else str(x) for x in values.to_pylist()]
            return pa.chunked_array([pa.array(cells, pa.large_string())])

    def numbers(self, column: str) -> NumpyArray:
        """A column as int64 or float64, NaN where a cell is empty.

        Raises:
            ValueError: If a cell is not a number.
        """
        import pyarrow as pa

        values = self.data.column(column)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if is_text(values.type):
            values = self._parse(column, values)
        elif pa.types.is_null(values.type) or pa.types.is_decimal(values.type):
            values = values.cast(pa.float64())
        elif not _is_number(values.type):
            raise ValueError(
                f"{self.name!r} must contain numbers in the column '{column}' (got "
                f'{values.type})'
            )
        array: NumpyArray = values.to_numpy()
        kind = np.float64 if array.dtype.kind == 'f' else np.int64
        return array.astype(kind, copy=False)

    def _parse(self, column: str, values: 'pa.ChunkedArray') -> 'pa.ChunkedArray':
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            return pc.cast(values, pa.int64())
        except pa.ArrowInvalid:
            pass
        trimmed = pc.utf8_trim_whitespace(values)
        cells = pc.if_else(pc.equal(trimmed, ''), pa.scalar(None, values.type), trimmed)
        for kind in (pa.int64(), pa.float64()):
            try:
                return pc.cast(cells, kind)
            except pa.ArrowInvalid:
                continue
        row = [not_a_number(cell) for cell in cells.to_pylist()].index(True)
        raise ValueError(
            f"{self.name!r} must contain numbers in the column '{column}' (got "
            f'{values[row].as_py()!r} in {self.at(row)})'
        )

    def at(self, row: int) -> str:
        """Where a row is: ``'line 7'`` of a text, else ``'row 6'``."""
        row = row if self.rows is None else int(self.rows[row])
        line = None
        if self.path is not None:
            line = line_of(self.path, self.separator, self.encoding, row)
        return f'row {row + 1}' if line is None else f'line {line}'


def _is_number(kind: 'pa.DataType') -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
    )


def not_a_number(cell: str | None) -> bool:
    """Whether a cell holds something else than a number."""
    try:
        float(cell or 0)
    except ValueError:
        return True
    return '_' in (cell or '')


def header_hint(columns: Sequence[str]) -> str:
    """The end of a message about a column that is missing: what a strange header is."""
    if len(columns) == 1 and not columns[0].isidentifier():
        return (
            '. The header is one column: name the character between the cells with '
            "'separator' (--separator)"
        )
    if any(not not_a_number(name) for name in columns if name):
        return '. If the first line is data, put a line of column names above it'
    return ''


def require_arrow(caller: str) -> None:
    """Raises unless the packages that read tables are there."""
    try:
        import narwhals  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise missing_extra(caller, "pyarrow' and 'narwhals", 'frames') from error


def release_memory() -> None:
    """Returns the memory of tables that are no longer used to the system."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def is_table_name(path: str | Path) -> bool:
    """Whether a file's name ends as that of a table."""
    return kind_of(Path(path))[0] in SUFFIXES


def read_file(
    path: str | Path,
    columns: Iterable[str] | None = None,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    caller: str = 'read_table',
) -> Table:
    """The table of a file, by its suffix.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt``, ``.jsonl`` (each also ``.gz`` or ``.zst``)
            or ``.parquet``.
        columns: Columns to read; those that are missing are left out. (default: all)
        separator: The character between cells. (default: recognized among comma, tab,
            semicolon and ``|``)
        encoding: The encoding of a text. (default: ``'utf-8'``, with or without BOM)
        caller: For the message about missing packages. (default: ``'read_table'``)

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or of another kind.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    require_arrow(caller)
    path = Path(path)
    kind = _check_kind(path)
    wanted = None if columns is None else list(dict.fromkeys(columns))
    encoding = _check_encoding(encoding)
    if kind == '.parquet':
        header = list(open_parquet(path).schema_arrow.names)
        return Table(str(path), read_parquet(path, wanted), header)
    if kind == '.jsonl':
        data = read_json(path, wanted, encoding)
        header = (wanted and read_header(path, encoding=encoding)) or data.column_names
        return Table(str(path), data, header, path, None, encoding)
    return read_text(path, wanted, separator=separator, encoding=encoding)


def read_text(
    path: Path,
    columns: Sequence[str] | None = None,
    *,
    separator: str | None = None,
    encoding: str = 'utf-8',
    quotes: bool = True,
) -> Table:
    """The table of a file of separated cells as in :func:`read_file`, whatever its
    suffix is; unless ``quotes``, double quotes are ordinary characters.
    """
    require_arrow('read_table')
    text = TextTable(path, separator, encoding, quotes)
    data = text.read(columns)
    return Table(str(path), data, text.header, path, text.separator, encoding)


def read_header(
    path: str | Path, separator: str | None = None, encoding: str | None = None
) -> list[str]:
    """The names of a table's columns, read as in :func:`read_file`."""
    require_arrow('read_table')
    path = Path(path)
    kind, encoding = _check_kind(path), _check_encoding(encoding)
    if kind == '.parquet':
        return list(open_parquet(path).schema_arrow.names)
    if kind == '.jsonl':
        rows = json_rows(path, encoding)
        return list(dict.fromkeys(key for row in islice(rows, PEEK) for key in row))
    return TextTable(path, separator, encoding, quotes=True).header


def _check_kind(path: Path) -> str:
    kind, _ = kind_of(path)
    if kind not in SUFFIXES:
        raise ValueError(
            f"'{path}' must end in one of {', '.join(SUFFIXES)}, the texts also in "
            f'.gz or .zst'
        )
    check_file(path)
    return kind


def _check_encoding(encoding: str | None) -> str:
    try:
        return codecs.lookup(encoding or 'utf-8').name
    except LookupError as error:
        raise ValueError(
            f"'encoding' (--encoding) must be the name of one, such as 'cp1252' (got "
            f'{encoding!r})'
        ) from error


def as_table(frame: Any, name: str, columns: Sequence[str] | None = None) -> Table:
    """The table of a frame of pandas, polars, pyarrow, DuckDB, ``datasets`` or others
    that narwhals reads.

    Args:
        frame: The frame, or a :class:`Table`.
        name: The argument, for messages.
        columns: Columns to read; those that are missing are left out. (default: all)

    Raises:
        TypeError: If it is no frame.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    if isinstance(frame, Table):
        return frame
    require_arrow('read_table')
    import narwhals as nw
    import pyarrow as pa

    if isinstance(frame, pa.RecordBatchReader):
        frame = frame.read_all()
    elif hasattr(frame, 'with_format'):  # `datasets.Dataset` of Hugging Face.
        frame = frame.with_format('arrow')[:]
    try:
        native = nw.from_native(frame)
        known = native.collect_schema().names()
    except nw.exceptions.DuplicateError as error:
        check_distinct(name, [str(column) for column in frame.columns])
        raise ValueError(f'{name!r} must name each column once') from error
    except TypeError as error:
        raise TypeError(
            f"'{name}' must be a file, or a frame of pandas, polars, pyarrow or DuckDB "
            f'(got {type(frame).__name__})'
        ) from error
    names = [x for x in known if columns is None or str(x) in columns]
    header = [str(column) for column in known]
    check_distinct(name, header)
    if isinstance(native, nw.LazyFrame):
        data = native.select(names).collect('pyarrow').to_native()
        return Table(name, data, header)
    if columns is not None and not names:
        names = known[:1]  # The number of rows.
    cells = {}
    for column in names:
        series = native.get_column(column)
        try:
            cells[str(column)] = series.to_arrow()
        except (pa.ArrowException, TypeError, OverflowError):
            cells[str(column)] = as_arrow(series.to_list())
    return Table(name, pa.table(cells), header)
