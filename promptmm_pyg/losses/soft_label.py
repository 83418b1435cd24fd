"""Point-wise distillation of soft labels."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._bernoulli import bernoulli_divergence
from promptmm_pyg.losses._checks_scores import check_finite, check_lists, check_mask
from promptmm_pyg.losses._masked_mean import masked_mean
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def soft_label_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two beliefs that a candidate is relevant, averaged
    over each list, see :class:`SoftLabelKDLoss`.

    Args:
        student_logits: Raw scores ``[B, K]``.
        teacher_logits: Raw scores ``[B, K]``.
        temperature: Softens both beliefs. (default: ``1.0``)
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part; at least one
            per row. (default: all do)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a list is empty, a score is not finite, the
            temperature is not positive or the reduction is unknown.
        TypeError: If the mask is not boolean.

    Example:
        >>> scores = torch.tensor([[2.0, -1.0]])
        >>> soft_label_kd_loss(scores, scores)
        tensor(0.)
    """
    check_positive('temperature', temperature)
    check_lists('student_logits', student_logits)
    check_same_shape('student_logits', student_logits, 'teacher_logits', teacher_logits)
    if mask is not None:
        check_mask('student_logits', student_logits, 'mask', mask)
    check_finite('student_logits', student_logits, mask)
    check_finite('teacher_logits', teacher_logits, mask)
    student = at_least_float32(student_logits) / temperature
    teacher = at_least_float32(teacher_logits) / temperature
    if mask is not None:
        student = student.masked_fill(~mask, 0.0)
        teacher = teacher.masked_fill(~mask, 0.0)
    divergence = masked_mean(bernoulli_divergence(student, teacher), mask)
    return reduce(temperature**2 * divergence, reduction)


class SoftLabelKDLoss(torch.nn.Module):
    r"""Point-wise distillation: the Kullback-Leibler divergence of the teacher's and
    the student's belief in each candidate, after the `"Distilling the Knowledge in a
    Neural Network" <https://arxiv.org/abs/1503.02531>`_ paper with a sigmoid per item
    in place of the softmax.

    .. math::
        \mathcal{L} = \frac{\tau^2}{K} \sum_{k=1}^{K} \left( \pi^T_k \log
        \frac{\pi^T_k}{\pi^S_k} + (1 - \pi^T_k) \log \frac{1 - \pi^T_k}{1 - \pi^S_k}
        \right), \qquad \pi_k = \sigma \left( \frac{y_k}{\tau} \right)

    Unlike :class:`ListwiseKDLoss` it asks for the teacher's scores themselves and not
    up to a shift per user: it fits models whose score is trained as a logit. Its
    gradient with respect to a score is :math:`\tau (\pi^S_k - \pi^T_k) / K`.
    Gradients flow to both lists.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

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
        return soft_label_kd_loss(
            student_logits, teacher_logits, self.temperature, mask, self.reduction
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"temperature={self.temperature}, reduction='{self.reduction}'"
