"""MMRec's tab-separated interactions."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_REQUIRED = ('userID', 'itemID', 'x_label')


class InterTable(NamedTuple):
    """The columns of an ``.inter`` file that matter here."""

    pairs: np.ndarray[Any, Any]  # [2, E]
    part: np.ndarray[Any, Any]  # [E], 0 train, 1 validation, 2 test
    time: np.ndarray[Any, Any] | None  # [E]


def find_inter_file(folder: Path) -> Path:
    """The one ``.inter`` file of a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there is more than one.
    """
    found = sorted(folder.glob('*.inter'))
    if not found:
        names = sorted(path.name for path in folder.iterdir())
        raise FileNotFoundError(
            f"'{folder}' must contain one '<name>.inter' (got {names})"
        )
    if len(found) > 1:
        raise ValueError(
            f"'{folder}' must contain one '<name>.inter' (got "
            f'{[path.name for path in found]}). Keep one'
        )
    return found[0]


def read_inter_file(path: Path) -> InterTable:
    """The pairs, parts and times of an ``.inter`` file.

    Raises:
        ValueError: If a column is missing, a row is short or not numeric, ids
            are not whole or ``x_label`` is not 0, 1 or 2.
    """
    with path.open(encoding='utf-8') as file:
        header = file.readline().rstrip('\r\n').split('\t')
        first = file.readline()
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise ValueError(
            f"'{path}' must have tab-separated columns {list(_REQUIRED)} (got "
            f'{header}, without {missing}). Read a table that has no split with '
            f"'read_table'"
        )
    if not first.strip():
        raise ValueError(f"'{path}' must contain interactions (got none)")
    names = [*_REQUIRED, *(['timestamp'] if 'timestamp' in header else [])]
    columns = _columns(path, [header.index(name) for name in names], len(header))
    whole = columns[:3].astype(np.int64)
    if (whole != columns[:3]).any() or not np.isin(whole[2], (0, 1, 2)).all():
        raise ValueError(
            f"'{path}' must contain whole numbers as ids, and 0, 1 or 2 as x_label "
            f'(got others). Number the ids first'
        )
    time = None
    if len(names) > len(_REQUIRED):
        time = columns[3]
        if (time == time.astype(np.int64)).all():
            time = time.astype(np.int64)
    return InterTable(whole[:2], whole[2], time)


def _columns(path: Path, chosen: list[int], width: int) -> np.ndarray[Any, Any]:
    try:
        rows = np.loadtxt(
            path, delimiter='\t', skiprows=1, ndmin=2, encoding='utf-8', comments=None
        )
        if rows.shape[1] != width:
            raise ValueError(f'{rows.shape[1]} columns under {width} names')
        if not np.isfinite(rows[:, chosen]).all():
            raise ValueError('NaN')
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"'{path}' must contain {width} numbers in each row (got {error}). If it "
            f'is truncated, fetch the file again'
        ) from error
    columns: np.ndarray[Any, Any] = rows[:, chosen].T
    return columns
