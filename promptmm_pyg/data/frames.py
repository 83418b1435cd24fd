"""Graphs from data frames and from single tables on disk."""

import csv
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.build import (
    Duplicates,
    Ids,
    as_raw_ids,
    build_graph,
    first_mentions,
    first_repeat,
)
from promptmm_pyg.data.features import load_array

if TYPE_CHECKING:
    import pandas as pd

NumpyArray = np.ndarray[Any, Any]
Features = Mapping[str, 'pd.DataFrame | NumpyArray']


def from_frame(
    interactions: 'pd.DataFrame',
    *,
    user: str = 'user_id',
    item: str = 'item_id',
    time: str | None = None,
    item_features: Features | None = None,
    user_features: Features | None = None,
    item_ids: Ids | None = None,
    user_ids: Ids | None = None,
    without_interactions: Literal['keep', 'drop'] = 'keep',
    duplicates: Duplicates = 'error',
) -> HeteroData:
    """Returns the graph of a table of interactions, raw ids kept as ``raw_id``.

    Nodes are numbered in the sorted order of their ids, or in the order of
    ``item_ids`` / ``user_ids``. A node that a feature table has no row for, or
    whose row is NaN throughout, gets a zero row and ``False`` in that
    modality's mask.

    Args:
        interactions: One row an interaction.
        user: The column of user ids, integers or strings.
            (default: ``'user_id'``)
        item: The column of item ids. (default: ``'item_id'``)
        time: The column of times: numbers are kept, dates become int64
            nanoseconds since 1970 (UTC). (default: no times)
        item_features: ``{modality: table}``: a frame indexed by raw id, all
            columns numeric, or an array with one row for each of ``item_ids``.
            (default: none)
        user_features: The same for users.
        item_ids: All items, in the order in which to number them.
            (default: the sorted ids of interactions and feature frames)
        user_ids: All users, likewise.
        without_interactions: Whether ids that occur in feature frames only
            become nodes (``'keep'``: cold items can be recommended) or not.
            Unused where the ids are given. (default: ``'keep'``)
        duplicates: ``'error'`` or ``'drop'``, as in
            :func:`~promptmm_pyg.data.build_graph`. (default: ``'error'``)

    Raises:
        ValueError: If a column is missing, ids are missing or of mixed types,
            an interaction names an id that is not among the given ones, or a
            feature table repeats an id, is not numeric or has no ids.
    """
    check_choice('without_interactions', without_interactions, ('keep', 'drop'))
    for column in [user, item] + ([] if time is None else [time]):
        if column not in interactions.columns:
            raise ValueError(
                f"'interactions' must have a column '{column}' (got "
                f'{list(interactions.columns)}). Name yours with user=, item=, time= '
                f'(--user-column, --item-column, --time-column)'
            )
    if interactions.empty:
        raise ValueError(
            "'interactions' must contain at least one row (got none below its head)"
        )
    keep = without_interactions == 'keep'
    users = _Side('user', interactions[user], user_ids, user_features, keep)
    items = _Side('item', interactions[item], item_ids, item_features, keep)
    pairs = np.stack([users.position, items.position])
    if duplicates == 'error':
        _check_unique(pairs, users.ids, items.ids)
    return build_graph(
        pairs,
        item_features=items.features,
        user_features=users.features,
        item_masks=items.masks,
        user_masks=users.masks,
        user_ids=users.ids,
        item_ids=items.ids,
        edge_time=None if time is None else _time_of(time, interactions[time]),
        duplicates=duplicates,
    )


def _check_unique(pairs: NumpyArray, user_ids: Ids, item_ids: Ids) -> None:
    """Raises as :func:`build_graph` would, but names the pair by its raw ids."""
    kept = first_mentions(torch.from_numpy(pairs).long(), len(item_ids))
    row = first_repeat(pairs.shape[1], kept)
    if row is not None:
        repeats = pairs.shape[1] - kept.numel()
        user, item = user_ids[pairs[0, row]], item_ids[pairs[1, row]]
        raise ValueError(
            f"'interactions' must contain each pair once (got {repeats} repeated, the "
            f"first is user {user}, item {item}). Pass duplicates='drop' (--duplicates "
            f'drop) to keep the first mention'
        )


