"""List-wise distillation with its two parts weighted apart."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import (
    check_choice,
    check_non_negative,
    check_positive,
    check_same_shape,
)
from promptmm_pyg.losses._checks_scores import check_finite, check_selection
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce
from promptmm_pyg.losses.listwise import masked_divergence


class DecoupledTerms(NamedTuple):
    """The parts of one list's divergence, each ``[B]``."""

    target: Tensor
    """Divergence of the mass put on the positives."""
    non_target: Tensor
    """Divergence of the order among the rest."""
    non_target_mass: Tensor
    """The teacher's mass on the rest."""


def decoupled_kd_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target_mask: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> DecoupledTerms:
    r"""Splits the divergence of two softmax lists into its target and its
    non-target part, one value per list.

    Gradients flow to both lists.

    Args:
        student_logits: Raw scores ``[B, K]``.
        teacher_logits: Raw scores ``[B, K]``.
        target_mask: Boolean ``[B, K]``, marks the positives.
        temperature: Softens both lists. (default: ``1.0``)
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part.
            (default: all do)

    Raises:
        ValueError: If shapes differ, the temperature is not positive, a score is not
            finite, or a list lacks a positive or another candidate.
        TypeError: If a mask is not boolean.
    """
    check_same_shape('student_logits', student_logits, 'teacher_logits', teacher_logits)
    check_positive('temperature', temperature)
    target_mask, rest = _sides(student_logits, target_mask, mask)
    check_finite('student_logits', student_logits, mask)
    check_finite('teacher_logits', teacher_logits, mask)
    student_logits = at_least_float32(student_logits) / temperature
    teacher_logits = at_least_float32(teacher_logits) / temperature

    student = _log_mass(student_logits, target_mask, rest)
    teacher = _log_mass(teacher_logits, target_mask, rest)
    target = masked_divergence(student, teacher, None)
    # The order among the rest, each list on its own scale.
    student_rest, teacher_rest = (
        logits.masked_fill(~rest, -torch.inf).log_softmax(dim=-1)
        for logits in (student_logits, teacher_logits)
    )
    non_target = masked_divergence(student_rest, teacher_rest, rest)
    return DecoupledTerms(target, non_target, teacher[..., 1].exp())


def _sides(
    logits: Tensor, target_mask: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The positives and the rest among the candidates that take part."""
    check_selection('student_logits', logits, 'target_mask', target_mask)
    rest = ~target_mask
    if mask is not None:
        check_selection('student_logits', logits, 'mask', mask)
        target_mask, rest = target_mask & mask, rest & mask
    lacking = ~(target_mask.any(dim=-1) & rest.any(dim=-1))
    if bool(lacking.any()):
        raise ValueError(
            "Every row of 'target_mask' must mark at least one positive and leave "
            f'at least one other candidate (got {int(lacking.sum())} rows that do '
            f'not). Leave these lists out'
        )
    return target_mask, rest


def _log_mass(logits: Tensor, target_mask: Tensor, rest: Tensor) -> Tensor:
    """Log-probability of the positives and of the rest, ``[B, 2]``."""
    sides = [
        logits.masked_fill(~side, -torch.inf).logsumexp(dim=-1)
        for side in (target_mask, rest)
    ]
    return torch.stack(sides, dim=-1).log_softmax(dim=-1)


class DecoupledKDLoss(torch.nn.Module):
    r"""List-wise distillation in the disentangled form of the `"PromptMM:
    Multi-Modal Knowledge Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper, after the `"Decoupled Knowledge
    Distillation" <https://arxiv.org/abs/2203.08679>`_ paper.

    .. math::
        \mathcal{L} = \tau^2 \left( \alpha \,
        \mathrm{KL}(\mathbf{b}^T \,\|\, \mathbf{b}^S) + \beta \,
        \mathrm{KL}(\mathbf{q}^T \,\|\, \mathbf{q}^S) \right)

    where :math:`\mathbf{b}` is the pair (mass of the positives, mass of the rest)
    and :math:`\mathbf{q}` the distribution among the rest. With ``reweight=
    'coupled'`` the weights are :math:`\alpha = 1` and :math:`\beta =
    b^T_{\text{rest}}`, the teacher's own mass on the rest: for one positive per list
    that is the plain Kullback-Leibler divergence of the two lists, whatever
    ``alpha`` and ``beta`` say. Freeing the weights is what makes the form more than
    a way to write it. The order among several positives is never compared.

    Args:
        alpha: Weight of the target part when decoupled. (default: ``1.0``)
        beta: Weight of the non-target part when decoupled. (default: ``1.0``)
        temperature: :math:`\tau`. (default: ``1.0``)
        reweight: ``'decoupled'`` or ``'coupled'``. (default: ``'decoupled'``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the :math:`B` lists.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** logits of student and teacher :math:`(B, K)`, boolean target
          mask :math:`(B, K)`, boolean mask :math:`(B, K)` *(optional)*
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        reweight: Literal['decoupled', 'coupled'] = 'decoupled',
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__()
        check_non_negative('alpha', alpha)
        check_non_negative('beta', beta)
        check_positive('temperature', temperature)
        check_choice('reweight', reweight, ('decoupled', 'coupled'))
        check_reduction(reduction)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.reweight = reweight
        self.reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target_mask: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        terms = decoupled_kd_terms(
            student_logits, teacher_logits, target_mask, self.temperature, mask
        )
        if self.reweight == 'coupled':
            loss = terms.target + terms.non_target_mass * terms.non_target
        else:
            loss = self.alpha * terms.target + self.beta * terms.non_target
        return reduce(self.temperature**2 * loss, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        weights = (
            f'alpha={self.alpha}, beta={self.beta}, '
            if self.reweight == 'decoupled'
            else ''
        )
        return (
            f"{weights}temperature={self.temperature}, reweight='{self.reweight}', "
            f"reduction='{self.reduction}'"
        )
