"""Data sets in RecBole's atomic files."""

import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.build import Duplicates, build_graph
from promptmm_pyg.data.features import (
    FeaturePaths,
    Masks,
    load_features,
    zero_row_masks,
)
from promptmm_pyg.data.readers import Pairs
from promptmm_pyg.data.recbole_files import (
    AtomicFiles,
    Coded,
    as_number,
    check_columns,
    code_column,
    find_atomic_files,
    read_cells,
    read_header,
)
from promptmm_pyg.data.split import Split, split_by_part


class _Names(NamedTuple):
    user: str
    item: str
    time: str
    rating: str


def read_recbole(
    path: str | Path,
    *,
    split: Callable[[HeteroData], Split] | None = None,
    item_columns: Sequence[str] | None = None,
    user_columns: Sequence[str] = (),
    min_rating: float | None = None,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    user: str = 'user_id',
    item: str = 'item_id',
    time: str = 'timestamp',
    rating: str = 'rating',
) -> Split:
    """Returns the split of a folder of RecBole's atomic files.

    A split that came with the data, as ``<name>.train.inter``, ``.valid.inter``
    and ``.test.inter`` or ``.part1.inter`` to ``.part3.inter``, is kept; without a
    validation file that part is empty. A single ``<name>.inter`` is split by
    ``split``. Nodes are those of ``<name>.item`` and ``<name>.user``, in that
    order, then others as the interactions mention them; raw ids are text.
    Interactions may have times.

    Columns become modalities of their name: ``float_seq`` is a vector, ``float``
    a single number, ``token`` and ``token_seq`` a mark for each of their tokens.
    An empty cell is a missing row. Titles are better read by
    :func:`~promptmm_pyg.data.read_recbole_texts` and encoded.

    Args:
        path: The folder.
        split: How to split a single ``.inter``, for example
            :func:`~promptmm_pyg.data.split_per_user`. (default: an error)
        item_columns: Columns of ``.item`` to take.
            (default: every ``float_seq``)
        user_columns: Columns of ``.user`` to take. (default: none)
        min_rating: The least rating that counts as an interaction; others are left
            out. (default: all count)
        features: ``{modality: file}`` of ``.npy`` with a row for each line of
            ``.item``, to add to every ``<modality>_feat.npy`` found; ``None``
            leaves a modality out. (default: all that is found)
        masks: As in :func:`~promptmm_pyg.data.read_diffmm`, for ``.npy`` files.
        duplicates: As in :func:`~promptmm_pyg.data.read_diffmm`.
        user: The column of user ids. (default: ``'user_id'``)
        item: The column of item ids. (default: ``'item_id'``)
        time: The column of times, if there is one. (default: ``'timestamp'``)
        rating: The column that ``min_rating`` is about. (default: ``'rating'``)

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a file is damaged, a column is missing, files do not fit
            together, or there is no split, or two.
    """
    files = find_atomic_files(Path(path))
    if files.came_with_split and split is not None:
        raise ValueError(
            f"'split' must be None for '{path}': it came with a split, which is "
            f'kept (got {split!r})'
        )
    if not files.came_with_split and split is None:
        raise ValueError(
            f"'{path}' must come with a split, or to be split (got one '.inter' "
            f"and no 'split'). Pass for example read_recbole(path, "
            f'split=split_per_user)'
        )
    names = _Names(user, item, time, rating)
    users, user_coded = _read_nodes(files.user, user, user_columns)
    items, item_coded = _read_nodes(files.item, item, item_columns)
    for name in [name for name, file in (features or {}).items() if file is None]:
        item_coded.pop(name, None)
    _add_arrays(files, item_coded, len(items), features, masks)
    pairs = _read_pairs(files, names, users, items, min_rating)
    pairs = pairs.merged(len(items), duplicates)
    graph = _build(Path(path), pairs, users, items, user_coded, item_coded)
    if split is not None:
        return split(graph)
    return split_by_part(graph, torch.from_numpy(pairs.part))


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
    rows = read_cells(file, [item, *columns])
    return {row[0]: ' '.join(filter(None, row[1:])) or None for row in rows}


