"""Data split by items that nobody has taken yet, and their rows from features."""

import copy

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    REV_INTERACTS,
    USER,
    Split,
    modality_mask_dict,
    modality_x_dict,
    split_cold_items,
    split_per_user,
)
from promptmm_pyg.serving import Recommender


def unsplit(split: Split) -> HeteroData:
    """The graph of all interactions of a split, to be split again."""
    parts = [split.train[INTERACTS].edge_index]
    parts += [part[INTERACTS].edge_label_index for part in (split.val, split.test)]
    return _with_edges(split.train, torch.cat(parts, dim=1))


def _with_edges(data: HeteroData, edge_index: Tensor) -> HeteroData:
    out = copy.copy(data)
    del out[INTERACTS]
    del out[REV_INTERACTS]
    out[INTERACTS].edge_index = edge_index
    out[REV_INTERACTS].edge_index = edge_index.flip(0)
    return out


def cold_split(data: HeteroData) -> tuple[Split, Split]:
    """The split by cold items, and its training edges split once more by user, for
    the validation that training stops by.
    """
    outer = split_cold_items(data)
    edge_index = outer.train[INTERACTS].edge_index
    warm = split_per_user(_with_edges(outer.train, edge_index), test_ratio=0.0)
    return outer, warm


def mask_of(num_items: int, data: HeteroData) -> Tensor:
    """Which items are to be found, ``[num_items]``."""
    mask = torch.zeros(num_items, dtype=torch.bool)
    mask[data[INTERACTS].edge_label_index[1]] = True
    return mask


def add_cold(x_dict: dict[str, Tensor], data: HeteroData, warm: Tensor) -> Tensor:
    """Item rows with those of cold items predicted by serving's feature path."""
    features = {k: x[ITEM] for k, x in modality_x_dict(data).items()}
    masks = {
        name: modality_mask_dict(data).get(name, {}).get(ITEM, torch.ones_like(warm))
        for name in features
    }
    old = warm.nonzero().view(-1)
    position = torch.full(warm.size(), -1)
    position[old] = torch.arange(old.numel())
    user, item = data[INTERACTS].edge_index
    server = Recommender(
        x_dict[USER],
        x_dict[ITEM][old],
        user_ids=list(range(x_dict[USER].size(0))),
        item_ids=old.tolist(),
        seen=torch.stack([user, position[item]]),
    )
    server.fit_feature_mapper(
        {k: x[old] for k, x in features.items()}, {k: x[old] for k, x in masks.items()}
    )
    new = (~warm & torch.stack(list(masks.values())).any(0)).nonzero().view(-1)
    server.add_items(
        new.tolist(),
        {k: x[new] for k, x in features.items()},
        modality_mask={k: x[new] for k, x in masks.items()},
    )
    out = x_dict[ITEM][old].mean(0).expand(warm.numel(), -1).clone()
    out[torch.cat([old, new])] = server.item_x
    return out
