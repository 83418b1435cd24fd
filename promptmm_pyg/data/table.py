"""Single tables in CSV or Parquet files."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg.data.build import Duplicates, Ids
from promptmm_pyg.data.feature_files import load_array
from promptmm_pyg.data.frames import from_frame

if TYPE_CHECKING:
    import pandas as pd

_READABLE = ('.csv', '.parquet')


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
        path: A ``.csv`` or ``.parquet`` file, one row an interaction.
        user: The column of user ids. (default: ``'user_id'``)
        item: The column of item ids, here and in feature tables.
            (default: ``'item_id'``)
        time: The column of times: numbers or dates, which have to be written as
            in ISO 8601 (``2026-03-01 17:30``) in CSV. (default: no times)
        features: ``{modality: file}``, relative to the table's folder: a
            ``.csv`` or ``.parquet`` with the ``item`` column and numbers (or,
            in Parquet, one column of lists), or an ``.npy`` with one row for
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
    frame = _load_frame(path)
    if path.suffix == '.csv' and time is not None and time in frame.columns:
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
    if path.suffix == '.csv' and path.is_file():
        with path.open(encoding='utf-8-sig', newline='') as file:
            return next(csv.reader(file), [])
    return [str(column) for column in _load_frame(path).columns]


def _load_frame(path: Path) -> 'pd.DataFrame':
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "'read_table' requires 'pandas'. Install it with "
            "'pip install promptmm_pyg[frames]'"
        ) from error
    if path.suffix not in _READABLE:
        raise ValueError(f"'{path}' must end in .csv or .parquet")
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' must be a file (got none)")
    reader = pd.read_csv if path.suffix == '.csv' else pd.read_parquet
    try:
        frame: pd.DataFrame = reader(path)
    except (ValueError, OSError) as error:  # Both libraries' own derive of these.
        raise ValueError(
            f"'{path}' must be a whole {path.suffix} table (got {error}). If it is "
            f'truncated, fetch the file again'
        ) from error
    return frame


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
    frame = _load_frame(path)
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
