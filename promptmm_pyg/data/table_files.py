"""Files of tables as Arrow columns: separated text, JSON lines and Parquet."""

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from promptmm_pyg._reading import check_file
from promptmm_pyg.data.ids import IdColumn, is_text
from promptmm_pyg.limits import (
    FREE_ROWS,
    FREE_TEXT,
    ROWS_PER_BYTE,
    TEXT_PER_BYTE,
    check_memory,
)

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = ('.csv', '.tsv', '.txt', '.jsonl', '.parquet')
_COMPRESSED = {'.gz': 'gzip', '.zst': 'zstd'}
SEPARATORS = (',', '\t', ';', '|')
PEEK = 50  # Rows that separators and types are recognized by.
_BLOCK = 2**22
_ROWS = 2**20  # Of a block of a Parquet file.
_MAX_CELL = 2**31 - 1  # Python's own limit is 128 KiB.


def header_text(columns: Sequence[str]) -> str:
    """The names of columns for a message, cut where they are many."""
    shown = [name if len(name) <= 80 else f'{name[:80]}...' for name in columns[:20]]
    more = len(columns) - len(shown)
    return f'{shown} and {more} more' if more > 0 else str(shown)


def check_distinct(name: str, columns: Sequence[str], fix: str = '') -> None:
    """Raises if a table has two columns of one name."""
    repeated = [column for column in columns if columns.count(column) > 1]
    if repeated:
        raise ValueError(
            f'{name!r} must name each column once (got {repeated[0]!r} '
            f'{columns.count(repeated[0])} times in {header_text(columns)}){fix}'
        )


