"""Graphs from data frames and from single tables on disk."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.build import DUPLICATES, Duplicates, Ids, build_graph
from promptmm_pyg.data.columns import parse_column
from promptmm_pyg.data.features import Masks
from promptmm_pyg.data.interactions import (
    Columns,
    Interactions,
    Where,
    join_parts,
    read_interactions,
)
from promptmm_pyg.data.nodes import DroppedColumns, Features, Nodes, load_feature_file
from promptmm_pyg.data.split import PARTS, TEST, TRAIN, VAL
from promptmm_pyg.data.tables import Table, as_table, read_file


def read_table(
    path: str | Path | Any,
    *,
    user: str = 'user_id',
    item: str = 'item_id',
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    weight: str | None = None,
    where: Where | None = None,
    split_column: str | None = None,
    val: str | Path | Any = None,
    test: str | Path | Any = None,
    features: Features | None = None,
    user_features: Features | None = None,
    item_table: str | Path | Any = None,
    item_columns: Sequence[str] = (),
    user_table: str | Path | Any = None,
    user_columns: Sequence[str] = (),
    list_separator: str | None = None,
    drop_columns: Sequence[str] = (),
    padding_row: bool = False,
    masks: Masks = 'zero-rows',
    item_ids: Ids | None = None,
    user_ids: Ids | None = None,
    without_interactions: Literal['keep', 'drop'] = 'keep',
    duplicates: Duplicates = 'error',
    separator: str | None = None,
    encoding: str | None = None,
) -> HeteroData:
    """Returns the graph, not split, of a table of interactions: a file or a frame.

    Nodes are numbered in the sorted order of their ids, or in the order of
    ``item_ids`` / ``user_ids``; raw ids are their ``raw_id``. Ids in CSV, TSV and TXT
    are text, exactly as written: ``007`` is not ``7``. Ids are compared across tables
    as text: 7 is ``'7'``. They are stored as integers if the interactions have integers
    and all others are written like integers, else as text. A node without a row in a
    feature table, or with nothing but NaN in it, gets a zero row and ``False`` in that
    modality's mask.

    Args:
        path: One row per interaction: a ``.csv``, ``.tsv``, ``.txt`` or ``.jsonl`` file
            (also with ``.gz`` or ``.zst``), or ``.parquet``; or a frame of pandas,
            polars or pyarrow, a relation of DuckDB, a ``datasets.Dataset``, or another
            that narwhals reads.
            All other tables may also be files, relative to the folder of this one, or
            frames.
        user: The column of user ids, integers or text. (default: ``'user_id'``)
        item: The column of item ids. (default: ``'item_id'``)
        time: The column of times: numbers are unchanged, dates become int64
            nanoseconds since 1970 (UTC). (default: no times)
        rating: The column of ratings, for ``min_rating``. (default: none)
        min_rating: As in :func:`~promptmm_pyg.data.load_dataset`. (default: none)
        weight: As in :func:`~promptmm_pyg.data.load_dataset`. (default: none)
        where: As in :func:`~promptmm_pyg.data.load_dataset`; values are compared as
            text. (default: all rows)
        split_column: As in :func:`~promptmm_pyg.data.load_dataset`; stored as ``part``
            on the interactions for :func:`~promptmm_pyg.data.split_by_part`.
            (default: none)
        val: The interactions for validation; ``path`` then has those for training;
            stored likewise. (default: none)
        test: The interactions for test, likewise. (default: none)
        features: Item features ``{modality: table}``: a table with the column ``item``
            (of pandas, also with the ids as index) and otherwise numbers (or, in
            Parquet and JSON lines, one column of lists), or an array or ``.npy`` with
            one row for each of ``item_ids``. (default: none)
        user_features: The same for users.
        item_table: A table with the column ``item`` and ``item_columns``.
            (default: ``path``, where the first value of an item counts)
        item_columns: Columns that become a modality each: numbers as they are, lists of
            numbers as vectors, other values as categories (one column each up to 64,
            beyond hashed with signs). ``'zip:category'`` names the kind where it is not
            recognized. (default: none)
        user_table: The same for users.
        user_columns: The same for users.
        list_separator: As in :func:`~promptmm_pyg.data.load_dataset`. (default: none)
        drop_columns: Columns of feature tables to leave out. (default: none)
        padding_row: As in :func:`~promptmm_pyg.data.load_dataset`.
            (default: ``False``)
        masks: As in :func:`~promptmm_pyg.data.load_dataset`.
            (default: ``'zero-rows'``)
        item_ids: All items, in the order in which to number them.
            (default: the sorted ids of interactions and feature tables)
        user_ids: All users, likewise.
        without_interactions: Whether ids that occur in feature tables only
            become nodes (``'keep'``: cold items can be recommended) or not.
            Unused where the ids are given. (default: ``'keep'``)
        duplicates: ``'error'``, ``'first'``, ``'last'`` or ``'sum'``, as in
            :func:`~promptmm_pyg.data.build_graph`. (default: ``'error'``)
        separator: The character between the cells of the tables of interactions.
            (default: recognized among comma, tab, semicolon and ``|``)
        encoding: The encoding of all texts, such as ``'cp1252'``.
            (default: ``'utf-8'``)

    Raises:
        FileNotFoundError: If a file is missing.
        TypeError: If a table is neither a file nor a frame.
        ValueError: If a file is damaged or of another kind, a column is missing, an id
            is missing or neither integer nor text, an interaction has an id that is not
            among the given ones, or a feature table repeats an id, is not numeric or
            has no ids. Messages name file and line.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    check_choice('without_interactions', without_interactions, ('keep', 'drop'))
    check_choice('duplicates', duplicates, DUPLICATES)
    columns = Columns(user, item, time, rating, weight, split_column)
    names = columns.names(where)
    own = [*item_columns, *user_columns]
    own += [parse_column(name)[0] for name in own]
    base, source = Path(), path
    if isinstance(path, str | Path):
        base, source = Path(path).parent, Path(path).name

    def read(
        table: Any, name: str, columns: Sequence[str] | None, cells: str | None
    ) -> Table:
        if not isinstance(table, str | Path):
            return as_table(table, name, columns)
        return read_file(base / table, columns, separator=cells, encoding=encoding)

    table = read(source, 'interactions', [*names, *own], separator)
    parts = {
        code: read(part, PARTS[code], names, separator)
        for code, part in ((VAL, val), (TEST, test))
        if part is not None
    }
    rows = _read_rows(table, parts, columns, where, min_rating)
    drop = DroppedColumns(drop_columns)
    keep = without_interactions == 'keep'
    users = Nodes('user', user, rows.users, user_ids, keep=keep, drop=drop)
    items = Nodes('item', item, rows.items, item_ids, keep=keep, drop=drop)
    for nodes, files in ((users, user_features), (items, features)):
        nodes.add_features(
            {
                name: load_feature_file(base / file, encoding, padding_row, masks)
                if isinstance(file, str | Path)
                else file
                for name, file in (files or {}).items()
            }
        )
    for nodes, other, encoded in (
        (users, user_table, user_columns),
        (items, item_table, item_columns),
    ):
        if other is not None:
            other = read(other, f'{nodes.node_type}_table', None, None)
        nodes.add_columns(table if other is None else other, encoded, list_separator)
    drop.check()
    users.align()
    items.align()
    tables = [*(features or {}).values(), *(user_features or {}).values()]
    with _naming(source, [*tables, item_table, user_table]):
        data = _build(users, items, rows, duplicates)
    data.feature_columns, data.column_encodings = {}, {}
    users.describe(data)
    items.describe(data)
    return data


