"""Losses whose negatives are the other rows of the batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from promptmm_pyg.losses import info_nce_loss

ROWS = 2048
"""The batch size of the released codes, and so the most negatives of a row. The cost of
an epoch would grow with the batch size without this limit."""


def in_parts(loss: Callable[..., Tensor], *views: Tensor) -> Tensor:
    """The mean over rows of a loss that contrasts each row with the others. More than
    ``ROWS`` rows are contrasted in equal parts, of every second, third, ... row.

    Args:
        loss: The mean loss of rows of all views.
        *views: ``[B, D]`` each.
    """
    size = views[0].size(0)
    step = -(-size // ROWS)
    if step < 2:
        return loss(*views)
    parts = [[x[start::step] for x in views] for start in range(step)]
    return torch.stack([loss(*x) * (x[0].size(0) / size) for x in parts]).sum()


def contrast(
    anchor: Tensor, positive: Tensor, temperature: float, *, symmetric: bool = False
) -> Tensor:
    """InfoNCE from one view of nodes to another, or in both directions; zero for a
    single node, as it has no negative.

    Args:
        anchor: One view of the nodes ``[B, D]``.
        positive: The other view ``[B, D]``.
        temperature: Divides the cosines.
        symmetric: Whether the other direction is averaged in. (default: ``False``)
    """
    if anchor.size(0) < 2:
        return anchor.new_zeros(())
    return in_parts(
        lambda a, b: info_nce_loss(a, b, temperature, symmetric=symmetric),
        anchor,
        positive,
    )
