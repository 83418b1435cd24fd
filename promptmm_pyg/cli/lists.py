"""Lists of recommendations as files, written block by block."""

import argparse
import csv
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from promptmm_pyg._files import replacing
from promptmm_pyg._progress import Progress
from promptmm_pyg._utils import missing_extra
from promptmm_pyg.cli.parsing import QUIET, UserError, add_flags, printable
from promptmm_pyg.serving import RawIds, Recommendations

Columns = Sequence[Sequence[Any]]
Write = Callable[[Columns], None]
SUFFIXES = ('.parquet', '.csv', '.jsonl')
MEMORY = 32 * 2**20
"""Bytes of a block of rankings."""
_ROWS = 2**14  # Rows of a block, and users of one at most:
_USERS = 1024
_GROUP = 2**13  # The fewest rows of a row group of Parquet.
_FORMULA = re.compile(r'[=+\-@\t\r]')
_NUMBER = re.compile(r'[+-]?\d+(\.\d+)?')


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the options of the output."""
    add_flags(
        parser.add_argument_group('output'),
        f"""
--out FILE  write {what} to FILE.parquet, FILE.csv or FILE.jsonl, block by block
--overwrite  replace FILE
--verbatim  .csv: no apostrophe before text that a spreadsheet would run as a formula
{QUIET}
--json  print JSON""",
    )


def check_output(args: argparse.Namespace) -> None:
    """Raises before any work is done."""
    if args.out is None:
        for name in ('overwrite', 'verbatim'):
            if getattr(args, name):
                raise UserError(f'--{name} requires --out')
        return
    path = Path(args.out)
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out must end in {', '.join(SUFFIXES)} (got '{path}')")
    if args.json:
        raise UserError('--json and --out exclude each other. Write FILE.jsonl')
    if args.verbatim and path.suffix != '.csv':
        raise UserError(f"--verbatim requires --out FILE.csv (got '{path}')")
    if path.is_dir():
        raise UserError(f"--out must be a file (got the folder '{path}')")
    if path.exists() and not args.overwrite:
        raise UserError(
            f"'{path}' exists already. Choose another --out, or pass --overwrite"
        )
    if path.suffix == '.parquet':
        _arrow()


def block_size(k: int) -> int:
    """The number of users whose lists of length ``k`` are ranked at once."""
    return max(1, min(_USERS, _ROWS // k))


def columns_of(
    keys: Sequence[Any], lists: Recommendations, titles: Mapping[Any, str]
) -> list[list[Any]]:
    """Key, rank, item, score and, if any is known, title of each recommended item."""
    valid = lists.scores > -float('inf')
    rows, ranks = valid.nonzero()
    items = lists.ids[valid].tolist()
    columns = [
        [keys[row] for row in rows.tolist()],
        (ranks + 1).tolist(),
        items,
        lists.scores[valid].tolist(),
    ]
    return [*columns, [titles.get(item) for item in items]] if titles else columns


def id_type(ids: RawIds) -> type:
    """The type of a column of ids: integers if all are and have 64 bits, else text."""
    integers = len(ids) > 0 and ids.are_integers
    return int if integers and all(abs(int(raw)) < 2**63 for raw in ids) else str


def write_file(
    args: argparse.Namespace,
    types: dict[str, type],
    blocks: Iterable[tuple[int, Columns]],
    total: int,
    unit: str,
) -> None:
    """Writes blocks of columns to ``--out``, atomically and with progress.

    Args:
        args: The options of :func:`add_output`.
        types: The type of each column.
        blocks: The number of units of each block, and its columns.
        total: The number of units of all blocks.
        unit: The name of a unit, in the plural.
    """
    path, start, num_rows = Path(args.out), time.perf_counter(), 0
    writer = {'.csv': _csv, '.jsonl': _jsonl, '.parquet': _parquet}[path.suffix]
    with (
        replacing(path) as temporary,
        writer(temporary, types, args.verbatim) as write,
        Progress(total, unit=unit.removesuffix('s'), disable=args.quiet) as progress,
    ):
        for size, columns in blocks:
            write(columns)
            num_rows += len(columns[0])
            progress.update(size)
    seconds = time.perf_counter() - start
    text = f'{path} ({num_rows:,} rows, {total:,} {unit}, {seconds:.1f} s)'
    print(printable(f'written: {text}'))


@contextmanager
def _csv(path: Path, types: dict[str, type], verbatim: bool) -> Iterator[Write]:
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(types)
        formats = [_csv_format(kind, verbatim) for kind in types.values()]

        def write(columns: Columns) -> None:
            pairs = zip(formats, columns, strict=True)
            writer.writerows(zip(*(map(f, column) for f, column in pairs), strict=True))

        yield write


def _csv_format(kind: type, verbatim: bool) -> Callable[[Any], Any]:
    if kind is float:
        return lambda x: '' if x is None or x != x else f'{x:.9g}'  # Single precision.
    return (lambda x: x) if verbatim or kind is int else escape_formula


def escape_formula(value: Any) -> Any:
    """An apostrophe before text that a spreadsheet would run as a formula.

    Numbers are left as they are, also negative ones that are text.

    Example:
        >>> escape_formula('=1+1'), escape_formula('-3.5'), escape_formula('a=b')
        ("'=1+1", '-3.5', 'a=b')
    """
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"


@contextmanager
def _jsonl(path: Path, types: dict[str, type], verbatim: bool) -> Iterator[Write]:
    del verbatim
    with path.open('w', encoding='utf-8') as file:

        def write(columns: Columns) -> None:
            for row in zip(*columns, strict=True):
                values = (None if x != x else x for x in row)
                entry = dict(zip(types, values, strict=True))
                file.write(f'{json.dumps(entry, ensure_ascii=False)}\n')

        yield write


@contextmanager
def _parquet(path: Path, types: dict[str, type], verbatim: bool) -> Iterator[Write]:
    del verbatim
    pa, pq = _arrow()
    tables: list[Any] = []
    schema = arrow_table(types, [[] for _ in types]).schema
    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.concat_tables(tables))
            tables.clear()

        def write(columns: Columns) -> None:
            tables.append(arrow_table(types, columns))
            if sum(table.num_rows for table in tables) >= _GROUP:
                flush()

        yield write
        if tables:
            flush()


def arrow_table(types: dict[str, type], columns: Columns) -> Any:
    """Columns as an Arrow table."""
    pa, _ = _arrow()
    kinds = {int: pa.int64(), float: pa.float32(), str: pa.string()}
    arrays = []
    for kind, values in zip(types.values(), columns, strict=True):
        if kind is str:
            values = [x if x is None else str(x) for x in values]
        arrays.append(pa.array(values, type=kinds[kind], from_pandas=True))
    return pa.Table.from_arrays(arrays, names=list(types))


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra('--out FILE.parquet', 'pyarrow', 'frames') from error
    return pa, pq
