"""Pair-wise ranking distillation."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._bernoulli import bernoulli_divergence
from promptmm_pyg.losses._checks_scores import check_finite
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def pairwise_kd_loss(
    student_margin: Tensor,
    teacher_margin: Tensor,
    temperature: float = 1.0,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two beliefs that the first item of a pair is
    preferred, see :class:`PairwiseKDLoss`.

    Args:
        student_margin: Score of the positive minus score of the negative ``[B]``.
        teacher_margin: The teacher's ``[B]``.
        temperature: Softens both beliefs. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a margin is not finite, the temperature is not
            positive or the reduction is unknown.
    """
    check_same_shape('student_margin', student_margin, 'teacher_margin', teacher_margin)
    check_positive('temperature', temperature)
    check_finite('student_margin', student_margin)
    check_finite('teacher_margin', teacher_margin)
    student = at_least_float32(student_margin) / temperature
    teacher = at_least_float32(teacher_margin) / temperature
    return reduce(temperature**2 * bernoulli_divergence(student, teacher), reduction)


class PairwiseKDLoss(torch.nn.Module):
    r"""Pair-wise ranking distillation after the `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper, as the Kullback-Leibler divergence of
    two Bernoulli distributions.

    .. math::
        \mathcal{L} = \tau^2 \left( \pi^T \log \frac{\pi^T}{\pi^S} + (1 - \pi^T)
        \log \frac{1 - \pi^T}{1 - \pi^S} \right), \qquad
        \pi = \sigma \left( \frac{y^+ - y^-}{\tau} \right)

    Its gradient with respect to the student's margin is :math:`\tau (\pi^S -
    \pi^T)`: zero where both agree, and towards the teacher from either side.
    Gradients flow to both inputs.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Shapes:
        - **inputs:** margins of student and teacher :math:`(B,)`
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(self, temperature: float = 1.0, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_positive('temperature', temperature)
        check_reduction(reduction)
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, student_margin: Tensor, teacher_margin: Tensor) -> Tensor:
        return pairwise_kd_loss(
            student_margin, teacher_margin, self.temperature, self.reduction
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"temperature={self.temperature}, reduction='{self.reduction}'"
