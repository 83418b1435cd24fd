"""Graphs from data frames and from single tables on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.build import DUPLICATES, Duplicates, Ids, build_graph
from promptmm_pyg.data.columns import parse_column
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
    split_column: str | None = None,
    val: Any = None,
    test: Any = None,
    item_features: Features | None = None,
    user_features: Features | None = None,
    item_table: Any = None,
    item_columns: Sequence[str] = (),
    user_table: Any = None,
    user_columns: Sequence[str] = (),
    list_separator: str | None = None,
    drop_columns: Sequence[str] = (),
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
        split_column: The column of parts of a given split (``train``, ``val`` or
            ``valid`` or ``validation``, ``test``), stored as ``part`` on the
            interactions for :func:`~promptmm_pyg.data.split_by_part`. (default: none)
        val: The interactions for validation, a frame like ``interactions``, which then
            has those for training; stored likewise. (default: none)
        test: The interactions for test, likewise. (default: none)
        item_features: ``{modality: table}``: a frame with the column ``item`` (of
            pandas, also with the ids as index) and otherwise numbers, or an array with
            one row for each of ``item_ids``. (default: none)
        user_features: The same for users.
        item_table: A frame with the column ``item`` and ``item_columns``.
            (default: ``interactions``, where the first value of an item counts)
        item_columns: Columns that become a modality each: numbers as they are, lists of
            numbers as vectors, other values as categories (one column each up to 64,
            beyond hashed with signs). ``'zip:category'`` names the kind where it is not
            recognized. (default: none)
        user_table: The same for users.
        user_columns: The same for users.
        list_separator: The character between several categories of one cell.
            (default: a cell is one category)
        drop_columns: Columns of feature tables to leave out. (default: none)
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
    columns = Columns(user, item, time, rating, weight, split_column)
    table = _with_columns(
        interactions, columns.names(where), item_columns, user_columns
    )
    rows = _read_rows(table, columns, where, min_rating, {VAL: val, TEST: test})
    drop = DroppedColumns(drop_columns)
    keep = without_interactions == 'keep'
    users = Nodes('user', user, rows.users, user_ids, keep=keep, drop=drop)
    items = Nodes('item', item, rows.items, item_ids, keep=keep, drop=drop)
    users.add_features(user_features)
    items.add_features(item_features)
    for nodes, own, names in (
        (users, user_table, user_columns),
        (items, item_table, item_columns),
    ):
        own = table if own is None else as_table(own, f'{nodes.node_type}_table')
        nodes.add_columns(own, names, list_separator)
    drop.check()
    users.align()
    items.align()
    data = build_graph(
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
    data.feature_columns, data.column_encodings = {}, {}
    users.describe(data)
    items.describe(data)
    return data


def _with_columns(frame: Any, names: Sequence[str], *columns: Sequence[str]) -> Table:
    """The table of interactions with columns of users and items, if it has them."""
    every = [name for group in columns for name in group]
    every += [parse_column(name)[0] for name in every]
    return as_table(frame, 'interactions', [*names, *every])


def _read_rows(
    table: Table,
    columns: Columns,
    where: Where | None,
    min_rating: float | None,
    others: Mapping[int, Any],
) -> Interactions:
    """The interactions of one table, or of one table per part."""
    options: dict[str, Any] = {'where': where, 'min_rating': min_rating}
    if all(frame is None for frame in others.values()):
        return read_interactions(table, columns, **options)
    if columns.part is not None:
        raise ValueError(
            f"'split_column' (--split-column) must be left out with 'val' and 'test' "
            f'(--val-file, --test-file) (got {columns.part!r})'
        )
    parts = {TRAIN: read_interactions(table, columns, **options)}
    for code, frame in others.items():
        if frame is not None:
            other = as_table(frame, PARTS[code], columns.names(where))
            parts[code] = read_interactions(
                other, columns, may_be_empty=True, **options
            )
    return join_parts(parts)


_COLUMNS = {name: name for name in ('user', 'item', 'time', 'rating', 'weight')}
_COLUMNS['part'] = 'split_column'


def read_table(
    path: str | Path | Any,
    *,
    val: str | Path | Any = None,
    test: str | Path | Any = None,
    features: Mapping[str, Any] | None = None,
    user_features: Mapping[str, Any] | None = None,
    item_table: str | Path | Any = None,
    user_table: str | Path | Any = None,
    padding_row: bool = False,
    separator: str | None = None,
    encoding: str | None = None,
    **options: Any,
) -> HeteroData:
    """Returns the graph, not split, of a table of interactions on disk.

    Ids in CSV, TSV and TXT are text, exactly as written: ``007`` is not ``7``. Each
    file may also be a frame.

    Args:
        path: A ``.csv``, ``.tsv``, ``.txt`` or ``.jsonl`` file (also with ``.gz`` or
            ``.zst``), or ``.parquet``; one row per interaction.
        val: A file of interactions for validation, as in
            :func:`~promptmm_pyg.data.from_frame`. (default: none)
        test: A file of interactions for test. (default: none)
        features: Item features ``{modality: file}``, relative to the table's folder: a
            table with the ``item`` column and numbers (or, in Parquet and JSON lines,
            one column of lists), or an ``.npy`` with one row for each of
            ``item_ids``. (default: none)
        user_features: The same for users.
        item_table: A file with ``item_columns``. (default: ``path``)
        user_table: A file with ``user_columns``. (default: ``path``)
        padding_row: Whether the first row of ``.npy`` features is padding, which is
            left out. (default: ``False``)
        separator: The character between the cells of the tables of interactions.
            (default: recognized among comma, tab, semicolon and ``|``)
        encoding: The encoding of all texts, such as ``'cp1252'``.
            (default: ``'utf-8'``)
        **options: Further options of :func:`~promptmm_pyg.data.from_frame`: columns,
            ``min_rating``, ``where``, ``duplicates`` and others.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or of another kind, or the tables do
            not fit together. Messages name file and line.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    chosen = {key: options[name] for key, name in _COLUMNS.items() if name in options}
    columns = Columns(**chosen).names(options.get('where'))
    own = [*options.get('item_columns', ()), *options.get('user_columns', ())]
    own += [parse_column(name)[0] for name in own]
    base, source = Path(), path
    if isinstance(path, str | Path):
        base, source = Path(path).parent, Path(path).name

    def read(file: Any, names: Sequence[str] | None, cells: str | None) -> Any:
        if not isinstance(file, str | Path):
            return file
        return read_file(base / file, names, separator=cells, encoding=encoding)

    def read_features(files: Mapping[str, Any] | None) -> Features:
        return {
            name: load_feature_file(base / file, encoding, padding_row)
            if isinstance(file, str | Path)
            else file
            for name, file in (files or {}).items()
        }

    return from_frame(
        read(source, [*columns, *own], separator),
        val=read(val, columns, separator),
        test=read(test, columns, separator),
        item_features=read_features(features),
        user_features=read_features(user_features),
        item_table=read(item_table, None, None),
        user_table=read(user_table, None, None),
        **options,
    )
