"""The best tables of a given width for scores that are only known as a product."""

from collections.abc import Callable

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive

Product = Callable[[Tensor], Tensor]

_OVERSAMPLING = 10
_POWER_ITERATIONS = 8


def low_rank(
    product: Product,
    transposed: Product,
    shape: tuple[int, int],
    width: int,
    *,
    seed: int = 0,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Two tables whose inner products are closest to a matrix :math:`\mathbf{M}`,
    by the truncated singular value decomposition.

    .. math::
        \mathbf{M} \approx \mathbf{Q} \mathbf{Q}^{\top} \mathbf{M} \approx (\mathbf{U}
        \sqrt{\mathbf{\Sigma}}) (\mathbf{V} \sqrt{\mathbf{\Sigma}})^{\top}

    The range :math:`\mathbf{Q}` is found by subspace iteration from a random start,
    as in `"Finding Structure with Randomness" <https://arxiv.org/abs/0909.4061>`_,
    so that :math:`\mathbf{M}` is needed as an operator only
    (:func:`torch.svd_lowrank` asks for the matrix).

    Args:
        product: ``[num_cols, R]`` to :math:`\mathbf{M}` times it, ``[num_rows, R]``.
        transposed: ``[num_rows, R]`` to :math:`\mathbf{M}^{\top}` times it.
        shape: ``(num_rows, num_cols)``.
        width: The width :math:`D` of the tables, at most the smaller size.
        seed: Seed of the start. (default: ``0``)
        device: Where the operator is. (default: CPU)

    Returns:
        Tables ``[num_rows, D]`` and ``[num_cols, D]``.

    Raises:
        ValueError: If ``width`` is not positive or larger than a side.

    Example:
        >>> m = torch.diag(torch.tensor([4.0, 1.0]))
        >>> rows, cols = low_rank(lambda x: m @ x, lambda x: m.t() @ x, (2, 2), 1)
        >>> (rows @ cols.t()).round(decimals=3).abs()
        tensor([[4., 0.],
                [0., 0.]])
    """
    check_positive('width', width)
    if width > min(shape):
        raise ValueError(
            f"'width' must be at most {min(shape)}, the smaller side of the score "
            f'matrix (got {width})'
        )
    rank = min(width + _OVERSAMPLING, *shape)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(shape[1], rank, generator=generator).to(device)
    basis = _orthonormal(product(start))
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(product(_orthonormal(transposed(basis))))
    right, sigma, left = torch.linalg.svd(transposed(basis), full_matrices=False)
    root = sigma[:width].sqrt()
    return (basis @ left.mT)[:, :width] * root, right[:, :width] * root


def _orthonormal(x: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(x).Q
    return q
