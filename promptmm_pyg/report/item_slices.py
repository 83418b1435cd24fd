"""An evaluation by what items lack."""

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    ITEM,
    USER,
    modality_mask_dict,
    modality_x_dict,
    num_nodes_dict,
)
from promptmm_pyg.evaluation import Evaluation
from promptmm_pyg.evaluation.metrics import metrics_per_user, positives
from promptmm_pyg.ranking import Ranking

_ROWS = 65_536  # Features may lie on disk: they are read in parts.


def missing_rows(data: HeteroData) -> dict[str, Tensor]:
    """Which items lack a modality ``[num_items]``, by modality: those that the mask
    says so of, and those with a row of zeros, which is how published data mark them.

    Args:
        data: A graph whose features are as they came, not standardized.
    """
    masks = modality_mask_dict(data)
    found = {}
    for name, x_of in modality_x_dict(data).items():
        if ITEM in x_of:
            there = torch.cat([x.any(dim=-1).cpu() for x in x_of[ITEM].split(_ROWS)])
            mask = masks.get(name, {}).get(ITEM)
            found[name] = ~(there if mask is None else there & mask.cpu())
    return found


def slice_by_missing(evaluation: Evaluation, data: HeteroData) -> dict[str, Evaluation]:
    """The evaluation of the positives whose item has every modality, and for each
    modality of those whose item lacks it. Parts without items are left out.

    Args:
        evaluation: What :func:`~promptmm_pyg.evaluation.evaluate` returned.
        data: The graph it was given.
    """
    gaps = {name: gone for name, gone in missing_rows(data).items() if gone.any()}
    any_gone = torch.zeros(num_nodes_dict(data)[ITEM], dtype=torch.bool)
    for gone in gaps.values():
        any_gone |= gone
    groups = {'has every modality': ~any_gone}
    groups |= {f'lacks {name}': gone for name, gone in gaps.items()}
    return {
        name: _of_items(evaluation, data, group)
        for name, group in groups.items()
        if group.any()
    }


def _of_items(evaluation: Evaluation, data: HeteroData, group: Tensor) -> Evaluation:
    user, item = (index.cpu() for index in positives(data))
    rows = torch.full((num_nodes_dict(data)[USER],), -1)
    rows[evaluation.users] = torch.arange(evaluation.users.numel())
    inside = group[item]
    users, row = torch.unique(user[inside], return_inverse=True)
    ranking = Ranking(*(x[rows[users]] for x in evaluation.ranking))
    per_user = metrics_per_user(
        ranking.item_index, row, item[inside], evaluation.num_items, evaluation.ks
    )
    return Evaluation(per_user, users, evaluation.num_items, ranking)
