"""Item features: checks and standardization."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Features = Mapping[str, Tensor | np.ndarray]
"""Rows by modality."""


class Standard(NamedTuple):
    """How the features of each modality are standardized."""

    channels: dict[str, int]
    mean: dict[str, Tensor]
    scale: dict[str, Tensor]
    """What differences to the mean are multiplied by."""

    def apply(self, name: str, x: Tensor) -> Tensor:
        """Standardized features of one modality."""
        return (x - self.mean[name]) * self.scale[name]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale that give columns of mean 0 and rows of squared norm 1."""
    if x.size(0) == 0:
        return torch.zeros(x.size(1)), torch.zeros(x.size(1))
    x = x.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    # A constant column has a tiny standard deviation, not always an exact zero.
    constant = std <= 1e-6 * x.abs().amax(0).clamp_min(1e-30)
    scale = torch.where(constant, 0.0, 1.0 / std.clamp_min(1e-30))
    return mean.float(), (scale / x.size(1) ** 0.5).float()


def check_features(
    modality_x: Features,
    modality_mask: Features | None,
    channels: Mapping[str, int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features in single precision and masks of all modalities, on the CPU; absent
    rows are zero.

    Args:
        modality_x: Features ``[N, F_m]``, tensors or arrays.
        modality_mask: Boolean ``[N]``, or ``None``.
        channels: The widths that are allowed. (default: any)

    Raises:
        ValueError: If sizes or names do not match, or a present row is not finite.
    """
    if not modality_x:
        raise ValueError("'modality_x' must contain at least one modality (got none)")
    masks = modality_mask or {}
    _check_names('modality_mask', masks, modality_x)
    if channels is not None:
        _check_names('modality_x', modality_x, channels)
    features, present = {}, {}
    for name, rows in modality_x.items():
        what = f'modality_x[{name!r}]'
        x = torch.as_tensor(rows).detach().cpu()
        if x.dim() != 2 or not x.is_floating_point():
            raise ValueError(
                f"'{what}' must be a floating point matrix [N, channels] (got "
                f'{list(x.shape)}, {x.dtype})'
            )
        if channels is not None and x.size(1) != channels[name]:
            raise ValueError(
                f"'{what}' must have {channels[name]} channels, as in training "
                f'(got {x.size(1)})'
            )
        present[name] = _mask(name, masks.get(name), x.size(0))
        x = x.float().masked_fill(~present[name][:, None], 0.0)
        bad = ~x.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f"'{what}' must be finite (got NaN or infinity in row "
                f"{int(bad.nonzero()[0])}). Mark absent rows in 'modality_mask'"
            )
        features[name] = x
    sizes = {name: x.size(0) for name, x in features.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"'modality_x' must have equally many rows (got {sizes})")
    return features, present


def _mask(name: str, mask: Tensor | np.ndarray | None, size: int) -> Tensor:
    if mask is None:
        return torch.ones(size, dtype=torch.bool)
    mask = torch.as_tensor(mask).detach().cpu()
    if mask.dtype != torch.bool or list(mask.shape) != [size]:
        raise ValueError(
            f"'modality_mask[{name!r}]' must be boolean of shape [{size}] (got "
            f'{list(mask.shape)}, {mask.dtype})'
        )
    return mask


def _check_names(
    name: str, names: Mapping[str, object], known: Mapping[str, object]
) -> None:
    extra = sorted(set(names) - set(known))
    if extra:
        raise ValueError(
            f"'{name}' must contain modalities of {sorted(known)} only (got {extra})"
        )
