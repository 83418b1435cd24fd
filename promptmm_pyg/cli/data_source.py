"""From the configuration of a data set to its three graphs."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from promptmm_pyg.cli.content_source import join_contents
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Issue,
    Split,
    load_dataset,
    make_synthetic_dataset,
    modality_mask_dict,
    modality_x_dict,
    validate,
)
from promptmm_pyg.data.load import SPLIT_METHODS


def load_split(config: dict[str, Any]) -> Split:
    """The graphs of a configuration.

    Raises:
        UserError: If there is nothing to validate on.
    """
    # Runs from before contents were encoded have no such entry.
    return join_contents(_load(config), config.get('content', []))


def _load(config: dict[str, Any]) -> Split:
    if config['format'] == 'synthetic':
        return _divide(make_synthetic_dataset(**config['synthetic']), config['split'])
    kind = config['format']
    names = ['format', 'features', 'duplicates']
    names += ['user', 'item'] if kind == 'table' else ['masks']
    names += ['min_rating'] if kind == 'recbole' else []
    options = {name: config[name] for name in names}
    if kind == 'table':
        ids = config['item_ids']
        options['item_ids'] = None if ids is None else read_ids(ids)
        options['time'] = config['time'] or ''
    if kind == 'table' or 'split' in config:
        divide = config['split']
        options['split'] = lambda graph: _divide(graph, divide)
    return load_dataset(config['path'], **options)


def _divide(graph: HeteroData, config: dict[str, Any]) -> Split:
    options = {key: value for key, value in config.items() if key != 'method'}
    return SPLIT_METHODS[config['method']](graph, **options)


def read_ids(path: str | Path) -> list[Any]:
    """The ids of a file, one a line; integers if all lines are.

    Raises:
        UserError: If there is no such file.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file '{path}' of ids, one a line")
    lines = Path(path).read_text(encoding='utf-8').split('\n')
    ids = [line.strip() for line in lines if line.strip()]
    if all(text.lstrip('-').isdecimal() for text in ids):
        return [int(text) for text in ids]
    return ids


def read_titles(path: str | Path, item: str, title: str) -> dict[str, str]:
    """Titles by the text of the raw item id, from a ``.csv`` with both columns.

    Raises:
        UserError: If the file or a column is not there.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file '{path}' of titles")
    with Path(path).open(encoding='utf-8', newline='') as file:
        reader = csv.DictReader(file)
        missing = {item, title} - set(reader.fieldnames or ())
        if missing:
            raise UserError(
                f"'{path}' requires the columns {sorted(missing)} (got "
                f'{list(reader.fieldnames or ())}). Name yours with --item-column, '
                f'--title-column'
            )
        return {row[item]: row[title] for row in reader if row[title]}


def findings(split: Split) -> tuple[list[Issue], list[Issue]]:
    """The errors and the warnings about a split."""
    found = validate(split)
    errors = [finding for finding in found if finding.level == 'error']
    return errors, [finding for finding in found if finding.level == 'warning']


def fingerprint(split: Split) -> str:
    """A hash of all that a model learns from or is tested on."""
    digest = hashlib.sha256()
    tensors = {name: graph[INTERACTS].edge_label_index for name, graph in _parts(split)}
    tensors['edges'] = split.train[INTERACTS].edge_index
    for kind in (modality_x_dict, modality_mask_dict):
        for modality, x_of in kind(split.train).items():
            for node_type, x in x_of.items():
                tensors[f'{kind.__name__}/{modality}/{node_type}'] = x
    for name, x in sorted(tensors.items()):
        digest.update(f'{name}{list(x.shape)}{x.dtype}'.encode())
        digest.update(x.contiguous().numpy().tobytes())
    for node_type in (USER, ITEM):
        digest.update(json.dumps(split.train[node_type].raw_id.tolist()).encode())
    return digest.hexdigest()


def _parts(split: Split) -> list[tuple[str, HeteroData]]:
    return list(split._asdict().items())
