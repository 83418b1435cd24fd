"""Graphs from data frames and from single tables on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.build import DUPLICATES, Duplicates, Ids, build_graph
from promptmm_pyg.data.features import load_array
from promptmm_pyg.data.ids import (
    IdColumn,
    from_ids,
    positions,
    sorted_union,
    to_raw_ids,
    unify,
)
from promptmm_pyg.data.interactions import (
    Columns,
    Where,
    item_column,
    read_interactions,
)
from promptmm_pyg.data.tables import Table, as_table, read_file

if TYPE_CHECKING:
    import pyarrow as pa

NumpyArray = np.ndarray[Any, Any]
Features = Mapping[str, Any]


def from_frame(
    interactions: Any,
    *,
    user: str = 'user_id',
    item: str = 'item_id',
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    weight: str | None = None,
    where: Where | None = None,
    item_features: Features | None = None,
    user_features: Features | None = None,
    item_ids: Ids | None = None,
    user_ids: Ids | None = None,
    without_interactions: Literal['keep', 'drop'] = 'keep',
    duplicates: Duplicates = 'error',
) -> HeteroData:
    """Returns the graph of a table of interactions; raw ids are its ``raw_id``.

    Nodes are numbered in the sorted order of their ids, or in the order of
    ``item_ids`` / ``user_ids``. Ids are compared across tables as text: 7 is ``'7'``.
    They are stored as integers if the interactions have integers and all others are
    written like integers, else as text. A node without a row in a feature table, or
    with nothing but NaN in it, gets a zero row and ``False`` in that modality's mask.

    Args:
        interactions: One row per interaction: a frame of pandas, polars or pyarrow, a
            relation of DuckDB, or another that narwhals reads.
        user: The column of user ids, integers or text. (default: ``'user_id'``)
        item: The column of item ids. (default: ``'item_id'``)
        time: The column of times: numbers are unchanged, dates become int64
            nanoseconds since 1970 (UTC). (default: no times)
        rating: The column of ratings, for ``min_rating``. (default: none)
        min_rating: The lowest rating that counts as an interaction; others are left
            out. (default: all count)
        weight: The column of weights, stored as ``weight`` on the interactions. No
            model uses them. (default: none)
        where: ``{column: value}`` or ``{column: [value, ...]}``: rows with other values
            are left out. Values are compared as text. (default: all rows)
        item_features: ``{modality: table}``: a frame with the column ``item`` (of
            pandas, also with the ids as index) and otherwise numbers, or an array with
            one row for each of ``item_ids``. (default: none)
        user_features: The same for users.
        item_ids: All items, in the order in which to number them.
            (default: the sorted ids of interactions and feature frames)
        user_ids: All users, likewise.
        without_interactions: Whether ids that occur in feature frames only
            become nodes (``'keep'``: cold items can be recommended) or not.
            Unused where the ids are given. (default: ``'keep'``)
        duplicates: ``'error'``, ``'first'``, ``'last'`` or ``'sum'``, as in
            :func:`~promptmm_pyg.data.build_graph`. (default: ``'error'``)

    Raises:
        TypeError: If a table is not a frame.
        ValueError: If a column is missing, an id is missing or neither integer nor
            text, an interaction has an id that is not among the given ones, or a
            feature table repeats an id, is not numeric or has no ids.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    check_choice('without_interactions', without_interactions, ('keep', 'drop'))
    check_choice('duplicates', duplicates, DUPLICATES)
    columns = Columns(user, item, time, rating, weight)
    table = as_table(interactions, 'interactions', columns.names(where))
    rows = read_interactions(table, columns, where=where, min_rating=min_rating)
    keep = without_interactions == 'keep'
    users = _Side('user', user, rows.users, user_ids, user_features, keep)
    items = _Side('item', item, rows.items, item_ids, item_features, keep)
    return build_graph(
        np.stack([users.position, items.position]),
        item_features=items.features,
        user_features=users.features,
        item_masks=items.masks,
        user_masks=users.masks,
        user_ids=users.ids,
        item_ids=items.ids,
        edge_time=rows.time,
        edge_weight=rows.weight,
        duplicates=duplicates,
    )


