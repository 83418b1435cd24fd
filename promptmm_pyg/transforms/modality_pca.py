"""The starting point of the soft prompt."""

from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._checks import check_choice, check_positive
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    USER,
    modality_mask_dict,
    modality_x_dict,
    num_nodes_dict,
)
from promptmm_pyg.transforms.standardize import standardize

_EXACT_WIDTH = 1024  # Up to here the covariance is decomposed exactly.


@functional_transform('add_modality_pca')
class AddModalityPCA(BaseTransform):
    r"""Adds ``prompt_start`` to users and items: the principal components of the
    items' content, and for users their mean over the items of the message edges.

    Modalities are standardized first, so that neither width nor scale decides.
    Components are found once, on all items' content, with a fixed seed and fixed
    signs: the same data gives the same prompt. The result is scaled to a
    root-mean-square of 1 over items.

    The paper averages the components of each modality (``combine='mean'``), whose
    axes have nothing to do with each other; ``combine='concat'`` decomposes all
    modalities together. Items where a modality is absent use those they have.

    Call it on a graph whose message edges are *training* edges.

    Args:
        out_channels: The number of components. Content of a lower rank is padded
            with zeros. (default: ``32``)
        combine: ``'concat'`` or ``'mean'``. (default: ``'concat'``)
        seed: Seed of the randomized decomposition, used above 1,024 columns.
            (default: ``0``)
    """

    def __init__(
        self,
        out_channels: int = 32,
        combine: Literal['concat', 'mean'] = 'concat',
        seed: int = 0,
    ) -> None:
        check_positive('out_channels', out_channels)
        check_choice('combine', combine, ('concat', 'mean'))
        self.out_channels = out_channels
        self.combine = combine
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        start = self._item_start(data)
        num_users = num_nodes_dict(data)[USER]
        user, item = data[INTERACTS].edge_index
        total = start.new_zeros(num_users, start.size(1))
        total.index_add_(0, user, start[item])
        degree = torch.bincount(user, minlength=num_users).clamp_min(1)
        data[ITEM].prompt_start = start
        data[USER].prompt_start = total / degree[:, None]
        return data

    def _item_start(self, data: HeteroData) -> Tensor:
        masks = modality_mask_dict(data)
        parts, present = [], []
        for modality, features in modality_x_dict(data).items():
            if ITEM in features:
                mask = masks.get(modality, {}).get(ITEM)
                x = features[ITEM]
                parts.append(standardize(x, mask))
                present.append(x.new_ones(x.size(0)) if mask is None else mask.to(x))
        if not parts:
            raise ValueError(
                "'data' needs at least one item modality, 'data['item'].x_<name>' "
                '(got none). Build the teacher without a prompt instead'
            )
        share = torch.stack(present).sum(dim=0).clamp_min(1)[:, None]
        if self.combine == 'concat':
            # A missing block is zero; what is there counts the more.
            x = torch.cat(parts, dim=1) * (len(parts) / share)
            start = principal_components(x, self.out_channels, self.seed)
        else:
            scores = [
                principal_components(x, self.out_channels, self.seed) for x in parts
            ]
            pairs = zip(scores, present, strict=True)
            start = sum((s * p[:, None] for s, p in pairs), torch.zeros(())) / share
        rms = start.square().mean().sqrt()
        return start / rms.clamp_min(1e-12)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.out_channels}, combine='{self.combine}')"
        )


def principal_components(x: Tensor, out_channels: int, seed: int = 0) -> Tensor:
    """Returns the scores ``[N, out_channels]`` of the rows of ``x`` on its principal
    axes, strongest first, each axis turned so that its largest entry is positive.

    Args:
        x: Features ``[N, F]``; centered here.
        out_channels: The number of axes; those beyond the rank are zero.
        seed: Seed of the randomized decomposition of wide features.
    """
    centered = (x - x.mean(dim=0)).double()
    rank = min(out_channels, *centered.shape)
    if centered.size(1) <= _EXACT_WIDTH:
        values, vectors = torch.linalg.eigh(centered.t() @ centered)
        axes = vectors.flip(1)[:, :rank]
        kept = values.flip(0)[:rank] > 1e-10 * values.max().clamp_min(1e-30)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _, sizes, axes = torch.svd_lowrank(centered, q=rank, niter=4)
        kept = sizes > 1e-5 * sizes.max().clamp_min(1e-30)
    strongest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * strongest.sign() * kept
    scores = centered @ axes
    out = scores.new_zeros(x.size(0), out_channels)
    out[:, :rank] = scores
    components: Tensor = out.to(x.dtype)
    return components
