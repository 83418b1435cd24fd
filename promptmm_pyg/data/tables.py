"""Tables as Arrow columns: files of every kind, and data frames."""

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from promptmm_pyg.data.ids import IdColumn, first_of, is_text

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = ('.csv', '.tsv', '.txt', '.jsonl', '.parquet')
_COMPRESSED = {'.gz': 'gzip', '.zst': 'zstd'}
SEPARATORS = (',', '\t', ';', '|')
_PEEK = 50  # Rows that separators and types are recognized by.
_BLOCK = 2**22
# No table of distinct interactions has so many rows per byte, no text compresses so
# well: such files are damaged, or made to fill the memory.
_ROWS_PER_BYTE, _FREE_ROWS = 100, 10**7
_BYTES_PER_BYTE, _FREE_BYTES = 200, 2**28

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
        row = first_of(cells, not_a_number)
        raise ValueError(
            f"{self.name!r} must contain numbers in the column '{column}' (got "
            f'{values[row].as_py()!r} in {self.at(row)})'
        )

    def at(self, row: int) -> str:
        """Where a row is: ``'line 7'`` of a text, else ``'row 6'``."""
        row = row if self.rows is None else int(self.rows[row])
        line = None
        if self.path is not None:
            line = _line_of(self.path, self.separator, self.encoding, row)
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


def header_text(columns: Sequence[str]) -> str:
    """The names of columns for a message, cut where they are many."""
    shown = [name if len(name) <= 80 else f'{name[:80]}...' for name in columns[:20]]
    more = len(columns) - len(shown)
    return f'{shown} and {more} more' if more > 0 else str(shown)


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
        raise ImportError(
            f"'{caller}' requires 'pyarrow' and 'narwhals'. Install them with "
            f"'pip install promptmm_pyg[frames]'"
        ) from error


def release_memory() -> None:
    """Returns the memory of tables that are no longer used to the system."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def is_table_name(path: str | Path) -> bool:
    """Whether a file's name ends as that of a table."""
    return _kind(Path(path))[0] in SUFFIXES


def _kind(path: Path) -> tuple[str, str | None]:
    """The suffix of a table, and its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = _COMPRESSED.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ''
    return ('' if kind == '.parquet' and compression else kind), compression


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
        header = list(_open_parquet(path).schema_arrow.names)
        return Table(str(path), _read_parquet(path, wanted), header)
    if kind == '.jsonl':
        data = _read_json(path, wanted, encoding)
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
    """The table of a file of separated cells, whatever its suffix is.

    Args:
        path: The file.
        columns: As in :func:`read_file`.
        separator: As in :func:`read_file`.
        encoding: The encoding. (default: ``'utf-8'``)
        quotes: Whether double quotes surround cells that contain the separator.
            (default: ``True``)

    Raises:
        ValueError: If it is damaged.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    require_arrow('read_table')
    text = _TextTable(path, separator, encoding, quotes)
    data = text.read(columns)
    return Table(str(path), data, text.header, path, text.separator, encoding)


