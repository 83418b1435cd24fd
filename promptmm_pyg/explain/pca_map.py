"""Two-dimensional maps of embeddings."""

from typing import NamedTuple

import torch
from torch import Tensor


class PCAMap(NamedTuple):
    """Coordinates on the first two principal axes."""

    points: Tensor
    """``[N, 2]``, on the CPU in single precision."""
    share: tuple[float, float]
    """The explained variance ratio of each axis."""


def pca_map(x: Tensor, *, seed: int = 0) -> PCAMap:
    """The rows of ``x`` on their first two principal axes.

    The result is deterministic: the randomized decomposition has its own seed, and on
    every axis the entry with the largest absolute value is positive. A missing second
    axis (one row or one column) has zero coordinates.

    Args:
        x: Rows ``[N, D]``, of any floating type.
        seed: Seed of the decomposition. (default: ``0``)

    Raises:
        ValueError: If ``x`` is not a matrix, is empty or not finite.

    Example:
        >>> pca_map(torch.tensor([[0.0, 0.0], [0.0, 2.0]])).points[:, 0]
        tensor([-1.,  1.])
    """
    if x.dim() != 2 or x.numel() == 0:
        raise ValueError(
            f"'x' must have shape [N, D] with a row and a column (got {list(x.shape)})"
        )
    x = x.detach().cpu().float()
    if not bool(x.isfinite().all()):
        raise ValueError("'x' must be finite (got NaN or infinite entries)")
    x = x - x.mean(dim=0)
    width = min(16, *x.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, axes = torch.pca_lowrank(x, q=width, center=False, niter=8)
    axes = axes[:, :2]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    points = x.new_zeros(x.size(0), 2)
    points[:, : axes.size(1)] = x @ (axes * torch.where(largest < 0, -1.0, 1.0))
    total = float(x.square().sum())
    first, second = points.square().sum(dim=0).tolist()
    share = (first / total, second / total) if total > 0 else (0.0, 0.0)
    return PCAMap(points, share)
