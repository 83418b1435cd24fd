"""Data with missing or wrong content, and data split by items without interactions."""

import copy
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
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
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityPCA,
    ImputeFromNeighbors,
    StandardizeModalities,
)

Pattern = Literal['items', 'modalities']
Corruption = Literal['missing', 'noise']


def mask_content(
    data: HeteroData, share: float, seed: int, pattern: Pattern = 'items'
) -> HeteroData:
    """A copy in which content of a share of the items is missing: zeros, and false in
    the mask. With the same seed, a larger share contains the items of a smaller one.

    Args:
        data: Graph with features on items.
        share: Share of the items, in [0, 1].
        seed: Seed of the draw.
        pattern: ``'items'`` masks all modalities of the same items, ``'modalities'``
            draws the items of each modality separately. (default: ``'items'``)

    Raises:
        ValueError: If ``share`` or ``pattern`` does not fit.
    """
    _check_share(share)
    check_choice('pattern', pattern, ('items', 'modalities'))
    num_items = int(data[ITEM].num_nodes)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_items, generator=generator)
    out, masks = data.clone(), modality_mask_dict(data)
    for modality, x_dict in modality_x_dict(data).items():
        if ITEM in x_dict:
            hidden = order[: round(share * num_items)]
            every = torch.ones(num_items, dtype=torch.bool)
            mask = masks.get(modality, {}).get(ITEM, every)
            out[ITEM][f'x_{modality}'] = x_dict[ITEM].index_fill(0, hidden, 0.0)
            out[ITEM][f'mask_{modality}'] = mask.index_fill(0, hidden, False)
            if pattern == 'modalities':
                order = torch.randperm(num_items, generator=generator)
    return out


def missing_ratio(data: HeteroData) -> float:
    """The missing share of all pairs of item and modality."""
    masks = [mask[ITEM] for mask in modality_mask_dict(data).values()]
    return 1 - float(torch.stack(masks).float().mean()) if masks else 0.0


def swap_content(data: HeteroData, share: float, seed: int) -> HeteroData:
    """A copy in which a share of the items has the content of other items.

    Each modality of such an item, with its mask, is that of another item, drawn
    separately for each modality. Items are drawn without replacement, donors with.

    Args:
        data: Graph with features on items.
        share: Share of the items, in [0, 1].
        seed: Seed of the draw.

    Raises:
        ValueError: If ``share`` does not fit, or there is no other item.
    """
    _check_share(share)
    num_items = int(data[ITEM].num_nodes)
    if num_items < 2:
        raise ValueError(f"'data' requires at least two items (got {num_items})")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_items, generator=generator)
    noisy = order[: round(share * num_items)]
    out = data.clone()
    masks = modality_mask_dict(data)
    for modality, x_dict in modality_x_dict(data).items():
        steps = torch.randint(1, num_items, noisy.size(), generator=generator)
        donor = (noisy + steps) % num_items  # Never the item itself.
        tables = {f'x_{modality}': x_dict.get(ITEM)}
        tables[f'mask_{modality}'] = masks.get(modality, {}).get(ITEM)
        for name, table in tables.items():
            if table is not None:
                out[ITEM][name] = table.index_copy(0, noisy, table[donor])
    return out


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"'share' must be in [0, 1] (got {share})")


def prepare_imputed(data: HeteroData, prompt_channels: int) -> HeteroData:
    """The prepared graph with missing features imputed from neighbors, without masks:
    the prompt starts from the imputed features, too.
    """
    data = ImputeFromNeighbors()(StandardizeModalities()(data))
    for modality in modality_mask_dict(data):
        del data[ITEM][f'mask_{modality}']
    return AddModalityPCA(prompt_channels)(AddBipartiteNorm()(data))


def merge_split(split: Split) -> HeteroData:
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
    """The split by cold items, and its training edges split per user, for the
    validation that stops training.
    """
    outer = split_cold_items(data)
    edge_index = outer.train[INTERACTS].edge_index
    warm = split_per_user(_with_edges(outer.train, edge_index), test_ratio=0.0)
    return outer, warm


def positive_items(data: HeteroData) -> Tensor:
    """The items among the positives, a mask ``[num_items]``."""
    mask = torch.zeros(int(data[ITEM].num_nodes), dtype=torch.bool)
    mask[data[INTERACTS].edge_label_index[1]] = True
    return mask


def predict_cold_items(
    x_dict: dict[str, Tensor], data: HeteroData, warm: Tensor
) -> Tensor:
    """Item embeddings in which those of cold items are predicted from features, as
    :class:`~promptmm_pyg.serving.Recommender` does for new items. A cold item without
    features has the mean of the warm items.

    Args:
        x_dict: Embeddings of a model without features.
        data: The training graph, with features.
        warm: The items with training interactions, ``[num_items]``.
    """
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
