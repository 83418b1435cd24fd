"""RecBole's atomic files: tab-separated, with the type of a column in its name."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg._reading import check_file
from promptmm_pyg._utils import check_folder
from promptmm_pyg.data.build import Duplicates
from promptmm_pyg.data.columns import ColumnEncoding
from promptmm_pyg.data.features import (
    FeaturePaths,
    Masks,
    load_features,
    zero_row_masks,
)
from promptmm_pyg.data.ids import to_raw_ids
from promptmm_pyg.data.interactions import (
    Columns,
    Interactions,
    Where,
    join_parts,
    read_interactions,
)
from promptmm_pyg.data.mmrec import Pairs, find_inter_file
from promptmm_pyg.data.nodes import unique_ids
from promptmm_pyg.data.readers import build_graph_of
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.data.split import TEST, TRAIN, VAL, Split, split_by_part
from promptmm_pyg.data.tables import Table, read_text
from promptmm_pyg.limits import MIB

if TYPE_CHECKING:
    import pyarrow as pa


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


def read_recbole(
    folder: Path,
    *,
    split: Callable[[HeteroData], Split] | None = None,
    item_columns: Sequence[str] | None = None,
    user_columns: Sequence[str] = (),
    min_rating: float | None = None,
    where: Where | None = None,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    padding_row: bool = False,
    user: str = 'user_id',
    item: str = 'item_id',
    time: str | None = None,
    rating: str | None = 'rating',
    weight: str | None = None,
) -> Split:
    """The split of a folder of RecBole's atomic files, which came with one unless there
    is ``split``. Options are those of :func:`~promptmm_pyg.data.load_dataset`.
    """
    files = find_atomic_files(folder)
    columns = Columns(user, item, time, None if min_rating is None else rating, weight)
    users, user_coded = _read_nodes(folder, files.user, user, user_columns)
    items, item_coded = _read_nodes(folder, files.item, item, item_columns)
    for name in [name for name, file in (features or {}).items() if file is None]:
        item_coded.pop(name, None)
    arrays = load_features(files.folder, [files.folder], features, padding_row)
    _add_arrays(item_coded, 0 if items is None else len(items), arrays, masks)
    tables = {
        code: _read_inter(file, columns, where, min_rating, files.came_with_split)
        for code, file in files.inter.items()
    }
    rows = join_parts(tables, users, items)
    times, user_ids, item_ids = rows.time, rows.users.values, rows.items.values
    if times is not None and (times == times.astype(np.int64)).all():
        times = times.astype(np.int64)
    if not rows.users.codes.size:
        raise ValueError(f"'{files.folder}' must contain interactions (got none)")
    edges = np.stack([rows.users.codes, rows.items.codes])
    assert rows.part is not None
    pairs = Pairs(edges, rows.part, times, rows.weight)
    user_x, user_masks = _pad(user_coded, len(user_ids))
    item_x, item_masks = _pad(item_coded, len(item_ids))
    graph = build_graph_of(
        files.folder,
        pairs,
        duplicates,
        item_features=item_x,
        user_features=user_x,
        item_masks=item_masks,
        user_masks=user_masks,
        user_ids=to_raw_ids(user_ids),
        item_ids=to_raw_ids(item_ids),
    )
    graph.column_encodings = {
        f'{node_type}.x_{name}': column.encoding.to_dict()
        for node_type, coded in (('user', user_coded), ('item', item_coded))
        for name, column in coded.items()
        if column.encoding is not None
    }
    if split is None:
        return split_by_part(graph)
    del graph[INTERACTS].part
    return split(graph)


def read_recbole_texts(
    path: str | Path, columns: Sequence[str], *, item: str = 'item_id'
) -> dict[str, str | None]:
    """Returns ``{raw id: text}`` of columns of a RecBole folder's ``.item`` file,
    put one after the other, for :func:`~promptmm_pyg.content.encode_content`.

    Args:
        path: The folder.
        columns: Columns of any type.
        item: The column of item ids. (default: ``'item_id'``)

    Raises:
        FileNotFoundError: If the folder or the file is missing.
        ValueError: If the file is damaged or lacks a column.
    """
    file = find_atomic_files(Path(path)).item
    if file is None:
        raise FileNotFoundError(f"'{path}' must contain one '<name>.item' (got none)")
    table = read_atomic(file, [item, *columns])
    ids, *rows = (table.texts(name).to_pylist() for name in [item, *columns])
    parts = [[cell.strip() for cell in row] for row in zip(*rows, strict=True)]
    texts = (' '.join(filter(None, row)) or None for row in parts)
    return dict(zip(ids, texts, strict=True))


def _read_nodes(
    folder: Path, file: Path | None, id_column: str, columns: Sequence[str] | None
) -> tuple['pa.Array | None', dict[str, Coded]]:
    """The ids of a file of nodes, and some of its columns as numbers."""
    if file is None:
        if columns:
            raise ValueError(
                f"'{folder}' must contain a file with the columns "
                f'{[id_column, *columns]} (got none)'
            )
        return None, {}
    types = read_types(file)
    if columns is None:
        columns = [name for name, kind in types.items() if kind == 'float_seq']
    table = read_atomic(file, [id_column, *columns])
    ids = unique_ids(table, id_column)
    coded = {
        re.sub(r'\W', '_', name): code_column(
            file,
            name,
            types[name],
            [cell.strip() for cell in table.texts(name).to_pylist()],
        )
        for name in columns
    }
    return ids, coded


def _add_arrays(
    coded: dict[str, Coded],
    num_rows: int,
    arrays: dict[str, np.ndarray[Any, Any]],
    masks: Masks,
) -> None:
    present = zero_row_masks(arrays, masks)
    for name, x in arrays.items():
        if len(x) != num_rows:
            raise ValueError(
                f"'{name}' must have a row for each line of the '.item' file (got "
                f'{len(x)} rows for {num_rows} lines)'
            )
        coded[name] = Coded(x, present.get(name, np.ones(num_rows, np.bool_)))


def _read_inter(
    file: Path,
    columns: Columns,
    where: Where | None,
    min_rating: float | None,
    is_part: bool,
) -> Interactions:
    if 'item_id_list' in read_types(file):
        raise ValueError(
            f"'{file}' must contain an interaction in each row (got histories in "
            f"'item_id_list'). Fetch the files that are not for sequences"
        )
    table = read_atomic(file, list(dict.fromkeys(columns.names(where))))
    return read_interactions(
        table, columns, where=where, min_rating=min_rating, may_be_empty=is_part
    )


def _pad(
    coded: dict[str, Coded], count: int
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """Rows of zeros for nodes that only the interactions have, and the masks of
    columns with missing rows.
    """
    features, masks = {}, {}
    for name, (x, mask, _) in coded.items():
        extra = count - len(x)
        features[name] = np.pad(x, ((0, extra), (0, 0)))
        present = np.pad(mask, (0, extra))
        if not present.all():
            masks[name] = present
    return features, masks