class _Side:
    """One node type: its ids, and interactions and features by position."""

    def __init__(
        self,
        node_type: str,
        column: 'pd.Series[Any]',
        ids: Ids | None,
        features: Features | None,
        keep: bool,
    ) -> None:
        import pandas as pd

        self.node_type = node_type
        mentioned = _id_values(f"interactions['{column.name}']", column)
        tables = {
            name: self._table(name, value, ids)
            for name, value in (features or {}).items()
        }
        if ids is None:
            extra = [frame.index.to_numpy() for frame in tables.values()]
            ids = _union([mentioned, *(extra if keep else [])], node_type)
        self.ids = as_raw_ids(f'{node_type}_ids', ids, len(ids))
        index = pd.Index(self.ids)
        self.position = index.get_indexer(pd.Index(mentioned))
        if (self.position < 0).any():
            stranger = mentioned[self.position < 0][0]
            raise ValueError(
                f"'{node_type}_ids' must contain every {node_type} of the "
                f'interactions (got none like {stranger!r}). Compare the types too: '
                f"1 is not '1'"
            )
        self.features: dict[str, NumpyArray] = {}
        self.masks: dict[str, NumpyArray] = {}
        for name, frame in tables.items():
            self._align(name, frame, index)

    def _table(
        self, name: str, value: 'pd.DataFrame | NumpyArray', ids: Ids | None
    ) -> 'pd.DataFrame':
        import pandas as pd

        what = f"{self.node_type}_features['{name}']"
        if isinstance(value, np.ndarray):
            if ids is None or value.ndim != 2 or len(value) != len(ids):
                expected = 'no ids' if ids is None else f'{len(ids)} ids'
                raise ValueError(
                    f'"{what}" is an array, so it must have one row for each of '
                    f"'{self.node_type}_ids' (got shape {list(value.shape)} and "
                    f"{expected}). Pass '{self.node_type}_ids', or a frame indexed "
                    f'by raw id'
                )
            return pd.DataFrame(value, index=pd.Index(np.asarray(ids)))
        keys = _id_values(f'{what}.index', value.index.to_series())
        if value.index.has_duplicates:
            twice = value.index[value.index.duplicated()][0]
            raise ValueError(
                f'"{what}" must contain each id once in its index (got {twice!r} '
                f'again). Drop or average the repeated rows'
            )
        strange = [str(c) for c, t in value.dtypes.items() if t.kind not in 'biuf']
        if strange:
            raise ValueError(
                f'"{what}" must have numeric columns only (got {strange}). Turn '
                f'them into numbers, and put the ids into the index; texts are for '
                f"'encode_content' (--text FILE:COLUMN)"
            )
        return value.set_axis(pd.Index(keys), axis=0)

    def _align(self, name: str, frame: 'pd.DataFrame', index: 'pd.Index[Any]') -> None:
        row = frame.index.get_indexer(index)
        values = frame.to_numpy(dtype=np.float32, na_value=np.nan)
        there = row >= 0
        if not there.any():
            raise ValueError(
                f'"{self.node_type}_features[\'{name}\']" must share ids with '
                f'the interactions (got none in common). Compare the types too: 1 is '
                f"not '1'"
            )
        # Row -1 stands for no row: whatever is taken for it, the mask hides it.
        aligned = values[row]
        there &= ~np.isnan(aligned).all(axis=1)
        self.features[name] = aligned
        if not there.all():
            self.masks[name] = there


def _id_values(what: str, column: 'pd.Series[Any]') -> NumpyArray:
    if bool(column.isna().any()):
        raise ValueError(
            f'"{what}" must contain an id in each row (got '
            f'{int(column.isna().sum())} missing). Drop those rows'
        )
    values = column.to_numpy()
    if values.dtype.kind == 'O' and all(isinstance(x, str) for x in values):
        values = values.astype(np.str_)
    if values.dtype.kind not in 'iuU':
        raise ValueError(
            f'"{what}" must contain integers or strings (got {column.dtype}). '
            f"Convert it with '.astype(int)' or '.astype(str)'"
        )
    return values


def _union(parts: list[NumpyArray], node_type: str) -> NumpyArray:
    # An index of strings comes out of pandas as objects.
    parts = [x.astype(np.str_) if x.dtype.kind == 'O' else x for x in parts]
    if len({part.dtype.kind == 'U' for part in parts}) > 1:
        raise ValueError(
            f"'{node_type}_features' must have ids of the interactions' type "
            f"(got integers and strings). Convert one side with '.astype(str)'"
        )
    return np.unique(np.concatenate(parts))


def _time_of(name: str, column: 'pd.Series[Any]') -> NumpyArray:
    import pandas as pd

    if bool(column.isna().any()):
        raise ValueError(
            f'"interactions[\'{name}\']" must contain a time in each row (got '
            f'{int(column.isna().sum())} missing). Drop or fill those rows'
        )
    if pd.api.types.is_datetime64_any_dtype(column):
        utc = pd.to_datetime(column, utc=True).dt.tz_localize(None)
        return utc.to_numpy(dtype='datetime64[ns]').astype(np.int64)
    if not pd.api.types.is_numeric_dtype(column):
        raise ValueError(
            f'"interactions[\'{name}\']" must contain numbers or dates (got '
            f"{column.dtype}). Convert it with 'pandas.to_datetime'"
        )
    return column.to_numpy()


_DELIMITERS = {'.csv': ',', '.tsv': '\t'}


