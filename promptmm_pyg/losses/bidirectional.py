"""Distillation in both directions between a teacher and a student."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_non_negative, check_positive, check_same_shape
from promptmm_pyg.losses._base import (
    Loss,
    Reduction,
    as_list_pair,
    at_least_float32,
    check_finite,
    check_lists,
    check_mask,
    masked_mean,
    reduce,
)
from promptmm_pyg.losses.bernoulli import bernoulli_divergence


class BidirectionalTerms(NamedTuple):
    """The losses of student and teacher, ``[B]``."""

    student: Tensor
    """Divergence from the teacher; a gradient to the student only."""
    teacher: Tensor
    """Divergence from the student; a gradient to the teacher only."""


def rank_discrepancy_weights(
    own_rank: Tensor,
    other_rank: Tensor,
    sharpness: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns weights of items that the other model ranks higher ``[B, K]``,
    proportional to :math:`\tanh(\max(\mu (r^{\text{own}} - r^{\text{other}}), 0))`.

    Each row sums to one, or is zero where the other model ranks no item higher. The
    weights can also be sampling probabilities. They have no gradient.

    Args:
        own_rank: Ranks by the model that is trained, from 1 ``[B, K]``.
        other_rank: Ranks by the other model ``[B, K]``.
        sharpness: :math:`\mu`, the growth of the weight with the difference in rank.
            (default: ``0.1``)
        mask: Boolean ``[B, K]``, true for the candidates to use; at least one per row.
            (default: all)

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
    r"""Returns the losses of student and teacher, one value per list, see
    :class:`BidirectionalKDLoss`. The scores of the other model are constants.
    """
    check_positive('temperature', temperature)
    student, teacher = as_list_pair(student_logits, teacher_logits, mask, fill=0.0)
    student, teacher = student / temperature, teacher / temperature
    _check_weights('student_weights', student_weights, student_logits, mask)
    _check_weights('teacher_weights', teacher_weights, student_logits, mask)
    of_student = bernoulli_divergence(student, teacher.detach())
    of_teacher = bernoulli_divergence(teacher, student.detach())
    return BidirectionalTerms(
        student=_average(of_student, student_weights, mask),
        teacher=_average(of_teacher, teacher_weights, mask),
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


class BidirectionalKDLoss(Loss):
    r"""Distillation between a teacher and a student that are trained together, after
    the `"Bidirectional Distillation for Top-K Recommender System"
    <https://arxiv.org/abs/2106.02870>`_ paper.

    .. math::
        \mathcal{L} = \tau^2 \left( \alpha \sum_k w^S_k \, \mathrm{KL}(
        \bar{\pi}^T_k \,\|\, \pi^S_k) + \beta \sum_k w^T_k \, \mathrm{KL}(
        \bar{\pi}^S_k \,\|\, \pi^T_k) \right), \qquad
        \pi_k = \sigma \left( \frac{y_k}{\tau} \right)

    where KL is the divergence of two Bernoulli distributions and a bar marks a
    constant. Each model should learn the items that the other ranks higher: pass
    :func:`rank_discrepancy_weights` as weights, or sample candidates with them. Without
    weights, :math:`w_k = 1 / K`.

    This is the only loss that detaches its inputs (the bars): otherwise each model
    would also be trained by the term of the other. The student's term is
    :class:`SoftLabelKDLoss`.

    Args:
        alpha: Weight of the student's term. (default: ``1.0``)
        beta: Weight of the teacher's term. (default: ``1.0``)
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over lists. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_logits`` and ``teacher_logits``, raw scores :math:`(B,
          K)`; ``student_weights`` and ``teacher_weights`` of each candidate in the
          term of either, zero or more :math:`(B, K)` (default: equal, summing to
          one); ``mask``, boolean :math:`(B, K)`, true for the candidates to use, at
          least one per row (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``

    Raises:
        ValueError: If a weight is negative or not finite.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__(reduction)
        check_non_negative('alpha', alpha)
        check_non_negative('beta', beta)
        check_positive('temperature', temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        lists, weights = (
            (student_logits, teacher_logits),
            (student_weights, teacher_weights),
        )
        terms = bidirectional_kd_terms(*lists, self.temperature, *weights, mask)
        loss = self.alpha * terms.student + self.beta * terms.teacher
        return reduce(self.temperature**2 * loss, self.reduction)