def _build(
    users: Nodes, items: Nodes, rows: Interactions, duplicates: Duplicates
) -> HeteroData:
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
        edge_part=rows.part,
        duplicates=duplicates,
    )


@contextmanager
def _naming(source: Any, others: Sequence[Any]) -> Iterator[None]:
    """Errors name the files of the tables."""
    names = [f"'{x}'" for x in (source, *others) if isinstance(x, str | Path)]
    try:
        yield
    except ValueError as error:
        if not names:
            raise
        raise ValueError(f'{" with ".join(names)}: {error}') from error


def _read_rows(
    table: Table,
    others: Mapping[int, Table],
    columns: Columns,
    where: Where | None,
    min_rating: float | None,
) -> Interactions:
    """The interactions of one table, or of one table per part."""
    rows = read_interactions(table, columns, where=where, min_rating=min_rating)
    if not others:
        return rows
    if columns.part is not None:
        raise ValueError(
            f"'split_column' (--split-column) must be left out with 'val' and 'test' "
            f'(--val-file, --test-file) (got {columns.part!r})'
        )
    parts = {TRAIN: rows}
    for code, other in others.items():
        parts[code] = read_interactions(
            other, columns, where=where, min_rating=min_rating, may_be_empty=True
        )
    return join_parts(parts)
