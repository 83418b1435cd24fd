"""A split on disk without pickles: tensors as safetensors, the rest as json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import replacing
from promptmm_pyg.data.schema import INTERACTS, NODE_TYPES, REV_INTERACTS
from promptmm_pyg.data.split import Split

FORMAT = 1
_LABELS = ('edge_label_index', 'edge_label_time')


def save_split(split: Split, stem: Path) -> None:
    """Writes ``<stem>.safetensors`` and then ``<stem>.json``; what the three
    graphs share is written once, from the training graph.
    """
    raw_ids = {
        key: _describe_ids(split.train[key].raw_id)
        for key in NODE_TYPES
        if 'raw_id' in split.train[key]
    }
    about = {
        'format': FORMAT,
        'num_nodes': {key: int(split.train[key].num_nodes) for key in NODE_TYPES},
        'raw_id': raw_ids,
    }
    # The copies are needed: views of one storage cannot be written.
    tensors = {key: x.contiguous().clone() for key, x in _tensors(split).items()}
    tensors_path, about_path = _paths(stem)
    # Left in reverse order: the description comes last.
    with replacing(about_path) as new_about, replacing(tensors_path) as new_tensors:
        save_file(tensors, new_tensors)
        new_about.write_text(json.dumps(about), encoding='utf-8')


def _tensors(split: Split) -> dict[str, Tensor]:
    train = split.train
    found = {
        f'node/{node_type}/{key}': value
        for node_type in NODE_TYPES
        for key, value in train[node_type].items()
    }
    for key, value in train[INTERACTS].items():
        if key not in _LABELS:
            found[f'edge/{key}'] = value
    for part, graph in split._asdict().items():
        for key in _LABELS:
            if key in graph[INTERACTS]:
                found[f'{part}/{key}'] = graph[INTERACTS][key]
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _describe_ids(ids: np.ndarray[Any, Any]) -> dict[str, Any]:
    kind = 'str' if ids.dtype.kind == 'U' else str(ids.dtype)
    return {'dtype': kind, 'values': ids.tolist()}


def load_split(stem: Path) -> Split:
    """The split that :func:`save_split` wrote.

    Raises:
        ValueError: If the files are damaged or of another format.
    """
    tensors_path, about_path = _paths(stem)
    try:
        about = json.loads(about_path.read_text(encoding='utf-8'))
        tensors = load_file(tensors_path)
        if about['format'] != FORMAT:
            raise ValueError(f'format {about["format"]}')
        return _rebuild(about, tensors)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"'{stem}.*' must be a whole cache of format {FORMAT} (got {error!r}). "
            f'Delete it and read the source again'
        ) from error


def _paths(stem: Path) -> list[Path]:
    return [stem.with_name(f'{stem.name}{end}') for end in ('.safetensors', '.json')]


def _rebuild(about: dict[str, Any], tensors: dict[str, Tensor]) -> Split:
    graphs = []
    for part in Split._fields:
        data = HeteroData()
        for node_type in NODE_TYPES:
            data[node_type].num_nodes = about['num_nodes'][node_type]
            if node_type in about['raw_id']:
                stored = about['raw_id'][node_type]
                dtype = (
                    np.str_ if stored['dtype'] == 'str' else np.dtype(stored['dtype'])
                )
                data[node_type].raw_id = np.array(stored['values'], dtype=dtype)
        for name, value in tensors.items():
            kind, *rest = name.split('/')
            if kind == 'node':
                data[rest[0]][rest[1]] = value
            elif kind in ('edge', part):
                data[INTERACTS][rest[0]] = value
        graphs.append(data)
    reverse = torch.flip(graphs[0][INTERACTS].edge_index, (0,))
    for data in graphs:
        data[REV_INTERACTS].edge_index = reverse
    return Split(*graphs)
