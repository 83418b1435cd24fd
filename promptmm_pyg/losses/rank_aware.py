"""List-wise distillation of the teacher's top, split by what the student ranks high."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._checks_scores import (
    check_finite,
    check_lists,
    check_mask,
    check_selection,
)
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce
from promptmm_pyg.losses.listwise import masked_divergence


def rank_aware_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    teacher_top: Tensor,
    student_top: Tensor,
    temperature: float = 1.0,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two lists of the teacher's top items, in two parts
    that are weighted by how much of that top the student already has, see
    :class:`RankAwareKDLoss`.

    Args:
        student_logits: Raw scores ``[B, K]``.
        teacher_logits: Raw scores ``[B, K]``.
        teacher_top: Boolean ``[B, K]``, marks the teacher's top items; at least one
            per row.
        student_top: Boolean ``[B, K]``, marks the student's top items. What neither
            marks takes no part.
        temperature: Softens both lists. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a row has no top item of the teacher, a score
            that takes part is not finite, the temperature is not positive or the
            reduction is unknown.
        TypeError: If a mark is not boolean.

    Example:
        >>> scores, top = torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)
        >>> rank_aware_kd_loss(scores, scores, top, top)
        tensor(0.)
    """
    check_positive('temperature', temperature)
    check_lists('student_logits', student_logits)
    check_same_shape('student_logits', student_logits, 'teacher_logits', teacher_logits)
    check_mask('student_logits', student_logits, 'teacher_top', teacher_top)
    check_selection('student_logits', student_logits, 'student_top', student_top)
    both, either = teacher_top & student_top, teacher_top | student_top
    check_finite('student_logits', student_logits, either)
    check_finite('teacher_logits', teacher_logits, either)
    student = at_least_float32(student_logits) / temperature
    teacher = at_least_float32(teacher_logits) / temperature

    share = both.sum(dim=-1) / teacher_top.sum(dim=-1)
    # An empty list has no divergence; any other stands in for it at weight zero.
    shared = torch.where(both.any(dim=-1, keepdim=True), both, either)
    loss = share * _divergence(student, teacher, shared)
    loss = loss + (1 - share) * _divergence(student, teacher, either)
    return reduce(temperature**2 * loss, reduction)


def _divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Divergence of the two softmax lists over the candidates of ``mask``."""
    student, teacher = (
        logits.masked_fill(~mask, -torch.inf).log_softmax(dim=-1)
        for logits in (student, teacher)
    )
    return masked_divergence(student, teacher, mask)


class RankAwareKDLoss(torch.nn.Module):
    r"""List-wise distillation of the teacher's top items, after the `"Rejuvenating
    Cross-Entropy Loss in Knowledge Distillation for Recommender Systems"
    <https://arxiv.org/abs/2509.20989>`_ paper.

    The paper shows that the cross entropy on a part of the items bounds their
    ranking quality only if the part is *closed*: with an item it holds all that the
    student ranks above it. The teacher's top :math:`\mathcal{T}` seldom is; so it is
    split by the student's top :math:`\mathcal{S}`. The form below is ours, not the
    paper's:

    .. math::
        \mathcal{L} = \tau^2 \left( \gamma \, D(\mathcal{T} \cap \mathcal{S}) +
        (1 - \gamma) \, D(\mathcal{T} \cup \mathcal{S}) \right), \qquad
        \gamma = \frac{|\mathcal{T} \cap \mathcal{S}|}{|\mathcal{T}|}

    .. math::
        D(\mathcal{C}) = \mathrm{KL} \left( \mathrm{softmax}_{\mathcal{C}}
        (\mathbf{y}^T / \tau) \,\|\, \mathrm{softmax}_{\mathcal{C}}
        (\mathbf{y}^S / \tau) \right)

    * The first part orders, among themselves, the teacher's top items that the
      student ranks high as well.
    * The second part is for those that the student ranks low, :math:`\mathcal{T}
      \setminus \mathcal{S}`: the student's top items join their list, as they are
      what stands above them, so that it is nearly closed. (The paper samples the
      items that join.) Together these are the union.
    * :math:`\gamma`, the share of the teacher's top that the student has found, moves
      the weight from finding the top to ordering it. It is a constant: counts have no
      gradient.

    Where no top item is shared, :math:`\gamma = 0` and the second part stands alone;
    where all of the teacher's are, :math:`\gamma = 1` and the first does. Both parts
    are zero for equal lists. Mark the tops among all items, or among candidates that
    hold both; renew the student's as it learns. Gradients flow to both lists.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** logits of student and teacher :math:`(B, K)`, boolean marks of
          the teacher's and of the student's top :math:`(B, K)`
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(self, temperature: float = 1.0, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_positive('temperature', temperature)
        check_reduction(reduction)
        self.temperature = temperature
        self.reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        teacher_top: Tensor,
        student_top: Tensor,
    ) -> Tensor:
        return rank_aware_kd_loss(
            student_logits,
            teacher_logits,
            teacher_top,
            student_top,
            self.temperature,
            self.reduction,
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"temperature={self.temperature}, reduction='{self.reduction}'"
