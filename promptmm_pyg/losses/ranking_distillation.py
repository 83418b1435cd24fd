"""The teacher's top items as further positives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._checks_scores import check_finite, check_lists, check_mask
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def ranking_distillation_loss(
    student_logits: Tensor,
    student_rank: Tensor | None = None,
    decay: float = 10.0,
    sharpness: float = 0.1,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the weighted cost of the teacher's top items as positives of the
    student, see :class:`RankingDistillationLoss`.

    Args:
        student_logits: Raw scores of the teacher's top items, best first ``[B, K]``.
        student_rank: The rank of each in the student's list of all items, from 1
            ``[B, K]``; see :func:`estimate_rank`. (default: places weigh alone)
        decay: Places after which a weight has fallen to a third. (default: ``10.0``)
        sharpness: How fast a gap in rank counts in full; read with ``student_rank``
            only. (default: ``0.1``)
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part; at least one
            per row. The others keep their places. (default: all do)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a list is empty, a score is not finite, a rank is
            below one, an option is not positive or the reduction is unknown.
        TypeError: If the mask is not boolean.

    Example:
        >>> ranking_distillation_loss(torch.zeros(1, 5))
        tensor(0.6931)
    """
    check_positive('decay', decay)
    check_positive('sharpness', sharpness)
    check_lists('student_logits', student_logits)
    if mask is not None:
        check_mask('student_logits', student_logits, 'mask', mask)
    check_finite('student_logits', student_logits, mask)
    student = at_least_float32(student_logits)
    if mask is not None:
        student = student.masked_fill(~mask, 0.0)
    weight = _weights(student.detach(), student_rank, decay, sharpness, mask)
    return reduce(-(weight * F.logsigmoid(student)).sum(dim=-1), reduction)


def _weights(
    student: Tensor,
    student_rank: Tensor | None,
    decay: float,
    sharpness: float,
    mask: Tensor | None,
) -> Tensor:
    """Weights that sum to one in each row, or to zero where nothing is amiss."""
    place = torch.arange(
        1, student.size(-1) + 1, dtype=student.dtype, device=student.device
    )
    # Products as sums of logarithms: with a short decay the far places would
    # underflow before they are normalised.
    log_weight = (-place / decay).expand_as(student)
    if student_rank is not None:
        check_same_shape('student_logits', student, 'student_rank', student_rank)
        gap = _rank(student_rank, mask).to(student.dtype) - place
        log_weight = log_weight + (sharpness * gap).clamp_min(0).tanh().log()
    if mask is not None:
        log_weight = log_weight.masked_fill(~mask, -torch.inf)
    weighty = (log_weight > -torch.inf).any(dim=-1, keepdim=True)
    return torch.where(weighty, log_weight.softmax(dim=-1), 0.0)


def _rank(student_rank: Tensor, mask: Tensor | None) -> Tensor:
    check_finite('student_rank', student_rank, mask)
    student_rank = student_rank.detach()
    if mask is not None:
        student_rank = student_rank.masked_fill(~mask, 1)
    if bool((student_rank < 1).any()):
        raise ValueError(
            f"'student_rank' must be 1 or more (got {float(student_rank.min())}). "
            f'The best item has rank 1'
        )
    return student_rank


def estimate_rank(
    student_logits: Tensor, sampled_logits: Tensor, num_items: int
) -> Tensor:
    r"""Returns the rank of each score among all items as a sample of them suggests,
    :math:`\lfloor n \, (I - 1) / S \rfloor + 1` with :math:`n` of :math:`S` sampled
    scores above it ``[B, K]``, from 1 to :math:`I`.

    Args:
        student_logits: Raw scores to rank ``[B, K]``.
        sampled_logits: Raw scores of items drawn uniformly ``[B, S]``.
        num_items: :math:`I`, the number of items.

    Raises:
        ValueError: If the numbers of rows differ, a score is not finite or there is
            no item.

    Example:
        >>> estimate_rank(torch.tensor([[5.0, 0.5]]), torch.tensor([[0.0, 1.0]]), 11)
        tensor([[1, 6]])
    """
    check_positive('num_items', num_items)
    for name, logits in (
        ('student_logits', student_logits),
        ('sampled_logits', sampled_logits),
    ):
        check_lists(name, logits)
        check_finite(name, logits)
    if student_logits.size(0) != sampled_logits.size(0):
        raise ValueError(
            f"'sampled_logits' requires a row per row of 'student_logits' (got "
            f'{sampled_logits.size(0)} and {student_logits.size(0)})'
        )
    num_sampled = sampled_logits.size(1)
    ascending = at_least_float32(sampled_logits.detach()).sort(dim=-1).values
    student = at_least_float32(student_logits.detach()).contiguous()
    above = num_sampled - torch.searchsorted(ascending, student, right=True)
    return above * (num_items - 1) // num_sampled + 1


class RankingDistillationLoss(torch.nn.Module):
    r"""Ranking distillation of the `"Ranking Distillation: Learning Compact Ranking
    Models With High Performance for Recommender System"
    <https://arxiv.org/abs/1809.07428>`_ paper.

    .. math::
        \mathcal{L} = - \sum_{r=1}^{K} w_r \log \sigma(y^S_r), \qquad
        w_r \propto e^{-r / \lambda} \, \tanh \left( \max(\mu (\hat{r}_r - r), 0)
        \right), \qquad \sum_r w_r = 1

    where :math:`r` is the place in the teacher's list and :math:`\hat{r}_r` the rank
    that the student gives the same item. Without ``student_rank`` the second factor
    is left out. A list in which no item ranks lower with the student than with the
    teacher costs nothing. Ranks and weights are constants of the definition; no
    gradient passes through them.

    The teacher's scores are not read, and the loss vanishes only where the student is
    sure of every item that weighs: it belongs beside a loss on observed items that
    supplies the negatives.

    Args:
        decay: :math:`\lambda`. (default: ``10.0``)
        sharpness: :math:`\mu`. (default: ``0.1``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** logits of the student :math:`(B, K)`, ranks :math:`(B, K)`
          *(optional)*, boolean mask :math:`(B, K)` *(optional)*
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(
        self,
        decay: float = 10.0,
        sharpness: float = 0.1,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__()
        check_positive('decay', decay)
        check_positive('sharpness', sharpness)
        check_reduction(reduction)
        self.decay = decay
        self.sharpness = sharpness
        self.reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        student_rank: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        return ranking_distillation_loss(
            student_logits,
            student_rank,
            self.decay,
            self.sharpness,
            mask,
            self.reduction,
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return (
            f'decay={self.decay}, sharpness={self.sharpness}, '
            f"reduction='{self.reduction}'"
        )