def kind_of(path: Path) -> tuple[str, str | None]:
    """The suffix of a table, and its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = _COMPRESSED.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ''
    return ('' if kind == '.parquet' and compression else kind), compression


class _TooLargeError(ValueError):
    """A small file has too much text."""


class _Stream(io.RawIOBase):
    """The bytes of a text in UTF-8, decompressed and of limited size."""

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__()
        import pyarrow as pa

        self._path = path
        self._limit = max(FREE_TEXT, TEXT_PER_BYTE * check_file(path))
        self._size = self.num_quotes = 0
        self._file = pa.input_stream(str(path), compression=kind_of(path)[1])
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
        content = self._decoded(size)
        self.num_quotes += content.count(b'"')
        return content

    def _decoded(self, size: int) -> bytes:
        content = self._file.read(_BLOCK if size is None or size < 0 else size)
        self._size += len(content)
        if self._size > self._limit:
            raise _TooLargeError(
                f"'{self._path}' must have at most {TEXT_PER_BYTE} bytes of text per "
                f'byte, as all tables have (got more than {self._limit >> 20} MiB in '
                f'{self._path.stat().st_size} bytes). Decompress the file first'
            )
        if self._decoder is None:
            return cast(bytes, content)
        text = self._decoder.decode(content, final=not content)
        if content and not text:
            return self._decoded(size)
        return text.encode()


def _open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    stream = io.BufferedReader(_Stream(path, encoding), _BLOCK)
    return io.TextIOWrapper(stream, 'utf-8-sig', newline='')


def _unreadable(path: Path, error: Exception, encoding: str) -> ValueError:
    """The error of a text that is damaged or in another encoding."""
    if isinstance(error, _TooLargeError):
        return error
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
        f"'{path}' must be a whole {kind_of(path)[0]} table (got {problem[:300]}). If "
        f'it is truncated, fetch the file again'
    )


def _first_undecodable(path: Path, encoding: str) -> int | None:
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with suppress(OSError):  # Damaged compression.
        stream = _Stream(path, 'utf-8')
        while content := stream.read():
            for part in content.splitlines(keepends=True):
                try:
                    decoder.decode(part)
                except UnicodeError:
                    return line
                line += part.endswith(b'\n')
    return None


class TextTable:
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
                lines = list(islice(file, PEEK))
        except (ValueError, OSError) as error:
            raise _unreadable(path, error, encoding) from error
        if not any(line.strip() for line in lines):
            raise ValueError(
                f"'{path}' must begin with a line of column names (got an empty file)"
            )
        self.separator = separator or self._recognize(lines)
        self.header = next(row for row in self._split(lines, self.separator) if row)
        fix = '. If the first line is data, put a line of column names above it'
        check_distinct(str(path), self.header, fix)

    def _split(self, lines: Iterable[str], separator: str) -> Iterator[list[str]]:
        csv.field_size_limit(_MAX_CELL)
        if not self.quotes:
            return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=separator)

    def _recognize(self, lines: list[str]) -> str:
        """The separator that cuts all rows alike, or most of the header."""
        own = '\t' if kind_of(self.path)[0] == '.tsv' else ','
        widths = {}
        for separator in sorted(SEPARATORS, key=lambda x: x != own):
            try:
                rows = [row for row in self._split(lines, separator) if row]
            except csv.Error:
                continue
            whole = rows[:-1] if len(lines) == PEEK else rows  # One may be cut.
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
        stream = _Stream(self.path, self.encoding)
        try:
            table = arrow_csv.read_csv(
                stream,
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
        except _TooLargeError:
            raise
        except (ValueError, OSError) as error:
            raise self._explain(error) from error
        if self.quotes and stream.num_quotes % 2:
            self._check_quotes()
        return table.select(names)

    def _check_quotes(self) -> None:
        """Raises if the last cell begins with a quote that does not end: it may have
        many rows.
        """
        previous = 0
        with _open_text(self.path, self.encoding) as file:
            reader = csv.reader(file, delimiter=self.separator, strict=True)
            try:
                for _ in reader:
                    previous = reader.line_num
            except csv.Error as error:
                if 'end of data' in str(error):
                    raise ValueError(
                        f"'{self.path}' must close each quoted cell (got a quote that "
                        f'is open to the end, in the row from line {previous + 1}). '
                        f'Remove the quote, or write it twice in a quoted cell'
                    ) from error

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


def line_of(path: Path, separator: str | None, encoding: str, row: int) -> int | None:
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


def open_parquet(path: Path) -> Any:
    """The file, unless it is damaged or has more rows than can be."""
    import pyarrow as pa
    from pyarrow import parquet

    size = check_file(path)
    try:
        file = parquet.ParquetFile(path)
        file.schema_arrow  # noqa: B018
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise _unreadable(path, error, 'utf-8') from error
    rows = file.metadata.num_rows
    if rows > max(FREE_ROWS, ROWS_PER_BYTE * size):
        raise ValueError(
            f"'{path}' must have at most {ROWS_PER_BYTE} rows per byte, as all tables "
            f'of interactions have (got {rows} rows in {size} bytes). Write the file '
            f'again'
        )
    return file


def read_parquet(path: Path, columns: list[str] | None) -> 'pa.Table':
    """The columns of a Parquet file; those that are missing are left out."""
    import pyarrow as pa
    from pyarrow import parquet

    file = open_parquet(path)
    schema = file.schema_arrow
    check_distinct(str(path), schema.names)
    names = [x for x in schema.names if columns is None or x in columns]
    needed = 8 * file.metadata.num_rows * max(len(names), 1)
    check_memory(f"'{path}'", needed, 'Name fewer columns, or split the file')
    # A long text that is stored once must not be repeated for every row.
    texts = [name for name in names if is_text(schema.field(name).type)]
    try:
        file = parquet.ParquetFile(path, read_dictionary=texts)
        if file.metadata.num_rows > _ROWS and texts:
            return _read_blocks(file, names, texts)
        table = file.read(columns=names)
        table.validate(full=True)
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise _unreadable(path, error, 'utf-8') from error
    return table


def _read_blocks(file: Any, names: list[str], texts: list[str]) -> 'pa.Table':
    """A file read in blocks whose texts are coded by one dictionary at once: row groups
    have dictionaries of their own, most of which are the same.
    """
    import pyarrow as pa

    coded: dict[str, list[IdColumn]] = {name: [] for name in texts}
    others: dict[str, list[Any]] = {name: [] for name in names if name not in texts}
    for batch in file.iter_batches(_ROWS, columns=names):
        batch.validate(full=True)
        for name, parts in others.items():
            parts.append(batch.column(name))
        for name, columns in coded.items():
            column = IdColumn.encode(batch.column(name))
            assert column is not None
            # Columns of similar length are joined: each id is looked up a few times.
            while columns and len(columns[-1].codes) <= len(column.codes):
                column = columns.pop().joined(column)
            columns.append(column)
    table: dict[str, Any] = {}
    for name in names:
        if name in others:
            table[name] = pa.chunked_array(others.pop(name))
            continue
        columns = coded.pop(name)
        while len(columns) > 1:
            last = columns.pop()
            columns[-1] = columns[-1].joined(last)
        table[name] = columns[0].as_dictionary()
    return pa.table(table)


def read_json(path: Path, columns: list[str] | None, encoding: str) -> 'pa.Table':
    """JSON lines by Arrow where each column has one type, else row by row."""
    from pyarrow import json as arrow_json

    rows = islice(json_rows(path, encoding), PEEK)
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
        except _TooLargeError:
            raise
        except (ValueError, OSError):  # Row by row, for the types or the message.
            pass
        else:
            return table
    try:
        return _json_columns(list(json_rows(path, encoding)), columns)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"'{path}' must contain characters only (got half of one, "
            f'{error.object[error.start]!r}). Write the file in UTF-8 again'
        ) from error


def json_rows(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines; empty lines are none."""
    number = 0
    try:
        with _open_text(path, encoding) as file:
            for number, line in enumerate(file, 1):  # noqa: B007
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise TypeError(f'a {type(row).__name__}')
                    yield row
    except (UnicodeError, _TooLargeError) as error:
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
    types = {
        str: pa.large_string(),
        int: pa.int64(),
        float: pa.float64(),
        list: pa.list_(pa.float64()),
    }
    missing = set(columns or ()) - set(kinds)
    one_type = all(len(x) == 1 and x <= set(types) for x in kinds.values())
    if not kinds or missing or not one_type:
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
