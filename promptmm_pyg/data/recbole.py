"""Data sets in RecBole's atomic files."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg.data.build import Duplicates
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
from promptmm_pyg.data.mmrec import Pairs
from promptmm_pyg.data.nodes import unique_ids
from promptmm_pyg.data.readers import build_graph_of
from promptmm_pyg.data.recbole_files import (
    Coded,
    code_column,
    find_atomic_files,
    read_atomic,
    read_types,
)
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.data.split import Split, split_by_part

if TYPE_CHECKING:
    import pyarrow as pa


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
