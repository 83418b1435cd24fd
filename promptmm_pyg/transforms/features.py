"""Modality features: standardized, and imputed where they are missing."""

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._utils import check_finite_features
from promptmm_pyg.data.schema import (
    INTERACTS,
    USER,
    modality_mask_dict,
    modality_x_dict,
)


@functional_transform('standardize_modalities')
class StandardizeModalities(BaseTransform):
    r"""Shifts and scales every feature column to mean 0 and variance 1 over the rows
    that are present, and divides by :math:`\sqrt{F}`: the mean squared norm of the rows
    is 1 for any width. Missing rows become zero, the mean. Constant columns become
    zero.

    Interactions are not read, so nothing leaks from a split.
    """

    def forward(self, data: HeteroData) -> HeteroData:
        masks, names = modality_mask_dict(data), []
        for modality, features in modality_x_dict(data).items():
            for node_type, x in features.items():
                mask = masks.get(modality, {}).get(node_type)
                name = f'x_{modality}'
                label = f"data['{node_type}'].{name}"
                data[node_type][name] = standardize(x, mask, label)
                names.append(f'{node_type}.{name}')
        data.standardized = tuple(names)
        return data


def standardize(x: Tensor, mask: Tensor | None = None, name: str = 'x') -> Tensor:
    """Returns the standardized copy of one feature matrix.

    Args:
        x: Features ``[N, F]``; whole numbers become floating ones.
        mask: Boolean ``[N]``, ``True`` where the row is present.
        name: Their name in messages. (default: ``'x'``)

    Raises:
        ValueError: If a present row is not finite.
    """
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    present = x.double() if mask is None else x[mask].double()
    check_finite_features(name, [present])
    if present.size(0) == 0:
        return torch.zeros_like(x)
    mean = present.mean(dim=0)
    std = present.std(dim=0, correction=0)
    # A constant column has a tiny standard deviation, not always an exact zero.
    constant = std <= 1e-9 * present.abs().amax(dim=0).clamp_min(1e-30)
    scale = torch.where(constant, 0.0, 1.0 / std.clamp_min(1e-30)) / x.size(1) ** 0.5
    out: Tensor = ((x - mean.to(x.dtype)) * scale.to(x.dtype)).to(x.dtype)
    return out if mask is None else out.masked_fill(~mask[:, None], 0.0)


def is_standardized(data: HeteroData) -> bool:
    """Whether :class:`StandardizeModalities` was applied to all features of ``data``,
    whose names it stores in ``data.standardized``.

    Args:
        data: A graph with modality features.

    Example:
        >>> from promptmm_pyg.data import make_synthetic_dataset
        >>> data = make_synthetic_dataset(30, 20)
        >>> is_standardized(data), is_standardized(StandardizeModalities()(data))
        (False, True)
    """
    names = {
        f'{node_type}.x_{modality}'
        for modality, features in modality_x_dict(data).items()
        for node_type in features
    }
    return names <= set(getattr(data, 'standardized', ()))


@functional_transform('impute_from_neighbors')
class ImputeFromNeighbors(BaseTransform):
    r"""Fills missing feature rows with the mean of present rows of the same modality,
    two hops away on the message edges.

    .. math::
        \mathbf{x}_i = \frac{\sum_{u \in \mathcal{N}(i)} \sum_{j \in \mathcal{N}(u)}
        m_j \, \mathbf{x}_j}{\sum_{u \in \mathcal{N}(i)} \sum_{j \in \mathcal{N}(u)}
        m_j}

    For an item, these are the items with a common user, counted once per common user;
    for a user, the users with a common item. Without a present row there, it is the
    mean of all present rows, and without those, zero. Present rows and masks are left
    unchanged.

    Standardize before: afterwards it would set missing rows to zero. Without the mask,
    a model uses the imputed rows.

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
    # A column of ones counts the summed rows.
    rows = torch.cat([x, x.new_ones(x.size(0), 1)], dim=1)
    rows = rows.to(torch.promote_types(x.dtype, torch.float))
    rows = rows.masked_fill(~mask[:, None], 0.0)
    to_missing = ~mask[node]
    # Sums are required at the other ends of these edges only.
    between = other[to_missing].unique()
    position = torch.full((num_others,), -1, device=x.device)
    position[between] = torch.arange(between.numel(), device=x.device)
    near = position[other] >= 0
    sums = _sum_rows(position[other[near]], node[near], rows, between.numel())
    sums = _sum_rows(node[to_missing], position[other[to_missing]], sums, x.size(0))
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
