"""A split in the layout of MMRec."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.id_mapping import FILES, write_mapping
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    USER,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.data.split import Split


def write_mmrec(split: Split, folder: str | Path, *, name: str | None = None) -> Path:
    """Writes a split as MMRec reads it, and returns the folder.

    It holds ``<name>.inter`` (numbers of users and items, ``x_label`` 0, 1 or 2,
    and times, if all interactions have them), ``<modality>_feat.npy`` (float32, a
    row an item) and ``u_id_mapping.csv`` and ``i_id_mapping.csv`` from raw ids to
    numbers. :func:`~promptmm_pyg.data.read_mmrec` gives the same split back, raw
    ids as text. The folder appears whole or not at all.

    MMRec has no masks: it writes zeros for what is missing, and so is done here.

    Args:
        split: The three graphs.
        folder: The folder to make; it may be there if it is empty.
        name: The data set's name. (default: the folder's)

    Raises:
        FileExistsError: If the folder is there and holds something.
        ValueError: If MMRec has no place for what is in the split: features of
            users, rows of zeros that are not missing, raw ids with a tab or line
            break; if the name is a path, or nothing is in training.
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
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
    temporary.mkdir(parents=True)
    try:
        _write_pairs(split, temporary / f'{name}.inter')
        for modality, x in features.items():
            np.save(temporary / f'{modality}_feat.npy', x)
        for node_type in NODE_TYPES:
            count = split.train[node_type].num_nodes
            ids = split.train[node_type].get('raw_id')
            texts = range(count) if ids is None else ids.tolist()
            file = temporary / FILES[node_type]
            write_mapping(file, node_type, [str(text) for text in texts])
        if folder.exists():
            folder.rmdir()  # Empty; some systems do not rename onto a folder.
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
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
        there = torch.ones(len(x), dtype=torch.bool) if mask is None else mask.cpu()
        x = x.masked_fill(~there.unsqueeze(-1), 0.0)
        unclear = int((there & ~x.any(dim=-1)).sum())
        if unclear:
            raise ValueError(
                f"'split' must mark rows of zeros as missing (got {unclear} in "
                f"'x_{modality}'), since MMRec takes them for that. Set them to false "
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
