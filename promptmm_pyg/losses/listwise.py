"""List-wise ranking distillation."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._checks_scores import check_finite, check_mask
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def listwise_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two softmax distributions over one list of
    candidates, see :class:`ListwiseKDLoss`.

    Args:
        student_logits: Raw scores ``[B, K]``.
        teacher_logits: Raw scores ``[B, K]``.
        temperature: Softens both lists. (default: ``1.0``)
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part; at least one
            per row. (default: all do)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a list is empty, a score is not finite, the
            temperature is not positive or the reduction is unknown.
        TypeError: If the mask is not boolean.
    """
    check_same_shape('student_logits', student_logits, 'teacher_logits', teacher_logits)
    check_positive('temperature', temperature)
    if mask is not None:
        check_mask('student_logits', student_logits, 'mask', mask)
    check_finite('student_logits', student_logits, mask)
    check_finite('teacher_logits', teacher_logits, mask)
    student = at_least_float32(student_logits) / temperature
    teacher = at_least_float32(teacher_logits) / temperature
    if mask is not None:
        student = student.masked_fill(~mask, -torch.inf)
        teacher = teacher.masked_fill(~mask, -torch.inf)
    divergence = masked_divergence(
        student.log_softmax(dim=-1), teacher.log_softmax(dim=-1), mask
    )
    return reduce(temperature**2 * divergence, reduction)


def masked_divergence(
    student_log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor | None
) -> Tensor:
    """Kullback-Leibler divergence per list, over the candidates of ``mask``."""
    if mask is not None:
        # Zero for zero: `-inf - -inf` never comes up.
        student_log_probs = student_log_probs.masked_fill(~mask, 0.0)
        teacher_probs = teacher_log_probs.exp()
        gap = teacher_log_probs.masked_fill(~mask, 0.0) - student_log_probs
        return (teacher_probs * gap).sum(dim=-1)
    gap = teacher_log_probs - student_log_probs
    return (teacher_log_probs.exp() * gap).sum(dim=-1)


class ListwiseKDLoss(torch.nn.Module):
    r"""List-wise distillation: the Kullback-Leibler divergence of the teacher's and
    the student's softmax over a list of candidates, as in the `"Distilling the
    Knowledge in a Neural Network" <https://arxiv.org/abs/1503.02531>`_ paper.

    .. math::
        \mathcal{L} = \tau^2 \, \mathrm{KL} \left( \mathrm{softmax}(\mathbf{y}^T /
        \tau) \,\|\, \mathrm{softmax}(\mathbf{y}^S / \tau) \right)

    For one positive per list this is the list-wise loss of PromptMM as its paper
    writes it, see :class:`DecoupledKDLoss`. Gradients flow to both lists.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Shapes:
        - **inputs:** logits of student and teacher :math:`(B, K)`, boolean mask
          :math:`(B, K)` *(optional)*
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(self, temperature: float = 1.0, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_positive('temperature', temperature)
        check_reduction(reduction)
        self.temperature = temperature
        self.reduction = reduction

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return listwise_kd_loss(
            student_logits, teacher_logits, self.temperature, mask, self.reduction
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"temperature={self.temperature}, reduction='{self.reduction}'"
