"""The interactions and items that updates added to a run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._files import current, synchronize, temporary_folder
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
    build_graph,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.runs.folder import (
    load_tensors,
    save_tensors,
)
from promptmm_pyg.runs.run import Run, settings_of

_TENSORS = 'interactions.safetensors'


def updates_of(run: Run) -> list[Path]:
    """The folders of the recorded updates, the oldest first."""
    return sorted(current(run.path, 'updates').glob('[0-9]*'))


def record_update(
    run: Run,
    pairs: Sequence[tuple[Any, Any]],
    item_ids: Iterable[Any],
    features: Mapping[str, Any] | None,
    modality_mask: Mapping[str, Any] | None,
) -> None:
    """Writes the new data of an update."""
    items = list(dict.fromkeys([*item_ids, *(item for _, item in pairs)]))
    users = list(dict.fromkeys(user for user, _ in pairs))
    rows = [{raw: row for row, raw in enumerate(ids)} for ids in (users, items)]
    index = [[rows[0][user], rows[1][item]] for user, item in pairs]
    tensors = {'edge_index': torch.tensor(index, dtype=torch.long).view(-1, 2).t()}
    for name, x in (features or {}).items():
        tensors[f'x_{name}'] = torch.as_tensor(x).float()
    for name, mask in (modality_mask or {}).items():
        tensors[f'mask_{name}'] = torch.as_tensor(mask)
    ids = json.dumps({'user_ids': users, 'item_ids': items}).encode()
    tensors['ids'] = torch.frombuffer(bytearray(ids), dtype=torch.uint8)
    numbers = [int(folder.name) for folder in updates_of(run)]
    folder = run.path / 'updates' / f'{max(numbers, default=0) + 1:06d}'
    folder.parent.mkdir(exist_ok=True)
    with temporary_folder(folder.parent) as temporary:
        new = temporary / folder.name
        save_tensors(new / _TENSORS, tensors)
        # The same again, where an interrupted one is repeated.
        if not numbers or not _is_same(new, updates_of(run)[-1]):
            synchronize(new)
            new.rename(folder)


def _is_same(a: Path, b: Path) -> bool:
    return (a / _TENSORS).read_bytes() == (b / _TENSORS).read_bytes()


def _tensors_of(folder: Path) -> dict[str, Tensor]:
    fix = f"Remove '{folder}' and update with its interactions again"
    return load_tensors(folder / _TENSORS, fix)


def merge_all(split: Split, updates: Sequence[Path]) -> HeteroData:
    """One graph of all interactions and features."""
    train = split.train
    rows = {
        key: {raw: row for row, raw in enumerate(train[key].raw_id.tolist())}
        for key in (USER, ITEM)
    }
    edges = [train[INTERACTS].edge_index]
    edges += [graph[INTERACTS].edge_label_index for graph in split[1:]]
    added: list[tuple[Tensor, dict[str, Tensor]]] = []
    for folder in updates:
        with settings_of(folder / _TENSORS):
            tensors = _tensors_of(folder)
            ids = json.loads(tensors.pop('ids').numpy().tobytes())
            new = []
            for key in (USER, ITEM):
                of = rows[key]
                numbers = [of.setdefault(raw, len(of)) for raw in ids[f'{key}_ids']]
                new.append(torch.tensor(numbers, dtype=torch.long))
            index = tensors.pop('edge_index')
            edges.append(torch.stack([new[k][index[k]] for k in (0, 1)]))
        added.append((new[1], tensors))
    features, masks = _grown_features(train, {key: len(of) for key, of in rows.items()})
    for items, tensors in added:
        _fill(features[ITEM], masks[ITEM], items, tensors)
    graph = build_graph(
        torch.cat(edges, 1),
        item_features=features[ITEM],
        user_features=features[USER],
        item_masks=masks[ITEM],
        user_masks=masks[USER],
        user_ids=list(rows[USER]),
        item_ids=list(rows[ITEM]),
        duplicates='first',
    )
    graph[INTERACTS].edge_label_index = graph[INTERACTS].edge_index[:, :0]
    return graph


_ByType = dict[str, dict[str, Tensor]]  # Node type, modality.


def _grown_features(
    train: HeteroData, sizes: Mapping[str, int]
) -> tuple[_ByType, _ByType]:
    """Features and masks with rows of zeros, which are missing, for new nodes."""
    features: _ByType = {USER: {}, ITEM: {}}
    masks: _ByType = {USER: {}, ITEM: {}}
    present = modality_mask_dict(train)
    for name, x_of in modality_x_dict(train).items():
        for key, x in x_of.items():
            features[key][name] = _grow(x, sizes[key])
            full = torch.ones(x.size(0), dtype=torch.bool)
            mask = present.get(name, {}).get(key, full)
            if mask is not full or sizes[key] > x.size(0):
                masks[key][name] = _grow(mask, sizes[key])
    return features, masks


def _fill(
    features: dict[str, Tensor],
    masks: dict[str, Tensor],
    items: Tensor,
    tensors: Mapping[str, Tensor],
) -> None:
    """Writes the features of an update into the rows of its first items."""
    for name in features.keys() & {key.removeprefix('x_') for key in tensors}:
        x = tensors[f'x_{name}']
        rows = items[: x.size(0)]
        features[name][rows] = x
        if name in masks:
            full = torch.ones(rows.numel(), dtype=torch.bool)
            masks[name][rows] = tensors.get(f'mask_{name}', full)


def _grow(x: Tensor, size: int) -> Tensor:
    """A copy with rows of zeros at the end."""
    return torch.cat([x, x.new_zeros(size - x.size(0), *x.shape[1:])])
