"""Contents by id from folders and tables, and their rows on the nodes of a graph."""

import copy
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice, check_folder
from promptmm_pyg.content.rows import ContentRows
from promptmm_pyg.data.interactions import id_column
from promptmm_pyg.data.schema import ITEM, NODE_TYPES
from promptmm_pyg.data.split import Split
from promptmm_pyg.data.tables import read_file

_SUFFIXES = {
    'text': ('.txt', '.md'),
    'images': ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff'),
}


def folder_contents(
    folder: str | Path, kind: Literal['text', 'images']
) -> dict[str, Path]:
    """Returns ``{id: path}`` of the files of a folder that are named by raw id:
    ``42.txt`` is the text of ``'42'``.

    Folders inside, hidden files and files of other kinds are left out.

    Args:
        folder: The folder.
        kind: ``'text'`` (.txt, .md) or ``'images'`` (.jpg, .jpeg, .png, .webp,
            .gif, .bmp, .tif, .tiff).

    Raises:
        FileNotFoundError: If there is no such folder, or nothing of that kind.
        ValueError: If two files are named by one id.
    """
    check_choice('kind', kind, _SUFFIXES)
    folder = Path(folder)
    check_folder('folder', folder)
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith('.')
        if hidden or path.suffix.lower() not in _SUFFIXES[kind] or not path.is_file():
            continue
        if path.stem in paths:
            raise ValueError(
                f"'{folder}' must contain one file for each id (got "
                f"'{paths[path.stem].name}' and '{path.name}'). Keep one"
            )
        paths[path.stem] = path
    if not paths:
        raise FileNotFoundError(
            f"'{folder}' must contain files named by raw id that end in "
            f'{", ".join(_SUFFIXES[kind])} (got none)'
        )
    return paths


def table_contents(
    path: str | Path,
    column: str,
    *,
    item: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
) -> dict[Any, str | None]:
    """Returns ``{id: text}`` of a column of a table (``.csv``, ``.tsv``, ``.txt``,
    ``.jsonl``, also with ``.gz`` or ``.zst``, or ``.parquet``) of items or of
    interactions. An id has the first text that is not empty.

    Args:
        path: The table.
        column: The column of texts; other values are read as they are printed.
        item: The column of ids. (default: recognized by its name, such as ``item_id``)
        separator: The character between cells. (default: recognized)
        encoding: The encoding of the file. (default: ``'utf-8'``)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another kind, or lacks a column.
        ImportError: If the packages of the extra ``frames`` are missing.
    """
    table = read_file(
        path, separator=separator, encoding=encoding, caller='table_contents'
    )
    table.check_column(column)
    ids = table.ids(id_column(table, item), "'item' (--item-column)")
    texts: list[str | None] = [None] * len(ids.values)
    for code, text in zip(
        ids.codes.tolist(), table.texts(column).to_pylist(), strict=True
    ):
        texts[code] = texts[code] or text or None
    return dict(zip(ids.values.to_pylist(), texts, strict=True))


_Graphs = TypeVar('_Graphs', HeteroData, Split)


def join_content(
    data: _Graphs, rows: ContentRows, modality: str, *, node_type: str = ITEM
) -> _Graphs:
    """Returns the graph, or the split, with ``x_<modality>`` and
    ``mask_<modality>`` on its items.

    A node has the row whose id is written like its raw id: ``7`` matches ``'7'``,
    since ids from names of files are text. A node without a row is
    marked as absent. Rows of other ids are left out. What was there before is
    shared, not copied, and not changed.

    Args:
        data: A graph with raw ids, or the three graphs of a split.
        rows: What :func:`~promptmm_pyg.content.encode_content` returned.
        modality: Its name: letters, digits and underscores.
        node_type: ``'item'`` or ``'user'``. (default: ``'item'``)

    Raises:
        ValueError: If the name is no identifier or in use, if the nodes have no
            raw ids, if two rows are of one id, or if no id is shared.
    """
    check_choice('node_type', node_type, NODE_TYPES)
    if not f'x_{modality}'.isidentifier():
        raise ValueError(
            f"'modality' must be made of letters, digits and underscores (got "
            f"'{modality}')"
        )
    graphs = list(data) if isinstance(data, Split) else [data]
    x, mask = _align(graphs[0], rows, node_type)
    joined = []
    for graph in graphs:
        if f'x_{modality}' in graph[node_type]:
            raise ValueError(
                f"'modality' must be a new name (got '{modality}', which the "
                f'{node_type}s have). Choose another, or delete it from the graph'
            )
        graph = copy.copy(graph)
        graph[node_type][f'x_{modality}'] = x
        graph[node_type][f'mask_{modality}'] = mask
        joined.append(graph)
    return Split(*joined) if isinstance(data, Split) else joined[0]


def _align(
    graph: HeteroData, rows: ContentRows, node_type: str
) -> tuple[Tensor, Tensor]:
    if 'raw_id' not in graph[node_type]:
        raise ValueError(
            f"'data' must have raw ids of its {node_type}s (got none). Build the "
            f"graph with '{node_type}_ids'"
        )
    place: dict[str, int] = {}
    for i, name in enumerate(rows.ids):
        if place.setdefault(str(name), i) != i:
            raise ValueError(
                f"'rows' must contain one row for each id (got '{name}' as number and "
                f'as text)'
            )
    ids = [str(name) for name in graph[node_type].raw_id.tolist()]
    index = np.array([place.get(name, -1) for name in ids])
    present = index >= 0
    if not present.any():
        raise ValueError(
            f"'rows' must share ids with the {node_type}s (got "
            f'{[str(name) for name in rows.ids[:3]]} for {ids[:3]}). Name files and '
            f'rows by raw id'
        )
    present[present] = rows.mask[index[present]]
    x = np.zeros((len(ids), rows.x.shape[1]), np.float32)
    x[present] = rows.x[index[present]]
    return torch.from_numpy(x), torch.from_numpy(present)
