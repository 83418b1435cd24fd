"""Features of items as they come from outside."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Features = Mapping[str, Tensor | np.ndarray]
"""Rows by modality."""


def check_modalities(
    modality_x: Features,
    modality_mask: Features | None,
    channels: Mapping[str, int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features in single precision and masks for all, on the CPU; absent rows zero.

    Args:
        modality_x: Features ``[N, F_m]``, tensors or arrays.
        modality_mask: Boolean ``[N]``, or ``None``.
        channels: The widths that are allowed. (default: any)

    Raises:
        ValueError: If sizes or names do not fit, or a present row is not finite.
    """
    if not modality_x:
        raise ValueError("'modality_x' must contain at least one modality (got none)")
    masks = modality_mask or {}
    _check_names('modality_mask', masks, modality_x)
    if channels is not None:
        _check_names('modality_x', modality_x, channels)
    features, present = {}, {}
    for name, given in modality_x.items():
        what = f'modality_x[{name!r}]'
        x = torch.as_tensor(given).detach().cpu()
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
                f"{int(bad.nonzero()[0])}). Mark rows without it in 'modality_mask'"
            )
        features[name] = x
    sizes = {name: x.size(0) for name, x in features.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"'modality_x' must have equally many rows (got {sizes})")
    return features, present


def check_rows(name: str, x: Tensor, size: int) -> None:
    """Raises unless ``x`` has a row for each of ``size`` items."""
    if x.size(0) != size:
        raise ValueError(
            f"'{name}' must contain one row for each of {size} items (got {x.size(0)})"
        )


def _mask(name: str, given: Tensor | np.ndarray | None, size: int) -> Tensor:
    if given is None:
        return torch.ones(size, dtype=torch.bool)
    mask = torch.as_tensor(given).detach().cpu()
    if mask.dtype != torch.bool or list(mask.shape) != [size]:
        raise ValueError(
            f"'modality_mask[{name!r}]' must be boolean of shape [{size}] (got "
            f'{list(mask.shape)}, {mask.dtype})'
        )
    return mask


def _check_names(
    name: str, given: Mapping[str, object], known: Mapping[str, object]
) -> None:
    extra = sorted(set(given) - set(known))
    if extra:
        raise ValueError(
            f"'{name}' requires modalities of {sorted(known)} (got {extra})"
        )
