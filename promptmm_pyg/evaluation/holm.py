"""P-values of several tests that are read together."""

from collections.abc import Sequence

import torch
from torch import Tensor


def holm(p_values: Tensor | Sequence[float]) -> Tensor:
    r"""Adjusted p-values of a family of tests: rejecting those at most
    :math:`\alpha` keeps the probability of any false rejection at most
    :math:`\alpha`, whatever the tests have to do with each other, after the `"A
    Simple Sequentially Rejective Multiple Test Procedure"
    <https://www.jstor.org/stable/4615733>`_ paper.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`,

    .. math::
        \tilde{p}_{(i)} = \min \left( 1, \max_{j \le i} \, (m - j + 1) \, p_{(j)}
        \right)

    Args:
        p_values: One p-value a test, ``[m]``, in any order.

    Returns:
        The adjusted values in the order given, ``[m]``, in double precision.

    Raises:
        ValueError: If a value is NaN or outside [0, 1], or there are several
            dimensions.

    Example:
        >>> holm([0.25, 0.0625, 1.0]).tolist()
        [0.5, 0.1875, 1.0]
    """
    p = torch.as_tensor(p_values, dtype=torch.double).detach().cpu()
    if p.dim() != 1:
        raise ValueError(f"'p_values' requires the shape [m] (got {list(p.size())})")
    wrong = p[~((p >= 0) & (p <= 1))]  # NaN is in no range.
    if wrong.numel() > 0:
        raise ValueError(f"'p_values' must be in [0, 1] (got {float(wrong[0])})")
    order = p.argsort(stable=True)
    steps = torch.arange(p.numel(), 0, -1, dtype=torch.double)
    adjusted = torch.empty_like(p)
    adjusted[order] = (steps * p[order]).cummax(dim=0).values.clamp(max=1.0)
    return adjusted
