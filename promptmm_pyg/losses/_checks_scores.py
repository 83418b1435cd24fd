"""Checks of the scores and the masks that losses take."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_same_shape


class NotFiniteError(ValueError, FloatingPointError):
    """Scores that are NaN or infinite: a wrong value where a user passes them, and
    an arithmetic error where training made them.
    """


def check_finite(name: str, x: Tensor, mask: Tensor | None = None) -> None:
    """Raises unless every value of ``x`` is finite where ``mask`` is true."""
    x = x.detach()
    if mask is not None:
        x = x.masked_fill(~mask, 0)
    if x.numel() == 0:
        return
    # Both pass NaN on, in one pass over memory; `isfinite` would write four.
    low, high = torch.aminmax(x)
    if not bool(low.isfinite() & high.isfinite()):
        raise NotFiniteError(
            f"'{name}' must be finite (got {int(x.isnan().sum())} NaN and "
            f'{int(x.isinf().sum())} infinite of {x.numel()} values). Often the '
            f'learning rate is too high'
        )


def check_lists(name: str, x: Tensor) -> None:
    """Raises unless ``x`` is ``[B, K]`` with at least one candidate per list."""
    if x.dim() != 2 or x.size(1) == 0:
        raise ValueError(
            f"'{name}' must be lists [B, K] of at least one candidate "
            f'(got shape {list(x.size())})'
        )


def check_mask(logits_name: str, logits: Tensor, name: str, mask: Tensor) -> None:
    """Raises unless ``mask`` is boolean, of the shape of ``logits``, and leaves every
    row a candidate.
    """
    check_selection(logits_name, logits, name, mask)
    empty = ~mask.any(dim=-1)
    if bool(empty.any()):
        raise ValueError(
            f"Every row of '{name}' requires at least one candidate (got "
            f'{int(empty.sum())} rows without). Leave these lists out'
        )


def check_selection(logits_name: str, logits: Tensor, name: str, mask: Tensor) -> None:
    """Raises unless ``mask`` is boolean and of the shape of ``logits``."""
    check_same_shape(logits_name, logits, name, mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"'{name}' must be boolean (got {mask.dtype})")
