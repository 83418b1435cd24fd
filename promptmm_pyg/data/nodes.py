"""The users or items of a data set: their ids, feature tables and encoded columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg.data.build import Ids
from promptmm_pyg.data.columns import ColumnEncoding, encode_columns, is_list, vectors
from promptmm_pyg.data.features import Masks, load_array, zero_row_masks
from promptmm_pyg.data.ids import (
    IdColumn,
    from_ids,
    positions,
    sorted_union,
    to_raw_ids,
    unify,
)
from promptmm_pyg.data.interactions import id_column
from promptmm_pyg.data.problems import data_error
from promptmm_pyg.data.table_files import header_text
from promptmm_pyg.data.tables import Table, as_table, read_file

if TYPE_CHECKING:
    import pyarrow as pa

NumpyArray = np.ndarray[Any, Any]
Features = Mapping[str, Any]
_ID_OPTION = "'item' (--item-column)"


class Rows(NamedTuple):
    """The rows of one modality."""

    ids: 'pa.Array'
    x: NumpyArray  # [N, width], NaN where missing
    columns: tuple[str, ...] | None  # Their names; None for arrays and lists
    name: str  # For messages


class Nodes:
    """One node type: its ids, and interactions and features by position.

    Args:
        node_type: ``'user'`` or ``'item'``.
        column: The column of its ids.
        mentioned: Its ids in the interactions.
        ids: All ids, in the order in which to number them. (``None``: the sorted ids)
        keep: Whether ids without interactions become nodes.
        drop: Columns of feature tables to leave out.
    """

    def __init__(
        self,
        node_type: str,
        column: str,
        mentioned: IdColumn,
        ids: Ids | None,
        *,
        keep: bool,
        drop: 'DroppedColumns',
    ) -> None:
        self.node_type = node_type
        self.column = column
        self.mentioned = mentioned
        self.given = None if ids is None else from_ids(f'{node_type}_ids', ids)
        self.keep = keep
        self.drop = drop
        self.encodings: dict[str, ColumnEncoding] = {}
        self.features: dict[str, NumpyArray] = {}
        self.masks: dict[str, NumpyArray] = {}
        self._rows: dict[str, Rows] = {}

    def add_features(self, features: Features | None) -> None:
        """Reads feature tables ``{modality: table}``."""
        for name, value in (features or {}).items():
            what = f"{self.node_type}_features['{name}']"
            flag = 'features' if self.node_type == 'item' else 'user-features'
            if isinstance(value, np.ndarray):
                self._rows[name] = self._read_array(f'{what} (--{flag} {name})', value)
                continue
            table = value
            if not isinstance(table, Table):
                table = as_table(_with_id_column(value, self.column), what)
            column = id_column(table, self.column, self.node_type)
            ids = unique_ids(table, column)
            x, columns = feature_matrix(table, column, self.drop.of(table))
            self._rows[name] = Rows(ids, x, columns, table.name)

    def add_columns(
        self, table: Table, columns: Sequence[str], separator: str | None
    ) -> None:
        """Encodes columns of a table, a modality each."""
        if not columns:
            return
        dropped = self.drop.of(table)
        columns = [name for name in columns if name not in dropped]
        column = id_column(table, self.column, self.node_type)
        encoded = encode_columns(table, column, columns, separator)
        for name, encoding in encoded.encodings.items():
            if name in self._rows:
                raise ValueError(
                    f"'{self.node_type}_columns' (--{self.node_type}-columns) must not "
                    f'name a modality of the features (got {name!r}). Rename one'
                )
            names = (encoding.column,) * encoding.width
            self._rows[name] = Rows(
                encoded.ids[name], encoded.x[name], names, table.name
            )
        self.encodings |= encoded.encodings

    def align(self) -> None:
        """Numbers the nodes, and orders all rows by them."""
        names = [rows.ids for rows in self._rows.values()]
        if self.given is None:
            first, *others = unify(self.mentioned.values, names)
            index = sorted_union([first, *(others if self.keep else [])])
        else:
            first, index, *others = unify(self.mentioned.values, [self.given, *names])
        place = positions(first, index)
        if (place < 0).any():
            unknown = first[int((place < 0).argmax())].as_py()
            raise ValueError(
                f"'{self.node_type}_ids' must contain every {self.node_type} of the "
                f'interactions (got none like {unknown!r})'
            )
        self.ids = to_raw_ids(index)
        self.position = place[self.mentioned.codes]
        for own, (name, rows) in zip(others, self._rows.items(), strict=True):
            self._align(name, positions(index, own), rows)

    def describe(self, data: HeteroData) -> None:
        """Stores names and encodings of columns on the graph."""
        for name, rows in self._rows.items():
            if rows.columns is not None:
                data.feature_columns[f'{self.node_type}.x_{name}'] = rows.columns
        for name, encoding in self.encodings.items():
            key = f'{self.node_type}.x_{name}'
            data.column_encodings[key] = encoding.to_dict()

    def _read_array(self, what: str, value: NumpyArray) -> Rows:
        ids = self.given
        if ids is None or value.ndim != 2 or len(value) != len(ids):
            expected = 'no ids' if ids is None else f'{len(ids)} ids'
            node = self.node_type
            raise ValueError(
                f'"{what}" is an array, so it must have one row for each of '
                f"'{node}_ids' (--{node}-ids) (got shape {list(value.shape)} and "
                f'{expected}). Pass all ids in the order of its rows, or a table with '
                f"the column '{self.column}'{_padding_hint(value, ids)}"
            )
        return Rows(ids, value, None, what)

    def _align(self, name: str, row: NumpyArray, rows: Rows) -> None:
        present = row >= 0
        if not present[self.position].any():
            raise ValueError(
                f'{rows.name!r} of the modality {name!r} must share ids with the '
                f'interactions (got none in common: {rows.ids[0].as_py()!r} here, '
                f'{self.mentioned.values[0].as_py()!r} there). Compare how they are '
                f'written'
            )
        # Row -1 is no row: the mask hides what is read from it.
        x = np.asarray(rows.x, dtype=np.float32)[row]
        gaps = np.isnan(x)
        present &= ~gaps.all(axis=1)
        broken = present & gaps.any(axis=1)
        if broken.any() and rows.columns is not None:
            places = np.flatnonzero(gaps[broken].any(axis=0))
            data_error(
                f'{rows.name!r} must contain a number in each cell of a row (got gaps '
                f'in {header_text([rows.columns[i] for i in places])} of '
                f'{int(broken.sum())} {self.node_type}s, the first is '
                f'{self.ids[int(broken.argmax())]!r}). Fill them, leave the whole row '
                f'empty, or leave the columns out with drop_columns (--drop-columns)'
            )
            present &= ~broken
        self.features[name] = x
        if not present.all():
            self.masks[name] = present


class DroppedColumns:
    """Columns to leave out, each of which a table must have."""

    def __init__(self, columns: Sequence[str] = ()) -> None:
        self.columns = columns
        self.known: set[str] = set()

    def of(self, table: Table) -> list[str]:
        """The columns to leave out of one table."""
        self.known.update(table.columns)
        return [column for column in self.columns if column in table.columns]

    def check(self) -> None:
        """Raises if a column is in no table."""
        unknown = [column for column in self.columns if column not in self.known]
        if unknown:
            raise ValueError(
                f"'drop_columns' (--drop-columns) must name columns of feature tables "
                f'(got {unknown}, known are {header_text(sorted(self.known))})'
            )


def _padding_hint(value: NumpyArray, ids: 'pa.Array | None') -> str:
    one_more = ids is not None and value.ndim == 2 and len(value) == len(ids) + 1
    if not one_more or np.nan_to_num(value[0]).any():
        return ''
    return (
        '. The first row is zeros, as padding is: leave it out with padding_row=True '
        '(--padding-row)'
    )


def _with_id_column(frame: Any, column: str) -> Any:
    """The frame, with the index of pandas as its id column if it has no other."""
    if hasattr(frame, 'reset_index') and column not in getattr(frame, 'columns', ()):
        return frame.reset_index(names=column)
    return frame


def unique_ids(table: Table, column: str) -> 'pa.Array':
    """The ids of a table with one row per node.

    Raises:
        ValueError: If the column is missing, or an id is missing or repeated.
    """
    coded = table.ids(column, _ID_OPTION)
    if len(coded.values) < len(coded.codes):
        first = np.unique(coded.codes, return_index=True)[1]
        row = int(np.setdiff1d(np.arange(len(coded.codes)), first)[0])
        data_error(
            f'{table.name!r} must contain each id once (got '
            f'{coded.values[int(coded.codes[row])].as_py()!r} again in '
            f'{table.at(row)}). Drop or average the repeated rows'
        )
    return coded.values.take(coded.codes)


def feature_matrix(
    table: Table, column: str, drop: Sequence[str] = (), may_be_empty: bool = False
) -> tuple[NumpyArray, tuple[str, ...] | None]:
    """All columns of a feature table but that of the ids, as one matrix, and their
    names; a column of lists has none.

    Args:
        table: One row per node: numbers, or one column of lists of one length.
        column: The column of ids.
        drop: Columns to leave out. (default: none)
        may_be_empty: Whether a column may have no number at all. (default: ``False``)

    Raises:
        ValueError: If there is no other column, or one is not numeric or is empty.
    """
    names = [name for name in table.columns if name != column and name not in drop]
    if len(names) == 1 and is_list(table.data.column(names[0]).type):
        return vectors(table, names[0]), None
    numbers: dict[str, NumpyArray] = {}
    texts = []
    for name in names:
        try:
            numbers[name] = table.numbers(name)
        except ValueError:
            texts.append(name)
    if texts:
        message = (
            f"{table.name!r} must have numeric columns only beside '{column}' (got "
            f'{texts[:10]}). Leave them out with drop_columns (--drop-columns), encode '
            f'categories with item_columns or user_columns (--item-columns, '
            f"--user-columns), and texts with 'encode_content' (--text FILE:COLUMN)"
        )
        if not numbers:
            raise ValueError(message)
        data_error(message)
    empty = [name for name, x in numbers.items() if np.isnan(x).all()]
    if empty and not may_be_empty:
        data_error(
            f'{table.name!r} must contain numbers in each column (got none in '
            f'{header_text(empty)}). Leave them out with drop_columns (--drop-columns '
            f'{" ".join(repr(name) for name in empty)})'
        )
        numbers = {name: x for name, x in numbers.items() if name not in empty}
    if not numbers:
        raise ValueError(
            f"{table.name!r} must have a numeric column beside '{column}' (got "
            f'{header_text(table.header)})'
        )
    columns = [np.asarray(x, dtype=np.float32) for x in numbers.values()]
    return np.stack(columns, axis=1), tuple(numbers)


def load_feature_file(
    path: Path,
    encoding: str | None = None,
    padding_row: bool = False,
    masks: Masks = None,
) -> Table | NumpyArray:
    """Features in an ``.npy`` file, or a table of them.

    Args:
        path: The file.
        encoding: The encoding of a table. (default: ``'utf-8'``)
        padding_row: Whether the first row of an array is left out.
            (default: ``False``)
        masks: ``'zero-rows'`` replaces rows of zeros in an array by NaN, which is
            missing. (default: ``None``)

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or of another kind.
    """
    if path.suffix == '.npy':
        array = load_array(path)[int(padding_row) :]
        missing = ~zero_row_masks({'x': array}, masks).get('x', np.array(True))
        if missing.any():
            array = array.astype(np.float32)
            array[missing] = np.nan
        return array
    return read_file(path, encoding=encoding)
