"""Distillation of the teacher's top items: as positives (RD), or in order (RRD)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._base import (
    Loss,
    Reduction,
    at_least_float32,
    check_finite,
    check_lists,
    check_mask,
    masked_mean,
    reduce,
)


def _as_list(
    name: str, logits: Tensor, mask_name: str, mask: Tensor | None, fill: float
) -> Tensor:
    """Checked logits in float32 or above, with ``fill`` where ``mask`` is false."""
    check_lists(name, logits)
    if mask is not None:
        check_mask(name, logits, mask_name, mask)
    check_finite(name, logits, mask)
    logits = at_least_float32(logits)
    return logits if mask is None else logits.masked_fill(~mask, fill)


def ranking_distillation_loss(
    student_logits: Tensor,
    student_rank: Tensor | None = None,
    decay: float = 10.0,
    sharpness: float = 0.1,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the weighted loss of the teacher's top items as positives of the
    student, see :class:`RankingDistillationLoss`.

    Example:
        >>> ranking_distillation_loss(torch.zeros(1, 5))
        tensor(0.6931)
    """
    check_positive('decay', decay)
    check_positive('sharpness', sharpness)
    student = _as_list('student_logits', student_logits, 'mask', mask, fill=0.0)
    position = torch.arange(
        1, student.size(-1) + 1, dtype=student.dtype, device=student.device
    )
    # Sums of logarithms: products underflow for a small decay.
    log_weight = (-position / decay).expand_as(student)
    if student_rank is not None:
        check_same_shape('student_logits', student, 'student_rank', student_rank)
        gap = _checked_rank(student_rank, mask).to(student.dtype) - position
        log_weight = log_weight + (sharpness * gap).clamp_min(0).tanh().log()
    if mask is not None:
        log_weight = log_weight.masked_fill(~mask, -torch.inf)
    # The loss of a row of zero weights is zero.
    nonzero = (log_weight > -torch.inf).any(dim=-1, keepdim=True)
    weight = torch.where(nonzero, log_weight.softmax(dim=-1), 0.0)
    return reduce(-(weight * F.logsigmoid(student)).sum(dim=-1), reduction)


