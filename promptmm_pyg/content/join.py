"""Rows onto the nodes of a graph, by raw id."""

import copy
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.content.rows import ContentRows
from promptmm_pyg.data.schema import ITEM, NODE_TYPES
from promptmm_pyg.data.split import Split

_Graphs = TypeVar('_Graphs', HeteroData, Split)


def join_content(
    data: _Graphs, rows: ContentRows, modality: str, *, node_type: str = ITEM
) -> _Graphs:
    """Returns the graph, or the split, with ``x_<modality>`` and
    ``mask_<modality>`` on its items.

    A node takes the row whose id reads like its raw id: ``7`` and ``'7'`` are one,
    since ids that come from names of files are text. A node without a row is
    marked as absent. Rows of other ids are left out. What was there before is
    shared, not copied, and not changed.

    Args:
        data: A graph with raw ids, or the three graphs of a split.
        rows: What :func:`~promptmm_pyg.content.encode_content` returned.
        modality: Its name: letters, digits and underscores.
        node_type: ``'item'`` or ``'user'``. (default: ``'item'``)

    Raises:
        ValueError: If the name is no identifier or taken, if the nodes have no
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
    there = index >= 0
    if not there.any():
        raise ValueError(
            f"'rows' must share ids with the {node_type}s (got "
            f'{[str(name) for name in rows.ids[:3]]} for {ids[:3]}). Name files and '
            f'rows by raw id'
        )
    there[there] = rows.mask[index[there]]
    x = np.zeros((len(ids), rows.x.shape[1]), np.float32)
    x[there] = rows.x[index[there]]
    return torch.from_numpy(x), torch.from_numpy(there)