def read_table(
    path: str | Path,
    *,
    user: str = 'user_id',
    item: str = 'item_id',
    time: str | None = None,
    features: Mapping[str, str | Path] | None = None,
    item_ids: Ids | None = None,
    without_interactions: Literal['keep', 'drop'] = 'keep',
    duplicates: Duplicates = 'error',
) -> HeteroData:
    """Returns the graph, not split, of a table of interactions on disk.

    Types in CSV are guessed: an id ``007`` becomes 7. Keep such ids in Parquet.

    Args:
        path: A ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl`` file, one row per
            interaction.
        user: The column of user ids. (default: ``'user_id'``)
        item: The column of item ids, here and in feature tables.
            (default: ``'item_id'``)
        time: The column of times: numbers or dates, which have to be written as
            in ISO 8601 (``2026-03-01 17:30``) outside of Parquet. (default: no times)
        features: ``{modality: file}``, relative to the table's folder: a
            table with the ``item`` column and numbers (or, in Parquet and JSON
            lines, one column of lists), or an ``.npy`` with one row for
            each of ``item_ids``. (default: none)
        item_ids: All items, in the order of the ``.npy`` rows.
            (default: the sorted ids found)
        without_interactions: As in :func:`~promptmm_pyg.data.from_frame`.
            (default: ``'keep'``)
        duplicates: ``'error'`` or ``'drop'``. (default: ``'error'``)

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or of another kind, or the tables do
            not fit together.
        ImportError: If pandas (for Parquet, pyarrow too) is not installed.
    """
    path = Path(path)
    tables = {
        name: load_item_features(path.parent / file, item)
        for name, file in (features or {}).items()
    }
    frame = load_frame(path)
    if path.suffix != '.parquet' and time is not None and time in frame.columns:
        frame = frame.assign(**{time: _as_dates(path, frame[time])})
    return from_frame(
        frame,
        user=user,
        item=item,
        time=time,
        item_features=tables,
        item_ids=item_ids,
        without_interactions=without_interactions,
        duplicates=duplicates,
    )


def read_columns(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or of another kind.
    """
    if path.suffix in _DELIMITERS and path.is_file():
        with path.open(encoding='utf-8-sig', newline='') as file:
            return next(csv.reader(file, delimiter=_DELIMITERS[path.suffix]), [])
    return [str(column) for column in load_frame(path).columns]


def load_frame(path: Path, caller: str = 'read_table') -> 'pd.DataFrame':
    """The frame of a table on disk, by its suffix.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or of another kind.
        ImportError: If pandas (for Parquet, pyarrow too) is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            f"'{caller}' requires 'pandas'. Install it with "
            f"'pip install promptmm_pyg[frames]'"
        ) from error
    readers: dict[str, Callable[[Path], Any]] = {
        '.csv': pd.read_csv,
        '.tsv': partial(pd.read_csv, sep='\t'),
        '.parquet': pd.read_parquet,
        '.jsonl': _read_json_lines,
    }
    if path.suffix not in readers:
        raise ValueError(f"'{path}' must end in one of {', '.join(readers)}")
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' must be a file (got none)")
    try:
        frame: pd.DataFrame = readers[path.suffix](path)
    except (ValueError, OSError) as error:  # Both libraries' own derive of these.
        raise ValueError(
            f"'{path}' must be a whole {path.suffix} table (got {error}). If it is "
            f'truncated, fetch the file again'
        ) from error
    return frame


def _read_json_lines(path: Path) -> 'pd.DataFrame':
    import pandas as pd

    # Not by pandas' reader, which makes numbers and dates of texts.
    with path.open(encoding='utf-8-sig') as file:
        return pd.DataFrame([json.loads(line) for line in file if line.strip()])


def _as_dates(path: Path, column: 'pd.Series[Any]') -> 'pd.Series[Any]':
    """The column itself, or its dates if it holds text."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column) or column.empty:
        return column
    dates = pd.to_datetime(column, utc=True, format='ISO8601', errors='coerce')
    wrong = column[dates.isna() & column.notna()]
    if len(wrong):
        raise ValueError(
            f"'{path}' must contain numbers or dates like '2026-03-01 17:30' in the "
            f"column '{column.name}' (got '{wrong.iloc[0]}' in row {wrong.index[0] + 1}"
            f', {len(wrong)} such rows in all). Write dates as in ISO 8601'
        )
    return dates


def load_item_features(path: Path, item: str) -> 'pd.DataFrame | np.ndarray[Any, Any]':
    """Features in an ``.npy`` file, or those of a table with its item column as index.

    Raises:
        ValueError: If the file is damaged or of another kind, or lacks the column.
    """
    if path.suffix == '.npy':
        return load_array(path)
    frame = load_frame(path)
    if item not in frame.columns:
        raise ValueError(
            f"'{path}' must have a column '{item}' (got {list(frame.columns)})"
        )
    frame = frame.set_index(item)
    texts = frame.shape[1] == 1 and isinstance(next(iter(frame.iloc[:, 0]), ''), str)
    if frame.shape[1] == 1 and frame.dtypes.iloc[0].kind == 'O' and not texts:
        return _expand_lists(path, frame)
    return frame


def _expand_lists(path: Path, frame: 'pd.DataFrame') -> 'pd.DataFrame':
    import pandas as pd

    try:
        rows = np.stack([np.asarray(row) for row in frame.iloc[:, 0]])
    except ValueError as error:
        raise ValueError(
            f"'{path}' must contain lists of one length (got {error})"
        ) from error
    return pd.DataFrame(rows, index=frame.index)