def _checked_rank(student_rank: Tensor, mask: Tensor | None) -> Tensor:
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
    r"""Returns an estimate of the rank of each score among all items from a sample of
    them, :math:`\lfloor n \, (I - 1) / S \rfloor + 1` with :math:`n` of :math:`S`
    sampled scores above it ``[B, K]``, from 1 to :math:`I`.

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
    student = _as_list('student_logits', student_logits.detach(), '', None, 0.0)
    sampled = _as_list('sampled_logits', sampled_logits.detach(), '', None, 0.0)
    if student.size(0) != sampled.size(0):
        raise ValueError(
            f"'sampled_logits' must have one row per row of 'student_logits' (got "
            f'{sampled.size(0)} and {student.size(0)})'
        )
    num_sampled = sampled.size(1)
    ascending = sampled.sort(dim=-1).values
    above = num_sampled - torch.searchsorted(
        ascending, student.contiguous(), right=True
    )
    return above * (num_items - 1) // num_sampled + 1


class RankingDistillationLoss(Loss):
    r"""Ranking distillation of the `"Ranking Distillation: Learning Compact Ranking
    Models With High Performance for Recommender System"
    <https://arxiv.org/abs/1809.07428>`_ paper.

    .. math::
        \mathcal{L} = - \sum_{r=1}^{K} w_r \log \sigma(y^S_r), \qquad
        w_r \propto e^{-r / \lambda} \, \tanh \left( \max(\mu (\hat{r}_r - r), 0)
        \right), \qquad \sum_r w_r = 1

    where :math:`r` is the position in the teacher's list and :math:`\hat{r}_r` the
    student's rank of the same item. Without ``student_rank`` the second factor is left
    out. The loss is zero for a list in which the student ranks no item lower than the
    teacher does. Ranks and weights are constants without gradient.

    The teacher's scores are not used, and the loss vanishes only where the student is
    certain of every item with a weight: combine it with a loss on observed items that
    supplies the negatives.

    Args:
        decay: :math:`\lambda`. (default: ``10.0``)
        sharpness: :math:`\mu`. (default: ``0.1``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over lists. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_logits``, raw scores of the teacher's top items, best
          first :math:`(B, K)`; ``student_rank``, the rank of each in the student's list
          of all items, from 1 :math:`(B, K)`, see :func:`estimate_rank` (default:
          weights by position only); ``mask``, boolean :math:`(B, K)`, true for the
          candidates to use, at least one per row; the positions of the others still
          count (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``

    Raises:
        ValueError: If a rank is below one.
    """

    def __init__(
        self,
        decay: float = 10.0,
        sharpness: float = 0.1,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__(reduction)
        check_positive('decay', decay)
        check_positive('sharpness', sharpness)
        self.decay = decay
        self.sharpness = sharpness

    def forward(
        self,
        student_logits: Tensor,
        student_rank: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        options = self.decay, self.sharpness
        return ranking_distillation_loss(
            student_logits, student_rank, *options, mask, self.reduction
        )


def relaxed_ranking_loss(
    interesting_logits: Tensor,
    uninteresting_logits: Tensor,
    mask: Tensor | None = None,
    uninteresting_mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns minus the log-likelihood of the teacher's order of interesting items
    above all uninteresting ones, per interesting item, see
    :class:`RelaxedRankingLoss`.

    Example:
        >>> relaxed_ranking_loss(torch.zeros(1, 1), torch.zeros(1, 3))
        tensor(1.3863)
    """
    interesting = _as_list(
        'interesting_logits', interesting_logits, 'mask', mask, fill=-torch.inf
    )
    uninteresting = _as_list(
        'uninteresting_logits',
        uninteresting_logits,
        'uninteresting_mask',
        uninteresting_mask,
        fill=-torch.inf,
    )
    if interesting.size(0) != uninteresting.size(0):
        raise ValueError(
            f"'uninteresting_logits' must have one row per row of 'interesting_logits' "
            f'(got {uninteresting.size(0)} and {interesting.size(0)})'
        )
    rest = uninteresting.logsumexp(dim=-1, keepdim=True)
    # From the end of the list, after the rest: a cumulative sum that starts with
    # masked positions has no gradient.
    remaining = torch.cat([rest, interesting.flip(-1)], dim=-1).logcumsumexp(dim=-1)
    remaining = remaining[:, 1:].flip(-1)
    return reduce(masked_mean(remaining - interesting, mask), reduction)


class RelaxedRankingLoss(Loss):
    r"""Relaxed ranking distillation of the `"DE-RRD: A Knowledge Distillation
    Framework for Recommender System" <https://arxiv.org/abs/2012.04357>`_ paper.

    .. math::
        \mathcal{L} = - \frac{1}{K} \sum_{k=1}^{K} \log \frac{\exp(s_k)}
        {\sum_{i=k}^{K} \exp(s_i) + \sum_{j=1}^{L} \exp(u_j)}

    where :math:`s_1, \dots, s_K` are the student's scores of the interesting items in
    the teacher's order and :math:`u_1, \dots, u_L` those of the uninteresting ones, in
    any order. The paper sums over :math:`k`; here the sum is divided by :math:`K`, so
    that its scale does not depend on the length of the list. For one interesting item
    it is :class:`SampledSoftmaxLoss`.

    Only the teacher's order is used: the loss does not vanish where both agree, and
    falls as the student's scores of the items grow further apart.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over lists. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``interesting_logits``, the student's raw scores of interesting
          items in the teacher's order, best first :math:`(B, K)`;
          ``uninteresting_logits``, in any order :math:`(B, L)`; ``mask`` and
          ``uninteresting_mask``, boolean, true for the items of either to use, at
          least one per row (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def forward(
        self,
        interesting_logits: Tensor,
        uninteresting_logits: Tensor,
        mask: Tensor | None = None,
        uninteresting_mask: Tensor | None = None,
    ) -> Tensor:
        masks = mask, uninteresting_mask
        return relaxed_ranking_loss(
            interesting_logits, uninteresting_logits, *masks, self.reduction
        )