class _Side:
    """One node type: its ids, and interactions and features by position."""

    def __init__(
        self,
        node_type: str,
        column: str,
        mentioned: IdColumn,
        ids: Ids | None,
        features: Features | None,
        keep: bool,
    ) -> None:
        self.node_type = node_type
        given = None if ids is None else from_ids(f'{node_type}_ids', ids)
        tables = {
            name: self._read(name, column, value, given)
            for name, value in (features or {}).items()
        }
        names = [own for own, _ in tables.values()]
        if given is None:
            first, *others = unify(mentioned.values, names)
            index = sorted_union([first, *(others if keep else [])])
        else:
            first, index, *others = unify(mentioned.values, [given, *names])
        place = positions(first, index)
        if (place < 0).any():
            unknown = first[int((place < 0).argmax())].as_py()
            raise ValueError(
                f"'{node_type}_ids' must contain every {node_type} of the "
                f'interactions (got none like {unknown!r})'
            )
        self.ids = to_raw_ids(index)
        self.position = place[mentioned.codes]
        self.features: dict[str, NumpyArray] = {}
        self.masks: dict[str, NumpyArray] = {}
        for own, (name, (_, x)) in zip(others, tables.items(), strict=True):
            self._align(name, positions(index, own), x)

    def _read(
        self, name: str, column: str, value: Any, ids: 'pa.Array | None'
    ) -> tuple['pa.Array', NumpyArray]:
        """The ids of a feature table and its rows."""
        what = f"{self.node_type}_features['{name}']"
        if isinstance(value, np.ndarray):
            if ids is None or value.ndim != 2 or len(value) != len(ids):
                expected = 'no ids' if ids is None else f'{len(ids)} ids'
                raise ValueError(
                    f'"{what}" is an array, so it must have one row for each of '
                    f"'{self.node_type}_ids' (got shape {list(value.shape)} and "
                    f"{expected}). Pass '{self.node_type}_ids', or a frame with the "
                    f"column '{column}'"
                )
            return ids, value
        if not isinstance(value, Table):
            value = as_table(_with_id_column(value, column), what)
        return feature_rows(value, item_column(value, column))

    def _align(self, name: str, row: NumpyArray, x: NumpyArray) -> None:
        present = row >= 0
        if not present.any():
            raise ValueError(
                f'"{self.node_type}_features[\'{name}\']" must share ids with '
                f'the interactions (got none in common). Compare how they are written'
            )
        # Row -1 stands for no row: whatever is read from it, the mask hides it.
        aligned = np.asarray(x, dtype=np.float32)[row]
        present &= ~np.isnan(aligned).all(axis=1)
        self.features[name] = aligned
        if not present.all():
            self.masks[name] = present


def _with_id_column(frame: Any, column: str) -> Any:
    """The frame, with the index of pandas as its id column if it has no other."""
    if hasattr(frame, 'reset_index') and column not in getattr(frame, 'columns', ()):
        return frame.reset_index(names=column)
    return frame


def feature_rows(table: Table, column: str) -> tuple['pa.Array', NumpyArray]:
    """The ids of a feature table, each once, and its other columns as one matrix.

    Args:
        table: One row per node: numbers, or one column of lists of one length.
        column: The column of ids.

    Raises:
        ValueError: If the column is missing, an id is missing or repeated, or other
            columns are not numbers.
    """
    return unique_ids(table, column), _matrix(table, column)


def unique_ids(table: Table, column: str) -> 'pa.Array':
    """The ids of a table with one row per node.

    Raises:
        ValueError: If the column is missing, or an id is missing or repeated.
    """
    coded = table.ids(column, _ID_OPTION)
    if len(coded.values) < len(coded.codes):
        first = np.unique(coded.codes, return_index=True)[1]
        row = int(np.setdiff1d(np.arange(len(coded.codes)), first)[0])
        raise ValueError(
            f'{table.name!r} must contain each id once (got '
            f'{coded.values[int(coded.codes[row])].as_py()!r} again in '
            f'{table.at(row)}). Drop or average the repeated rows'
        )
    return coded.values.take(coded.codes)


_ID_OPTION = "'item' (--item-column)"


