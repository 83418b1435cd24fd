"""Items whose content is hidden, as if it had never been there."""

from typing import Literal

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data import (
    ITEM,
    modality_mask_dict,
    modality_x_dict,
    num_nodes_dict,
)

Pattern = Literal['items', 'modalities']


def hide_content(
    data: HeteroData, share: float, seed: int, pattern: Pattern = 'items'
) -> HeteroData:
    """A copy in which a share of the items lacks every modality, or each modality a
    share of the items: zero, and false in the mask. With the same seed, the items of a
    smaller share are among them.

    Args:
        data: Graph with features on items.
        share: Share of the items, in [0, 1], some of which may lack it already.
        seed: Which draw.
        pattern: ``'items'`` hides all modalities of the same items, ``'modalities'``
            draws for each modality anew. (default: ``'items'``)

    Raises:
        ValueError: If ``share`` is none.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"'share' must be in [0, 1] (got {share})")
    num_items = num_nodes_dict(data)[ITEM]
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


def absent(data: HeteroData) -> float:
    """The part of all pairs of item and modality that is missing."""
    masks = [mask[ITEM] for mask in modality_mask_dict(data).values()]
    return 1 - float(torch.stack(masks).float().mean())