def _read_nodes(
    file: Path | None, id_column: str, columns: Sequence[str] | None
) -> tuple[dict[str, int], dict[str, Coded]]:
    """Places by raw id, and the columns asked for."""
    if file is None:
        if columns:
            raise ValueError(
                f"'path' must contain a file with the columns {[id_column, *columns]} "
                f'(got none)'
            )
        return {}, {}
    header = read_header(file)
    if columns is None:
        columns = [name for name, kind in header.items() if kind == 'float_seq']
    check_columns(file, header, columns)
    places: dict[str, int] = {}
    cells: list[list[str]] = []
    for name, *row in read_cells(file, [id_column, *columns]):
        if not name or places.setdefault(name, len(cells)) < len(cells):
            raise ValueError(
                f"'{file}' must contain each '{id_column}' once (got {name!r})"
            )
        cells.append(row)
    coded = {
        re.sub(r'\W', '_', name): code_column(
            file, name, header[name], [row[i] for row in cells]
        )
        for i, name in enumerate(columns)
    }
    return places, coded


def _add_arrays(
    files: AtomicFiles,
    coded: dict[str, Coded],
    num_rows: int,
    features: FeaturePaths | None,
    masks: Masks,
) -> None:
    arrays = load_features(files.folder, [files.folder], features)
    present = zero_row_masks(arrays, masks)
    for name, x in arrays.items():
        if len(x) != num_rows:
            raise ValueError(
                f"'{name}' must have a row for each line of the '.item' file (got "
                f'{len(x)} rows for {num_rows} lines)'
            )
        coded[name] = Coded(x, present.get(name, np.ones(num_rows, np.bool_)))


def _read_pairs(
    files: AtomicFiles,
    names: _Names,
    users: dict[str, int],
    items: dict[str, int],
    min_rating: float | None,
) -> Pairs:
    headers = {file: read_header(file) for file in files.inter.values()}
    timed = all(names.time in header for header in headers.values())
    columns = [names.user, names.item]
    columns += [names.time] if timed else []
    columns += [names.rating] if min_rating is not None else []
    # Arrays of the machine's numbers: lists of millions take ten times as much.
    pairs, part, times = array('q'), array('b'), array('d')
    for code, file in files.inter.items():
        if 'item_id_list' in headers[file]:
            raise ValueError(
                f"'{file}' must contain an interaction in each row (got histories in "
                f"'item_id_list'). Fetch the files that are not for sequences"
            )
        for row in read_cells(file, columns):
            if min_rating is not None:
                value = as_number(file, names.rating, row[-1])
                if value < min_rating:
                    continue
            if not row[0] or not row[1]:
                raise ValueError(f"'{file}' must contain ids in each row (got {row})")
            pairs.append(users.setdefault(row[0], len(users)))
            pairs.append(items.setdefault(row[1], len(items)))
            part.append(code)
            if timed:
                times.append(as_number(file, names.time, row[2]))
    if not part:
        raise ValueError(f"'{files.folder}' must contain interactions (got none)")
    edges = np.array(pairs, np.int64).reshape(-1, 2).T
    time = np.array(times) if timed else None
    if time is not None and (time == time.astype(np.int64)).all():
        time = time.astype(np.int64)
    return Pairs(edges, np.array(part, np.int64), time)


def _build(
    folder: Path,
    pairs: Pairs,
    users: dict[str, int],
    items: dict[str, int],
    user_coded: dict[str, Coded],
    item_coded: dict[str, Coded],
) -> HeteroData:
    user_x, user_masks = _pad(user_coded, len(users))
    item_x, item_masks = _pad(item_coded, len(items))
    try:
        return build_graph(
            pairs.edges,
            item_features=item_x,
            user_features=user_x,
            item_masks=item_masks,
            user_masks=user_masks,
            user_ids=list(users),
            item_ids=list(items),
            edge_time=pairs.time,
            edge_weight=pairs.weight,
        )
    except ValueError as error:
        raise ValueError(f"'{folder}' does not fit together: {error}") from error


def _pad(
    coded: dict[str, Coded], count: int
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """Rows of nothing for nodes that only the interactions know, and the masks of
    those columns that lack something.
    """
    features, masks = {}, {}
    for name, (x, mask) in coded.items():
        extra = count - len(x)
        features[name] = np.pad(x, ((0, extra), (0, 0)))
        there = np.pad(mask, (0, extra))
        if not there.all():
            masks[name] = there
    return features, masks