def read_header(
    path: str | Path, separator: str | None = None, encoding: str | None = None
) -> list[str]:
    """The names of a table's columns.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or of another kind.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    require_arrow('read_table')
    path = Path(path)
    kind, encoding = _check_kind(path), _check_encoding(encoding)
    if kind == '.parquet':
        return list(_open_parquet(path).schema_arrow.names)
    if kind == '.jsonl':
        rows = _json_rows(path, encoding)
        return list(dict.fromkeys(key for row in islice(rows, _PEEK) for key in row))
    return _TextTable(path, separator, encoding, quotes=True).header


def _check_kind(path: Path) -> str:
    kind, _ = _kind(path)
    if kind not in SUFFIXES:
        raise ValueError(
            f"'{path}' must end in one of {', '.join(SUFFIXES)}, the texts also in "
            f'.gz or .zst'
        )
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' must be a file (got none)")
    return kind


def _check_encoding(encoding: str | None) -> str:
    try:
        return codecs.lookup(encoding or 'utf-8').name
    except LookupError as error:
        raise ValueError(
            f"'encoding' (--encoding) must be the name of one, such as 'cp1252' (got "
            f'{encoding!r})'
        ) from error


class _Stream(io.RawIOBase):
    """The bytes of a text in UTF-8, decompressed and of limited size."""

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__()
        import pyarrow as pa

        self._path = path
        self._limit = max(_FREE_BYTES, _BYTES_PER_BYTE * path.stat().st_size)
        self._size = 0
        self._file = pa.input_stream(str(path), compression=_kind(path)[1])
        is_utf8 = encoding in ('utf-8', 'utf-8-sig', 'ascii')
        self._decoder = None if is_utf8 else codecs.getincrementaldecoder(encoding)()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        content = self.read(max(len(buffer) // 4, 1))  # Text may grow in UTF-8.
        buffer[: len(content)] = content
        return len(content)

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(_BLOCK if size is None or size < 0 else size)
        self._size += len(content)
        if self._size > self._limit:
            raise ValueError(
                f'more than {self._limit >> 20} MiB, decompressed from '
                f'{self._path.stat().st_size} bytes. Decompress the file first'
            )
        if self._decoder is None:
            return cast(bytes, content)
        text = self._decoder.decode(content, final=not content)
        if content and not text:
            return self.read(size)
        return text.encode()


def _open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    stream = io.BufferedReader(_Stream(path, encoding), _BLOCK)
    return io.TextIOWrapper(stream, 'utf-8-sig', newline='')


def _unreadable(path: Path, error: Exception, encoding: str) -> ValueError:
    """The error of a text that is damaged or in another encoding."""
    problem = str(error).strip()
    is_code = isinstance(error, UnicodeError) or 'UTF8' in problem.replace('-', '')
    if is_code:
        line = _first_undecodable(path, encoding)
        where = '' if line is None else f' in line {line}'
        return ValueError(
            f"'{path}' must be text in {encoding} (got other bytes{where}). Name its "
            f"encoding, often cp1252 or utf-16, with 'encoding' (--encoding), or write "
            f'it in UTF-8'
        )
    return ValueError(
        f"'{path}' must be a whole {_kind(path)[0]} table (got {problem[:300]}). If "
        f'it is truncated, fetch the file again'
    )


def _first_undecodable(path: Path, encoding: str) -> int | None:
    stream, line = _Stream(path, 'utf-8'), 1
    decoder = codecs.getincrementaldecoder(encoding)()
    while content := stream.read():
        for part in content.splitlines(keepends=True):
            try:
                decoder.decode(part)
            except UnicodeError:
                return line
            line += part.endswith(b'\n')
    return None


class _TextTable:
    """A file of separated cells: its header and separator, then its columns."""

    def __init__(
        self, path: Path, separator: str | None, encoding: str, quotes: bool
    ) -> None:
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            raise ValueError(
                f"'separator' (--separator) must be one character (got {separator!r}). "
                f'Replace longer ones in the file'
            )
        self.path, self.encoding, self.quotes = path, encoding, quotes
        try:
            with _open_text(path, encoding) as file:
                lines = list(islice(file, _PEEK))
        except (ValueError, OSError) as error:
            raise _unreadable(path, error, encoding) from error
        if not any(line.strip() for line in lines):
            raise ValueError(
                f"'{path}' must begin with a line of column names (got an empty file)"
            )
        self.separator = separator or self._recognize(lines)
        self.header = next(row for row in self._split(lines, self.separator) if row)
        twice = [name for name in self.header if self.header.count(name) > 1]
        if twice:
            raise ValueError(
                f"'{path}' must name each column once (got {twice[0]!r} "
                f'{len(twice)} times in {header_text(self.header)}). If the first line '
                f'is data, put a line of column names above it'
            )

    def _split(self, lines: Iterable[str], separator: str) -> Iterator[list[str]]:
        if not self.quotes:
            return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=separator)

    def _recognize(self, lines: list[str]) -> str:
        """The separator that cuts all rows alike, or most of the header."""
        own = '\t' if _kind(self.path)[0] == '.tsv' else ','
        widths = {}
        for separator in sorted(SEPARATORS, key=lambda x: x != own):
            try:
                rows = [row for row in self._split(lines, separator) if row]
            except csv.Error:
                continue
            whole = rows[:-1] if len(lines) == _PEEK else rows  # One may be cut.
            alike = len({len(row) for row in whole}) <= 1
            widths[separator] = (len(rows[0]) > 1 and alike, len(rows[0]))
        if widths.get(own, (False, 0))[0] or not widths:
            return own
        return max(widths, key=lambda separator: widths[separator])

    def read(self, columns: Sequence[str] | None) -> 'pa.Table':
        """The columns as text; those that are missing are left out."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        names = self.header
        if columns is not None:
            names = [name for name in self.header if name in columns]
        try:
            table = arrow_csv.read_csv(
                _Stream(self.path, self.encoding),
                arrow_csv.ReadOptions(block_size=_BLOCK),
                arrow_csv.ParseOptions(
                    delimiter=self.separator,
                    quote_char='"' if self.quotes else False,
                    newlines_in_values=self.quotes,
                ),
                arrow_csv.ConvertOptions(
                    include_columns=names or self.header[:1],
                    column_types=dict.fromkeys(self.header, pa.string()),
                    strings_can_be_null=False,
                    null_values=[],
                ),
            )
        except (ValueError, OSError) as error:
            raise self._explain(error) from error
        return table.select(names)

    def _explain(self, error: Exception) -> ValueError:
        """The error with the line of the first row of another width."""
        previous = 0
        try:
            with _open_text(self.path, self.encoding) as file:
                reader = self._split(file, self.separator)
                for row in reader:
                    if row and len(row) != len(self.header):
                        return ValueError(
                            f"'{self.path}' must have {len(self.header)} cells in each "
                            f'row, as in its header (got {len(row)} in line '
                            f'{previous + 1}, separated by {self.separator!r}). Quote '
                            f'cells that contain the separator; if the file is '
                            f'truncated, fetch it again'
                        )
                    previous = cast(Any, reader).line_num
        except (ValueError, csv.Error, OSError):
            pass
        return _unreadable(self.path, error, self.encoding)


