"""Whether features seem to belong to the items they stand beside."""

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from promptmm_pyg.data.finding import Issue
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    modality_mask_dict,
    modality_x_dict,
)

_MOST = 20_000  # Pairs that are looked at.
_ALIKE = 0.05  # In standard deviations; less tells nothing apart.


def check_order(name: str, data: HeteroData) -> list[Issue]:
    """A warning for each modality in which items of one user are no more alike than
    any two items, as after a shuffle of the rows. Where there are too few pairs to
    tell, nothing is said.
    """
    pairs = _pairs_of_users(data[INTERACTS].edge_index)
    found = []
    for modality, x_of in modality_x_dict(data).items():
        if ITEM not in x_of:
            continue
        mask = modality_mask_dict(data).get(modality, {}).get(ITEM)
        alike = _how_alike(x_of[ITEM], mask, pairs)
        if alike is not None and alike < _ALIKE:
            found.append(
                Issue(
                    'warning',
                    f"{name}['{ITEM}'].x_{modality}",
                    'is no more alike for two items of one user than for any two',
                    'Compare a few rows with their ids: they may be in another order, '
                    'or tell nothing about taste',
                )
            )
    return found


def _pairs_of_users(edges: Tensor) -> Tensor:
    """Items ``[2, P]`` of which each pair has a user in common."""
    generator = torch.Generator().manual_seed(0)
    edges = edges.cpu()[:, torch.randperm(edges.size(1), generator=generator)]
    user, order = edges[0].sort(stable=True)
    item = edges[1][order]
    same = user[1:] == user[:-1]
    pairs = torch.stack([item[:-1][same], item[1:][same]])
    chosen = torch.randperm(pairs.size(1), generator=generator)[:_MOST]
    return pairs[:, chosen]


def _how_alike(x: Tensor, mask: Tensor | None, pairs: Tensor) -> float | None:
    """The least that the similarity of pairs may plausibly exceed that of the same
    items paired anyhow, were it known for sure; ``None`` if that cannot be told.
    """
    if mask is not None:
        pairs = pairs[:, mask.cpu()[pairs].all(dim=0)]
    if pairs.size(1) < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    shuffled = pairs[1][torch.randperm(pairs.size(1), generator=generator)]
    rows, place = pairs.unique(return_inverse=True)
    unit = normalize(_centred(x.detach()[rows.to(x.device)].cpu().float()), dim=-1)
    first, second = unit[place[0]], unit[place[1]]
    other = unit[torch.searchsorted(rows, shuffled)]
    apart = shuffled != pairs[0]
    there = (first * second).sum(-1)[pairs[0] != pairs[1]]
    anyhow = (first * other).sum(-1)[apart]
    if min(there.numel(), anyhow.numel()) < 2 or float(anyhow.std()) == 0:
        return None
    excess = float((there.mean() - anyhow.mean()) / anyhow.std())
    error = (1 / there.numel() + 1 / anyhow.numel()) ** 0.5
    return float(excess + 3 * error)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=0)
