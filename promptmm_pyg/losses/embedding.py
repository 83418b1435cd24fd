"""Distillation of embeddings: the direction of a vector, not its length."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_same_shape
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.losses._checks_scores import check_finite
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def scaled_cosine_loss(
    student_x: Tensor,
    teacher_x: Tensor,
    gamma: float = 2.0,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns :math:`(1 - \cos(\mathbf{x}^S, \mathbf{x}^T))^{\gamma}`, see
    :class:`ScaledCosineLoss`.

    Args:
        student_x: Embeddings ``[N, D]``.
        teacher_x: Embeddings ``[N, D]``.
        gamma: The exponent, at least 1. (default: ``2.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a value is not finite, ``gamma`` is below 1 or
            the reduction is unknown.

    Example:
        >>> opposite = torch.tensor([[1.0, 0.0]]), torch.tensor([[-3.0, 0.0]])
        >>> scaled_cosine_loss(*opposite)
        tensor(4.)
    """
    check_same_shape('student_x', student_x, 'teacher_x', teacher_x)
    _check_gamma(gamma)
    cosine = (_unit('student_x', student_x) * _unit('teacher_x', teacher_x)).sum(dim=-1)
    # Rounding can leave 1 - cos slightly below zero, where a power has no value.
    return reduce((1 - cosine).clamp_min(0) ** gamma, reduction)


def _check_gamma(gamma: float) -> None:
    if not gamma >= 1:
        raise ValueError(
            f"'gamma' must be at least 1 (got {gamma}). Below, the gradient has no "
            f'bound where both agree'
        )


def unit_mse_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    """Returns the squared distance of the two vectors at unit length, summed over
    channels: twice one minus their cosine.

    Args:
        student_x: Embeddings ``[N, D]``.
        teacher_x: Embeddings ``[N, D]``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a value is not finite or the reduction is
            unknown.
    """
    check_same_shape('student_x', student_x, 'teacher_x', teacher_x)
    gap = _unit('student_x', student_x) - _unit('teacher_x', teacher_x)
    return reduce(gap.square().sum(dim=-1), reduction)


def _unit(name: str, x: Tensor) -> Tensor:
    check_finite(name, x)
    return l2_normalize(at_least_float32(x))


class ScaledCosineLoss(torch.nn.Module):
    r"""The scaled cosine error of the `"GraphMAE: Self-Supervised Masked Graph
    Autoencoders" <https://arxiv.org/abs/2205.10803>`_ paper, with which the
    `"PromptMM" <https://arxiv.org/abs/2402.17188>`_ paper distills embeddings.

    .. math::
        \mathcal{L} = \left( 1 - \frac{\mathbf{x}^S \cdot \mathbf{x}^T}
        {\|\mathbf{x}^S\| \, \|\mathbf{x}^T\|} \right)^{\gamma}

    A zero vector has cosine 0 with all others. Where student and teacher have
    different widths, project the student first and drop the projection later.
    Gradients flow to both inputs.

    Args:
        gamma: :math:`\gamma \geq 1`; the larger, the less the easy rows count.
            (default: ``2.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** embeddings of student and teacher :math:`(N, D)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def __init__(self, gamma: float = 2.0, reduction: Reduction = 'mean') -> None:
        super().__init__()
        _check_gamma(gamma)
        check_reduction(reduction)
        self.gamma = gamma
        self.reduction = reduction

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return scaled_cosine_loss(student_x, teacher_x, self.gamma, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"gamma={self.gamma}, reduction='{self.reduction}'"


class UnitMSELoss(torch.nn.Module):
    r"""The squared distance of unit vectors.

    .. math::
        \mathcal{L} = \left\| \frac{\mathbf{x}^S}{\|\mathbf{x}^S\|} -
        \frac{\mathbf{x}^T}{\|\mathbf{x}^T\|} \right\|^2

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** embeddings of student and teacher :math:`(N, D)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return unit_mse_loss(student_x, teacher_x, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"