def _line_of(path: Path, separator: str | None, encoding: str, row: int) -> int | None:
    """The line at which a row begins; empty lines are no rows."""
    try:
        with _open_text(path, encoding) as file:
            if separator is None:
                lines = (n for n, line in enumerate(file, 1) if line.strip())
                return next(islice(lines, row, None), None)
            reader, previous = csv.reader(file, delimiter=separator), 0
            for cells in reader:
                if cells:
                    row -= 1
                    if row == -2:
                        return previous + 1
                previous = reader.line_num
    except (ValueError, csv.Error, OSError):
        pass
    return None


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, 'utf-8') from error
    rows, size = file.metadata.num_rows, path.stat().st_size
    if rows > max(_FREE_ROWS, _ROWS_PER_BYTE * size):
        raise ValueError(
            f"'{path}' must have at most {_ROWS_PER_BYTE} rows per byte, as all tables "
            f'of interactions have (got {rows} rows in {size} bytes). Write the file '
            f'again'
        )
    return file


def _read_parquet(path: Path, columns: list[str] | None) -> 'pa.Table':
    import pyarrow as pa
    from pyarrow import parquet

    file = _open_parquet(path)
    schema = file.schema_arrow
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise ValueError(
            f"'{path}' must name each column once (got {twice[0]!r} {len(twice)} times)"
        )
    names = [x for x in schema.names if columns is None or x in columns]
    # A long text that is stored once must not be repeated for every row.
    texts = [name for name in names if is_text(schema.field(name).type)]
    try:
        return parquet.ParquetFile(path, read_dictionary=texts).read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, 'utf-8') from error


