"""MMRec's layout: interactions, tables of ids, and the writer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._files import replacing
from promptmm_pyg._reading import check_parsed_size
from promptmm_pyg.data.interactions import (
    Where,
    finite_numbers,
    select_interactions,
)
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    USER,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.table_files import header_text
from promptmm_pyg.data.tables import Table, read_text

_REQUIRED = ('userID', 'itemID', 'x_label')


class Pairs(NamedTuple):
    """Interactions with the part of the split that each belongs to."""

    edges: np.ndarray[Any, Any]  # [2, E]
    part: np.ndarray[Any, Any]  # [E], 0 train, 1 validation, 2 test
    time: np.ndarray[Any, Any] | None = None  # [E]
    weight: np.ndarray[Any, Any] | None = None  # [E]


def find_inter_file(folder: Path) -> Path:
    """The one ``.inter`` file of a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there is more than one.
    """
    paths = sorted(folder.glob('*.inter'))
    if not paths:
        names = sorted(path.name for path in folder.iterdir())
        raise FileNotFoundError(
            f"'{folder}' must contain one '<name>.inter' (got {names})"
        )
    if len(paths) > 1:
        raise ValueError(
            f"'{folder}' must contain one '<name>.inter' (got "
            f'{[path.name for path in paths]}). Keep one'
        )
    return paths[0]


def read_inter_file(
    path: Path,
    *,
    where: Where | None = None,
    min_rating: float | None = None,
    rating: str = 'rating',
    weight: str | None = None,
) -> Pairs:
    """The interactions of an ``.inter`` file, those of training first.

    Raises:
        ValueError: If a column is missing, a row is short or not numeric, ids
            are not whole or ``x_label`` is not 0, 1 or 2.
    """
    table = read_text(path, separator='\t', quotes=False)
    missing = [name for name in _REQUIRED if name not in table.header]
    if missing:
        raise ValueError(
            f"'{path}' must have tab-separated columns {list(_REQUIRED)} (got "
            f'{header_text(table.header)}, without {missing}). Read a table that has '
            f"no split with 'read_table'"
        )
    time = 'timestamp' if 'timestamp' in table.header else None
    table = select_interactions(
        table, where=where, rating=rating, min_rating=min_rating
    )
    users, items, part = (_whole(table, name) for name in _REQUIRED)
    if not np.isin(part, (0, 1, 2)).all():
        raise ValueError(
            f"'{path}' must contain 0, 1 or 2 as x_label (got "
            f'{part.min()} to {part.max()})'
        )
    order = np.argsort(part, kind='stable')
    columns = [
        None if name is None else finite_numbers(table, name)[order]
        for name in (time, weight)
    ]
    if columns[0] is not None and (columns[0] == columns[0].astype(np.int64)).all():
        columns[0] = columns[0].astype(np.int64)
    return Pairs(np.stack([users, items])[:, order], part[order], *columns)


def _whole(table: Table, column: str) -> np.ndarray[Any, Any]:
    """A column of whole numbers from zero."""
    values = finite_numbers(table, column)
    wrong = (values < 0) | (values != np.floor(values)) | (values >= 2**53)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f'{table.name!r} must contain whole numbers from zero in the column '
            f"'{column}' (got {values[row]} in {table.at(row)}). Number the ids first"
        )
    return values.astype(np.int64)


FILES = {USER: 'u_id_mapping.csv', ITEM: 'i_id_mapping.csv'}
# Users and items of Amazon's reviews, which MMRec began with.
_HEADS = {USER: ('user_id', 'userID'), ITEM: ('asin', 'itemID')}


def write_mapping(path: Path, node_type: str, ids: Sequence[str]) -> None:
    """Writes ids by number, tab-separated.

    Raises:
        ValueError: If an id holds a tab or a line break.
    """
    bad = [name for name in ids if '\t' in name or name.splitlines() != [name]]
    if bad:
        raise ValueError(
            f"'raw_id' of the {node_type}s must be text without tabs and line "
            f'breaks (got {bad[0]!r})'
        )
    lines = [_HEADS[node_type], *((name, str(i)) for i, name in enumerate(ids))]
    text = ''.join('\t'.join(line) + '\n' for line in lines)
    path.write_text(text, encoding='utf-8', newline='\n')


def read_mapping(folder: Path, node_type: str, count: int) -> list[str]:
    """Raw ids by number: of the folder's table, else the numbers themselves.

    Args:
        folder: The folder of a data set.
        node_type: Whose ids.
        count: The smallest number of nodes; more in a table are nodes, too.

    Raises:
        ValueError: If the table is damaged, or not one id for each number.
    """
    path = folder / FILES[node_type]
    if not path.is_file():
        return [str(i) for i in range(count)]
    check_parsed_size(path)
    try:
        # Not by `splitlines`, which also splits at other characters than line feeds.
        head, *lines = path.read_text(encoding='utf-8').split('\n')
        column = _HEADS[node_type][1]
        names = head.rstrip('\r').replace(',', '\t').split('\t')
        mark = '\t' if '\t' in head else ','
        rows = [line.rstrip('\r').split(mark) for line in lines if line.strip()]
        if len(names) != 2 or column not in names:
            raise ValueError(f'the columns {names}')
        at = names.index(column)
        ids = {int(row[at]): row[1 - at] for row in rows if len(row) == 2}
    except ValueError as error:
        raise ValueError(
            f"'{path}' must be a table of an id and its '{_HEADS[node_type][1]}' "
            f'(got {error})'
        ) from error
    if sorted(ids) != list(range(len(rows))) or len(ids) < count:
        raise ValueError(
            f"'{path}' must contain an id for each number from 0 to {count - 1} or "
            f'more (got {len(ids)} in {len(rows)} rows). If it is truncated, fetch the '
            f'file again'
        )
    return [ids[i] for i in range(len(ids))]


def write_mmrec(split: Split, folder: str | Path, *, name: str | None = None) -> Path:
    """Writes a split as MMRec reads it, and returns the folder.

    It has ``<name>.inter`` (numbers of users and items, ``x_label`` 0, 1 or 2,
    and times, if all interactions have them), ``<modality>_feat.npy`` (float32, a
    row an item) and ``u_id_mapping.csv`` and ``i_id_mapping.csv`` from raw ids to
    numbers. :func:`~promptmm_pyg.data.load_dataset` gives the same split back, raw
    ids as text. The folder appears whole or not at all.

    MMRec has no masks: missing rows are zeros.

    Args:
        split: The three graphs.
        folder: The folder to make, new or empty.
        name: The data set's name. (default: the folder's)

    Raises:
        FileExistsError: If the folder is not empty.
        ValueError: If MMRec cannot store the split (features of users, rows of
            zeros that are not missing, raw ids with a tab or line break), if the name
            is a path, or training is empty.
    """
    folder = Path(folder).absolute()
    name = folder.name if name is None else name
    if not name or Path(name).name != name:
        raise ValueError(f"'name' must be the name of a file (got {name!r})")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"'folder' must be new or empty (got '{folder}'). Choose another"
        )
    features = _features(split.train)
    with replacing(folder) as temporary:
        temporary.mkdir()
        _write_pairs(split, temporary / f'{name}.inter')
        for modality, x in features.items():
            np.save(temporary / f'{modality}_feat.npy', x)
        for node_type in NODE_TYPES:
            count = split.train[node_type].num_nodes
            ids = split.train[node_type].get('raw_id')
            texts = range(count) if ids is None else ids.tolist()
            file = temporary / FILES[node_type]
            write_mapping(file, node_type, [str(text) for text in texts])
    return folder


def _features(data: HeteroData) -> dict[str, np.ndarray[Any, Any]]:
    features = {}
    for modality, x_of in modality_x_dict(data).items():
        if USER in x_of:
            raise ValueError(
                f"'split' must have features of items only (got 'x_{modality}' of "
                f'users). MMRec reads none; delete them from a copy'
            )
        x = x_of[ITEM].detach().cpu().float()
        mask = modality_mask_dict(data).get(modality, {}).get(ITEM)
        present = torch.ones(len(x), dtype=torch.bool) if mask is None else mask.cpu()
        x = x.masked_fill(~present.unsqueeze(-1), 0.0)
        unclear = int((present & ~x.any(dim=-1)).sum())
        if unclear:
            raise ValueError(
                f"'split' must mark rows of zeros as missing (got {unclear} in "
                f"'x_{modality}'), which they mean in MMRec. Set them to false "
                f"in 'mask_{modality}'"
            )
        features[modality] = np.ascontiguousarray(x.numpy())
    return features


def _write_pairs(split: Split, path: Path) -> None:
    timed = all('edge_label_time' in graph[INTERACTS] for graph in split)
    head = ['userID', 'itemID', *(['timestamp'] if timed else []), 'x_label']
    with path.open('w', encoding='utf-8', newline='\n') as file:
        file.write('\t'.join(head) + '\n')
        for part, graph in enumerate(split):
            store = graph[INTERACTS]
            columns = [x.tolist() for x in store.edge_label_index]
            if timed:
                columns.append(store.edge_label_time.tolist())
            for row in zip(*columns, strict=True):
                file.write('\t'.join(map(repr, (*row, part))) + '\n')
