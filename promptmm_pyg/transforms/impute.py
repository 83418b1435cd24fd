"""Features for rows that have none, from the items or users around them."""

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg.data.schema import (
    INTERACTS,
    USER,
    modality_mask_dict,
    modality_x_dict,
)


@functional_transform('impute_from_neighbors')
class ImputeFromNeighbors(BaseTransform):
    r"""Fills the feature rows that a mask calls absent with the mean of present rows of
    the same modality, two hops away on the message edges.

    .. math::
        \mathbf{x}_i = \frac{\sum_{u \in \mathcal{N}(i)} \sum_{j \in \mathcal{N}(u)}
        m_j \, \mathbf{x}_j}{\sum_{u \in \mathcal{N}(i)} \sum_{j \in \mathcal{N}(u)}
        m_j}

    An item takes from the items that share a user with it, each as often as they
    share one; a user from the users that share an item. Without any present
    row there, it is the mean of all present rows, and without those, zero. Present
    rows and masks stay as they are.

    Standardize before, not after, for that sets absent rows to zero. A model that is to
    read what is filled in must not be given the mask.

    Call it on a graph whose message edges are *training* edges.
    """

    def forward(self, data: HeteroData) -> HeteroData:
        masks, num_nodes = modality_mask_dict(data), data.num_nodes_dict
        for modality, features in modality_x_dict(data).items():
            for node_type, x in features.items():
                mask = masks.get(modality, {}).get(node_type)
                if mask is None or bool(mask.all()):
                    continue
                user, item = data[INTERACTS].edge_index
                pair = (user, item) if node_type == USER else (item, user)
                num_others = sum(num_nodes.values()) - num_nodes[node_type]
                data[node_type][f'x_{modality}'] = _impute(x, mask, *pair, num_others)
        return data


def _impute(
    x: Tensor, mask: Tensor, node: Tensor, other: Tensor, num_others: int
) -> Tensor:
    """Two sparse products; no node-by-node matrix, no row per edge."""
    # One column more, of ones, counts the rows that are summed.
    rows = torch.cat([x, x.new_ones(x.size(0), 1)], dim=1)
    rows = rows.to(torch.promote_types(x.dtype, torch.float))
    rows = rows.masked_fill(~mask[:, None], 0.0)
    to_absent = ~mask[node]
    # Sums are needed at the other ends of these edges only.
    between = other[to_absent].unique()
    position = torch.full((num_others,), -1, device=x.device)
    position[between] = torch.arange(between.numel(), device=x.device)
    near = position[other] >= 0
    sums = _sum_rows(position[other[near]], node[near], rows, between.numel())
    sums = _sum_rows(node[to_absent], position[other[to_absent]], sums, x.size(0))
    total, count = sums[~mask].tensor_split([x.size(1)], dim=1)
    everywhere = rows[:, :-1].sum(dim=0) / mask.sum().clamp_min(1)
    filled = torch.where(count > 0, total / count.clamp_min(1), everywhere)
    out = x.clone()
    out[~mask] = filled.to(x.dtype)
    return out


def _sum_rows(target: Tensor, source: Tensor, rows: Tensor, num: int) -> Tensor:
    index = torch.stack([target, source])
    ones = rows.new_ones(target.numel())
    matrix = torch.sparse_coo_tensor(
        index, ones, (num, rows.size(0)), check_invariants=False
    )
    out: Tensor = torch.sparse.mm(matrix, rows)
    return out
