"""Distillation in both directions: the student teaches too."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_non_negative, check_positive, check_same_shape
from promptmm_pyg.losses._bernoulli import bernoulli_divergence
from promptmm_pyg.losses._checks_scores import check_finite, check_lists, check_mask
from promptmm_pyg.losses._masked_mean import masked_mean
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


class BidirectionalTerms(NamedTuple):
    """What each side has to learn from the other, each ``[B]``."""

    student: Tensor
    """Divergence of the teacher's beliefs; a gradient to the student only."""
    teacher: Tensor
    """Divergence of the student's beliefs; a gradient to the teacher only."""


def rank_discrepancy_weights(
    own_rank: Tensor,
    other_rank: Tensor,
    sharpness: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns weights in proportion to :math:`\tanh(\max(\mu (r^{\text{own}} -
    r^{\text{other}}), 0))`: what the other side ranks higher is worth learning
    ``[B, K]``.

    Each row sums to one, or is zero where the other side ranks nothing higher. The
    weights serve as such, or as probabilities to draw candidates with. No gradient
    passes through them.

    Args:
        own_rank: Ranks given by the side that learns, 1 is the best ``[B, K]``.
        other_rank: Ranks given by the side that teaches ``[B, K]``.
        sharpness: :math:`\mu`, how fast a gap in rank counts in full.
            (default: ``0.1``)
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part; at least one
            per row. (default: all do)

    Raises:
        ValueError: If shapes differ, a list is empty, a rank is not finite or the
            sharpness is not positive.
        TypeError: If the mask is not boolean.

    Example:
        >>> own, other = torch.tensor([[9, 1, 5]]), torch.tensor([[1, 9, 5]])
        >>> rank_discrepancy_weights(own, other)
        tensor([[1., 0., 0.]])
    """
    check_positive('sharpness', sharpness)
    check_lists('own_rank', own_rank)
    check_same_shape('own_rank', own_rank, 'other_rank', other_rank)
    if mask is not None:
        check_mask('own_rank', own_rank, 'mask', mask)
    check_finite('own_rank', own_rank, mask)
    check_finite('other_rank', other_rank, mask)
    gap = own_rank.detach() - other_rank.detach()
    if not gap.is_floating_point():
        gap = gap.to(torch.get_default_dtype())
    weight = (sharpness * at_least_float32(gap)).clamp_min(0).tanh()
    if mask is not None:
        weight = weight.masked_fill(~mask, 0.0)
    total = weight.sum(dim=-1, keepdim=True)
    return weight / torch.where(total > 0, total, 1.0)


def bidirectional_kd_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    student_weights: Tensor | None = None,
    teacher_weights: Tensor | None = None,
    mask: Tensor | None = None,
) -> BidirectionalTerms:
    r"""Returns what the student has to learn from the teacher and the teacher from
    the student, one value per list, see :class:`BidirectionalKDLoss`.

    Each side learns from the other as it stands: the other's scores are constants of
    its term.

    Args:
        student_logits: Raw scores ``[B, K]``.
        teacher_logits: Raw scores ``[B, K]``.
        temperature: Softens both sides. (default: ``1.0``)
        student_weights: What each candidate counts in the student's term, zero or
            more ``[B, K]``. (default: all the same, summing to one)
        teacher_weights: The same for the teacher's term.
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part; at least one
            per row. (default: all do)

    Raises:
        ValueError: If shapes differ, a list is empty, a score is not finite, a weight
            is negative or not finite, or the temperature is not positive.
        TypeError: If the mask is not boolean.
    """
    check_positive('temperature', temperature)
    check_lists('student_logits', student_logits)
    check_same_shape('student_logits', student_logits, 'teacher_logits', teacher_logits)
    if mask is not None:
        check_mask('student_logits', student_logits, 'mask', mask)
    check_finite('student_logits', student_logits, mask)
    check_finite('teacher_logits', teacher_logits, mask)
    _check_weights('student_weights', student_weights, student_logits, mask)
    _check_weights('teacher_weights', teacher_weights, student_logits, mask)
    student = at_least_float32(student_logits) / temperature
    teacher = at_least_float32(teacher_logits) / temperature
    if mask is not None:
        student = student.masked_fill(~mask, 0.0)
        teacher = teacher.masked_fill(~mask, 0.0)
    return BidirectionalTerms(
        student=_average(
            bernoulli_divergence(student, teacher.detach()), student_weights, mask
        ),
        teacher=_average(
            bernoulli_divergence(teacher, student.detach()), teacher_weights, mask
        ),
    )


def _check_weights(
    name: str, weights: Tensor | None, logits: Tensor, mask: Tensor | None
) -> None:
    if weights is None:
        return
    check_same_shape('student_logits', logits, name, weights)
    check_finite(name, weights, mask)
    negative = weights < 0 if mask is None else (weights < 0) & mask
    if bool(negative.any()):
        raise ValueError(
            f"'{name}' must be zero or more (got {int(negative.sum())} negative "
            f'weights)'
        )


def _average(divergence: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor:
    if weights is None:
        return masked_mean(divergence, mask)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return (weights * divergence).sum(dim=-1)


class BidirectionalKDLoss(torch.nn.Module):
    r"""Distillation between a teacher and a student that are trained together, after
    the `"Bidirectional Distillation for Top-K Recommender System"
    <https://arxiv.org/abs/2106.02870>`_ paper.

    .. math::
        \mathcal{L} = \tau^2 \left( \alpha \sum_k w^S_k \, \mathrm{KL}(
        \bar{\pi}^T_k \,\|\, \pi^S_k) + \beta \sum_k w^T_k \, \mathrm{KL}(
        \bar{\pi}^S_k \,\|\, \pi^T_k) \right), \qquad
        \pi_k = \sigma \left( \frac{y_k}{\tau} \right)

    where KL is the divergence of two Bernoulli distributions and a bar marks a
    constant. Each side is meant to learn where the other ranks an item higher than
    itself: give :func:`rank_discrepancy_weights` as weights, or draw candidates with
    them. Where no weights are given the candidates count the same,
    :math:`w_k = 1 / K`.

    The bars are this loss's exception to the rule that losses never detach: without
    them each side would also be drawn to what it is meant to teach. The student's
    term alone is :class:`SoftLabelKDLoss`.

    Args:
        alpha: Weight of what the student learns. (default: ``1.0``)
        beta: Weight of what the teacher learns. (default: ``1.0``)
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** logits of student and teacher :math:`(B, K)`, weights of the
          student's and of the teacher's term :math:`(B, K)` *(optional)*, boolean
          mask :math:`(B, K)` *(optional)*
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__()
        check_non_negative('alpha', alpha)
        check_non_negative('beta', beta)
        check_positive('temperature', temperature)
        check_reduction(reduction)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        terms = bidirectional_kd_terms(
            student_logits,
            teacher_logits,
            self.temperature,
            student_weights,
            teacher_weights,
            mask,
        )
        loss = self.alpha * terms.student + self.beta * terms.teacher
        return reduce(self.temperature**2 * loss, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return (
            f'alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}, '
            f"reduction='{self.reduction}'"
        )