def _read_json(path: Path, columns: list[str] | None, encoding: str) -> 'pa.Table':
    """JSON lines by Arrow where each column has one type, else row by row."""
    from pyarrow import json as arrow_json

    rows = islice(_json_rows(path, encoding), _PEEK)
    schema = _json_schema(list(rows), columns)
    if schema is not None:
        try:
            table = arrow_json.read_json(
                _Stream(path, encoding),
                arrow_json.ReadOptions(block_size=_BLOCK),
                arrow_json.ParseOptions(
                    explicit_schema=schema,
                    unexpected_field_behavior='error' if columns is None else 'ignore',
                ),
            )
            table.validate(full=True)
        except (ValueError, OSError):  # Row by row, for the types or the message.
            pass
        else:
            return table
    return _json_columns(list(_json_rows(path, encoding)), columns)


def _json_rows(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with _open_text(path, encoding) as file:
            for number, line in enumerate(file, 1):  # noqa: B007
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise TypeError(f'a {type(row).__name__}')
                    yield row
    except UnicodeError as error:
        raise _unreadable(path, error, encoding) from error
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise ValueError(
            f"'{path}' must contain one JSON object per line (got {error} in line "
            f'{number}). If it is truncated, fetch the file again'
        ) from error


def _json_schema(
    rows: list[dict[str, Any]], columns: list[str] | None
) -> 'pa.Schema | None':
    """Text and integers by column, if the first rows have nothing else."""
    import pyarrow as pa

    kinds: dict[str, set[type]] = {}
    for row in rows:
        for key, value in row.items():
            if value is not None and (columns is None or key in columns):
                kinds.setdefault(key, set()).add(type(value))
    types = {str: pa.large_string(), int: pa.int64(), float: pa.float64()}
    if not kinds or any(len(x) > 1 or not x <= set(types) for x in kinds.values()):
        return None
    return pa.schema({key: types[x.pop()] for key, x in kinds.items()})


def _json_columns(rows: list[dict[str, Any]], columns: list[str] | None) -> 'pa.Table':
    import pyarrow as pa

    names = list(dict.fromkeys(key for row in rows for key in row))
    names = [name for name in names if columns is None or name in columns]
    cells = {name: as_arrow([row.get(name) for row in rows]) for name in names}
    return pa.table(cells)


def as_arrow(values: Sequence[Any]) -> 'pa.Array':
    """Python values as a column: numbers and text that are mixed become text."""
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError):  # Mixed, or beyond 64 bits.
        gaps = (x is None or (isinstance(x, float) and x != x) for x in values)
        cells = [None if gap else str(x) for x, gap in zip(values, gaps, strict=True)]
        return pa.array(cells, pa.large_string())


def as_table(frame: Any, name: str, columns: Sequence[str] | None = None) -> Table:
    """The table of a frame of pandas, polars, pyarrow, DuckDB or others that narwhals
    reads.

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
    require_arrow('from_frame')
    import narwhals as nw
    import pyarrow as pa

    try:
        native = nw.from_native(frame)
    except TypeError as error:
        raise TypeError(
            f"'{name}' must be a frame of pandas, polars, pyarrow or DuckDB (got "
            f'{type(frame).__name__})'
        ) from error
    known = native.collect_schema().names()
    names = [x for x in known if columns is None or x in columns]
    if isinstance(native, nw.LazyFrame):
        data = native.select(names).collect('pyarrow').to_native()
        return Table(name, data, known)
    if columns is not None and not names:
        names = known[:1]  # The number of rows.
    cells = {}
    for column in names:
        series = native.get_column(column)
        try:
            cells[column] = series.to_arrow()
        except (pa.ArrowException, TypeError, OverflowError):
            cells[column] = as_arrow(series.to_list())
    return Table(name, pa.table(cells), known)
