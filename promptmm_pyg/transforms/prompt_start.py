"""The starting point of every node's prompt: from content or at random."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._utils import check_choice, check_positive, checked_edges
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    USER,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.transforms.standardize import standardize

Combine = Literal['concat', 'mean']


class ItemComponents(BaseTransform):
    """Base of the transforms that decompose the items' features; :meth:`components`
    is the decomposition.
    """

    def __init__(self, out_channels: int, combine: Combine, seed: int) -> None:
        check_positive('out_channels', out_channels)
        check_choice('combine', combine, ('concat', 'mean'))
        self.out_channels = out_channels
        self.combine = combine
        self.seed = seed

    def components(self, x: Tensor) -> Tensor:
        """The components ``[N, out_channels]`` of features ``[N, F]``."""
        raise NotImplementedError

    def forward(self, data: HeteroData) -> HeteroData:
        start = item_components(data, self.combine, self.components)
        return with_prompt_start(data, start)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.out_channels}, combine='{self.combine}')"
        )


def item_components(
    data: HeteroData, combine: Combine, components: Callable[[Tensor], Tensor]
) -> Tensor:
    """Decomposes the standardized item modalities, jointly or separately.

    Args:
        data: A graph with item modalities.
        combine: ``'concat'`` decomposes them side by side, ``'mean'`` averages the
            components of each; an item without a modality uses those it has.
        components: Features ``[N, F]`` to components ``[N, P]``.

    Raises:
        ValueError: If no item has a modality, or one is not finite where it is present.
    """
    masks = modality_mask_dict(data)
    parts, present = [], []
    for modality, features in modality_x_dict(data).items():
        if ITEM in features:
            mask = masks.get(modality, {}).get(ITEM)
            x = features[ITEM]
            part = standardize(x, mask, f"data['{ITEM}'].x_{modality}")
            parts.append(part)
            ones = part.new_ones(x.size(0))
            present.append(ones if mask is None else mask.to(part))
    if not parts:
        raise ValueError(
            "'data' requires at least one item modality, 'data['item'].x_<name>' "
            '(got none). Build the teacher without a prompt instead'
        )
    num_present = torch.stack(present).sum(dim=0).clamp_min(1)[:, None]
    if combine == 'concat':
        # A missing block is zero; the others are scaled up.
        return components(torch.cat(parts, dim=1) * (len(parts) / num_present))
    pairs = zip([components(x) for x in parts], present, strict=True)
    return sum((s * p[:, None] for s, p in pairs), torch.zeros(())) / num_present


def with_prompt_start(data: HeteroData, start: Tensor) -> HeteroData:
    """Sets ``prompt_start``: on items at a root-mean-square of 1, on users the mean
    over the items of their message edges.

    Args:
        data: A graph; it is changed.
        start: The items' starting point ``[num_items, P]``.
    """
    start = start / start.square().mean().sqrt().clamp_min(1e-12)
    num_users = data.num_nodes_dict[USER]
    user, item = checked_edges(
        data[INTERACTS].edge_index,
        (num_users, start.size(0)),
        f'data[{INTERACTS}].edge_index',
    )
    total = start.new_zeros(num_users, start.size(1))
    total.index_add_(0, user, start[item])
    degree = torch.bincount(user, minlength=num_users).clamp_min(1)
    data[ITEM].prompt_start = start
    data[USER].prompt_start = total / degree[:, None]
    return data


@functional_transform('add_random_prompt')
class AddRandomPrompt(BaseTransform):
    """Adds ``prompt_start`` to users and items: for items normal random numbers at a
    root-mean-square of 1, and for users their mean over the items of the message
    edges.

    The baseline of :class:`~promptmm_pyg.transforms.AddModalityPCA`: the same scale and
    shape without features.

    Args:
        out_channels: The number of columns. (default: ``32``)
        seed: Seed of the numbers. (default: ``0``)
    """

    def __init__(self, out_channels: int = 32, seed: int = 0) -> None:
        check_positive('out_channels', out_channels)
        self.out_channels = out_channels
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        generator = torch.Generator().manual_seed(self.seed)
        num_items = data.num_nodes_dict[ITEM]
        start = torch.randn(num_items, self.out_channels, generator=generator)
        return with_prompt_start(data, start.to(data[INTERACTS].edge_index.device))

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.out_channels}, seed={self.seed})'