def _matrix(table: Table, column: str) -> NumpyArray:
    """All columns but that of the ids, as numbers."""
    names = [name for name in table.columns if name != column]
    if len(names) == 1:
        lists = _list_rows(table, names[0])
        if lists is not None:
            return lists
    x = np.empty((len(table), len(names)), dtype=np.float32)
    texts = []
    for i, name in enumerate(names):
        try:
            x[:, i] = table.numbers(name)
        except ValueError:
            texts.append(name)
    if texts or not names:
        raise ValueError(
            f"{table.name!r} must have numeric columns only beside '{column}' (got "
            f'{texts[:10]}). Turn them into numbers, or encode texts with '
            f"'encode_content' (--text FILE:COLUMN)"
        )
    return x


def _list_rows(table: Table, name: str) -> NumpyArray | None:
    """A column of lists as a matrix; ``None`` if it has no lists."""
    import pyarrow as pa

    cells = table.data.column(name)
    kind = cells.type
    if not (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    ):
        return None
    rows = cells.to_pylist()
    width = max((len(row) for row in rows if row is not None), default=0)
    empty = [np.nan] * width  # A missing row.
    try:
        return np.array([row or empty for row in rows], dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'{table.name!r} must contain lists of numbers of one length in the '
            f"column '{name}' (got {error})"
        ) from error


def read_table(
    path: str | Path,
    *,
    user: str = 'user_id',
    item: str = 'item_id',
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    weight: str | None = None,
    where: Where | None = None,
    features: Mapping[str, str | Path] | None = None,
    item_ids: Ids | None = None,
    without_interactions: Literal['keep', 'drop'] = 'keep',
    duplicates: Duplicates = 'error',
    separator: str | None = None,
    encoding: str | None = None,
) -> HeteroData:
    """Returns the graph, not split, of a table of interactions on disk.

    Ids in CSV, TSV and TXT are text, exactly as written: ``007`` is not ``7``.

    Args:
        path: A ``.csv``, ``.tsv``, ``.txt`` or ``.jsonl`` file (also with ``.gz`` or
            ``.zst``), or ``.parquet``; one row per interaction.
        user: The column of user ids. (default: ``'user_id'``)
        item: The column of item ids, here and in feature tables.
            (default: ``'item_id'``)
        time: The column of times: numbers or dates, in a text as in ISO 8601
            (``2026-03-01 17:30``). (default: no times)
        rating: As in :func:`~promptmm_pyg.data.from_frame`. (default: none)
        min_rating: As in :func:`~promptmm_pyg.data.from_frame`.
            (default: all count)
        weight: As in :func:`~promptmm_pyg.data.from_frame`. (default: none)
        where: As in :func:`~promptmm_pyg.data.from_frame`. (default: all rows)
        features: ``{modality: file}``, relative to the table's folder: a
            table with the ``item`` column and numbers (or, in Parquet and JSON
            lines, one column of lists), or an ``.npy`` with one row for
            each of ``item_ids``. (default: none)
        item_ids: All items, in the order of the ``.npy`` rows.
            (default: the sorted ids found)
        without_interactions: As in :func:`~promptmm_pyg.data.from_frame`.
            (default: ``'keep'``)
        duplicates: ``'error'``, ``'first'``, ``'last'`` or ``'sum'``, as in
            :func:`~promptmm_pyg.data.build_graph`. (default: ``'error'``)
        separator: The character between the cells of ``path``.
            (default: recognized among comma, tab, semicolon and ``|``)
        encoding: The encoding of all texts, such as ``'cp1252'``.
            (default: ``'utf-8'``)

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or of another kind, or the tables do
            not fit together. Messages name file and line.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    path = Path(path)
    columns = Columns(user, item, time, rating, weight).names(where)
    table = read_file(path, columns, separator=separator, encoding=encoding)
    tables = {
        name: load_item_features(path.parent / file, encoding)
        for name, file in (features or {}).items()
    }
    return from_frame(
        table,
        user=user,
        item=item,
        time=time,
        rating=rating,
        min_rating=min_rating,
        weight=weight,
        where=where,
        item_features=tables,
        item_ids=item_ids,
        without_interactions=without_interactions,
        duplicates=duplicates,
    )


def load_item_features(path: Path, encoding: str | None = None) -> Table | NumpyArray:
    """Features in an ``.npy`` file, or a table of them.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or of another kind.
    """
    if path.suffix == '.npy':
        return load_array(path)
    return read_file(path, encoding=encoding)
