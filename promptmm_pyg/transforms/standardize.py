"""Modality features on one scale."""

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._utils import check_finite_features
from promptmm_pyg.data.schema import modality_mask_dict, modality_x_dict


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
