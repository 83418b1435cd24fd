"""RecBole's atomic files: tab-separated, with the type of a column in its name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from promptmm_pyg._reading import check_file
from promptmm_pyg._utils import check_folder
from promptmm_pyg.data.columns import ColumnEncoding
from promptmm_pyg.data.mmrec import find_inter_file
from promptmm_pyg.data.split import TEST, TRAIN, VAL
from promptmm_pyg.data.tables import Table, read_text
from promptmm_pyg.limits import MIB

KINDS = ('token', 'token_seq', 'float', 'float_seq')
_MANY_TOKENS = 10_000


class Coded(NamedTuple):
    """One column as numbers."""

    x: np.ndarray[Any, Any]  # [N, width], float32
    mask: np.ndarray[Any, Any]  # [N], true where the cell is not empty
    encoding: ColumnEncoding | None = None  # For items that come later


def first_line(path: Path) -> str:
    """The first line of a file."""
    check_file(path)
    with path.open(encoding='utf-8-sig', errors='replace') as file:
        return file.readline(MIB).rstrip('\r\n')


def is_atomic(path: Path) -> bool:
    """Whether the first line of a file has types, as no other format does."""
    return ':' in first_line(path)


def read_types(path: Path) -> dict[str, str]:
    """The type of each column, in the order of the columns.

    Raises:
        ValueError: If a column has no known type, or two have one name.
    """
    line = first_line(path)
    cells = [cell.rpartition(':')[::2] for cell in line.split('\t')]
    kinds = dict(cells)
    if any(not name or kind not in KINDS for name, kind in cells):
        raise ValueError(
            f"'{path}' must have columns like 'item_id:token' of the types "
            f'{list(KINDS)} (got {line[:200]!r})'
        )
    if len(kinds) < len(cells):
        raise ValueError(f"'{path}' must name each column once (got {line!r})")
    return kinds


def inter_header(folder: Path, layout: str) -> list[str]:
    """The columns that all files of interactions of a folder have.

    Args:
        folder: The folder.
        layout: ``'recbole'``, where names have types, or ``'mmrec'``.
    """
    if layout == 'mmrec':
        return first_line(find_inter_file(folder)).split('\t')
    headers = [list(read_types(x)) for x in find_atomic_files(folder).inter.values()]
    return [name for name in headers[0] if all(name in header for header in headers)]


def read_atomic(path: Path, columns: Sequence[str] | None = None) -> Table:
    """The table of an atomic file, with the names of columns without their types.

    Raises:
        ValueError: If the file is damaged, or lacks a column.
    """
    types = read_types(path)
    missing = [name for name in columns or () if name not in types]
    if missing:
        raise ValueError(
            f"'{path}' must have the columns {missing} (got {list(types)})"
        )
    chosen = None if columns is None else [f'{name}:{types[name]}' for name in columns]
    table = read_text(path, chosen, separator='\t', quotes=False)
    names = [name.rpartition(':')[0] for name in table.columns]
    return replace(table, data=table.data.rename_columns(names), header=list(types))


def code_column(path: Path, name: str, kind: str, cells: Sequence[str]) -> Coded:
    """A column as numbers: ``float`` is one, ``float_seq`` a vector, ``token`` and
    ``token_seq`` mark which of the sorted tokens a cell has.

    Raises:
        ValueError: If numbers are none, vectors are not of one length, there are
            too many tokens, or all cells are empty.
    """
    mask = np.array([bool(cell) for cell in cells], np.bool_)
    if not mask.any():
        raise ValueError(f"'{path}' must contain something in the column '{name}'")
    # A token is one word, whatever is in it; sequences are split at spaces.
    parts = [cell.split() if kind.endswith('_seq') else [cell] for cell in cells]
    filled = [(i, part) for i, part in enumerate(parts) if mask[i]]
    if kind.startswith('float'):
        lengths = sorted({len(part) for _, part in filled})
        if len(lengths) > 1:
            raise ValueError(
                f"'{path}' must contain vectors of one length in the column '{name}' "
                f'(got lengths {lengths[:5]})'
            )
        x = np.zeros((len(cells), lengths[0]), np.float32)
        for i, part in filled:
            x[i] = [_as_number(path, name, cell) for cell in part]
        is_number = kind == 'float'
        return Coded(x, mask, ColumnEncoding(name, 'number', 1) if is_number else None)
    tokens = sorted({token for _, part in filled for token in part})
    if len(tokens) > _MANY_TOKENS:
        raise ValueError(
            f"'{path}' must contain at most {_MANY_TOKENS} different tokens in the "
            f"column '{name}' (got {len(tokens)}). Read it as text with "
            f"'read_recbole_texts'"
        )
    place = {token: i for i, token in enumerate(tokens)}
    x = np.zeros((len(cells), len(tokens)), np.float32)
    for i, part in filled:
        x[i, [place[token] for token in part]] = 1.0
    separator = ' ' if kind.endswith('_seq') else None
    encoding = ColumnEncoding(name, 'category', len(tokens), tuple(tokens), separator)
    return Coded(x, mask, encoding)


def _as_number(path: Path, name: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = float('nan')
    if not np.isfinite(number):
        raise ValueError(
            f"'{path}' must contain numbers in the column '{name}' (got {cell!r})"
        )
    return number


_PARTS = {
    'train': TRAIN,
    'part1': TRAIN,
    'valid': VAL,
    'val': VAL,
    'dev': VAL,
    'part2': VAL,
    'test': TEST,
    'part3': TEST,
}


class AtomicFiles(NamedTuple):
    """The files that matter here."""

    folder: Path
    inter: dict[int, Path]  # by part; all in the first where there is no split
    came_with_split: bool
    item: Path | None
    user: Path | None


def find_atomic_files(folder: Path) -> AtomicFiles:
    """The files of a folder.

    A file of all interactions is ignored if there are files of a split.

    Raises:
        FileNotFoundError: If the folder, the interactions or a part is missing.
        ValueError: If a file occurs twice.
    """
    check_folder('path', folder)
    paths = sorted(folder.glob('*.inter'))
    parts = _parts_of(folder, paths)
    return AtomicFiles(
        folder,
        dict(sorted(parts.items())) or {TRAIN: find_inter_file(folder)},
        bool(parts),
        _at_most_one(folder, '.item'),
        _at_most_one(folder, '.user'),
    )


def _parts_of(folder: Path, paths: list[Path]) -> dict[int, Path]:
    parts: dict[int, Path] = {}
    for path in paths:
        name, _, part = path.name.removesuffix('.inter').rpartition('.')
        code = _PARTS.get(part)
        if not name or code is None:
            continue
        if code in parts:
            raise ValueError(
                f"'{folder}' must contain one file for each part of a split (got "
                f"'{parts[code].name}' and '{path.name}'). Keep one"
            )
        parts[code] = path
    missing = [name for name in ('train', 'test') if _PARTS[name] not in parts]
    if parts and missing:
        raise FileNotFoundError(
            f"'{folder}' must contain all parts of its split (got "
            f'{[path.name for path in parts.values()]}, without {missing}). Fetch the '
            f'missing file'
        )
    return parts


def _at_most_one(folder: Path, suffix: str) -> Path | None:
    paths = sorted(folder.glob(f'*{suffix}'))
    if len(paths) > 1:
        raise ValueError(
            f"'{folder}' must contain one '<name>{suffix}' (got "
            f'{[path.name for path in paths]}). Keep one'
        )
    return paths[0] if paths else None
