"""List-wise distillation: plain, decoupled (DKD) and rank-aware."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice, check_non_negative, check_positive
from promptmm_pyg.losses._base import (
    Loss,
    Reduction,
    TemperatureLoss,
    as_list_pair,
    check_lists,
    check_mask,
    check_selection,
    reduce,
)


def list_divergence(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Kullback-Leibler divergence per list of the softmax of two lists of logits, over
    the candidates of ``mask``; at least one per row.
    """
    student, teacher = log_softmax(student, mask), log_softmax(teacher, mask)
    if mask is None:
        return _divergence(student, teacher)
    return _masked_divergence(student.masked_fill(~mask, 0.0), teacher, mask)


def _masked_divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The divergence of log-probabilities, the student's with zeros where masked:
    ``-inf - -inf`` is not computed.
    """
    gap = teacher.masked_fill(~mask, 0.0) - student
    return (teacher.exp() * gap).sum(dim=-1)


def log_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Log-probabilities over the candidates of ``mask``; others have ``-inf``."""
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.log_softmax(dim=-1)


def _divergence(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    gap = teacher_log_probs - student_log_probs
    return (teacher_log_probs.exp() * gap).sum(dim=-1)


def listwise_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two softmax distributions over one list of
    candidates, see :class:`ListwiseKDLoss`.
    """
    check_positive('temperature', temperature)
    student, teacher = as_list_pair(student_logits, teacher_logits, mask)
    loss = list_divergence(student / temperature, teacher / temperature, mask)
    return reduce(temperature**2 * loss, reduction)


class ListwiseKDLoss(TemperatureLoss):
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
        - **inputs:** ``student_logits`` and ``teacher_logits``, raw scores :math:`(B,
          K)`; ``mask``, boolean :math:`(B, K)`, true for the candidates to use, at
          least one per row (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return listwise_kd_loss(
            student_logits, teacher_logits, self.temperature, mask, self.reduction
        )


class DecoupledTerms(NamedTuple):
    """The parts of one list's divergence, each ``[B]``."""

    target: Tensor
    """Divergence of the mass of the positives."""
    non_target: Tensor
    """Divergence of the distribution among the rest."""
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
    non-target part, one value per list, see :class:`DecoupledKDLoss`. Gradients flow
    to both lists.
    """
    lists = student_logits, [teacher_logits], target_mask, temperature, mask
    return _terms_of_views(*lists)[0]


def _terms_of_views(
    student_logits: Tensor,
    views: Sequence[Tensor],
    target_mask: Tensor,
    temperature: float,
    mask: Tensor | None,
) -> list[DecoupledTerms]:
    """:func:`decoupled_kd_terms` for several lists of teacher logits."""
    check_positive('temperature', temperature)
    pairs = [as_list_pair(student_logits, x, mask) for x in views]
    student = pairs[0][0] / temperature
    check_selection('student_logits', student_logits, 'target_mask', target_mask)
    rest = ~target_mask
    if mask is not None:
        target_mask, rest = target_mask & mask, rest & mask
    lacking = ~(target_mask.any(dim=-1) & rest.any(dim=-1))
    if bool(lacking.any()):
        raise ValueError(
            f"'target_mask' must mark at least one positive per row and leave at least "
            f'one other candidate (got {int(lacking.sum())} rows that do not). Leave '
            f'these lists out'
        )
    student_mass = _log_mass(student, target_mask, rest)
    student_rest = log_softmax(student, rest).masked_fill(~rest, 0.0)
    terms = []
    for _, logits in pairs:
        teacher = logits / temperature
        teacher_mass = _log_mass(teacher, target_mask, rest)
        teacher_rest = log_softmax(teacher, rest)
        terms.append(
            DecoupledTerms(
                target=_divergence(student_mass, teacher_mass),
                non_target=_masked_divergence(student_rest, teacher_rest, rest),
                non_target_mass=teacher_mass[..., 1].exp(),
            )
        )
    return terms


def _log_mass(logits: Tensor, target_mask: Tensor, rest: Tensor) -> Tensor:
    """Log-probability of the positives and of the rest, ``[B, 2]``."""
    parts = [
        logits.masked_fill(~part, -torch.inf).logsumexp(dim=-1)
        for part in (target_mask, rest)
    ]
    return torch.stack(parts, dim=-1).log_softmax(dim=-1)


class DecoupledKDLoss(Loss):
    r"""List-wise distillation in the disentangled form of the `"PromptMM:
    Multi-Modal Knowledge Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper, after the `"Decoupled Knowledge
    Distillation" <https://arxiv.org/abs/2203.08679>`_ (DKD) paper.

    .. math::
        \mathcal{L} = \tau^2 \left( \alpha \,
        \mathrm{KL}(\mathbf{b}^T \,\|\, \mathbf{b}^S) + \beta \,
        \mathrm{KL}(\mathbf{q}^T \,\|\, \mathbf{q}^S) \right)

    where :math:`\mathbf{b}` is the pair (mass of the positives, mass of the rest)
    and :math:`\mathbf{q}` the distribution among the rest. With ``listwise='kl'`` the
    weights are :math:`\alpha = 1` and :math:`\beta = b^T_{\text{rest}}`, the teacher's
    own mass on the rest: for one positive per list that is the plain Kullback-Leibler
    divergence of the two lists, whatever ``alpha`` and ``beta`` are. Only free weights
    make this another loss. The order among several positives is never compared.

    Args:
        alpha: Weight of the target part with ``'dkd'``. (default: ``1.0``)
        beta: Weight of the non-target part with ``'dkd'``. (default: ``1.0``)
        temperature: :math:`\tau`. (default: ``1.0``)
        listwise: ``'dkd'`` (free weights) or ``'kl'``. (default: ``'dkd'``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over lists. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_logits`` and ``teacher_logits``, raw scores :math:`(B,
          K)`; ``target_mask``, boolean :math:`(B, K)`, marks the positives; ``mask``,
          boolean :math:`(B, K)`, true for the candidates to use (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``

    Raises:
        ValueError: If a list lacks a positive or another candidate.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        listwise: Literal['dkd', 'kl'] = 'dkd',
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__(reduction)
        check_non_negative('alpha', alpha)
        check_non_negative('beta', beta)
        check_positive('temperature', temperature)
        check_choice('listwise', listwise, ('dkd', 'kl'))
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.listwise = listwise

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target_mask: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        return self.of_views(student_logits, [teacher_logits], target_mask, mask)[0]

    def of_views(
        self,
        student_logits: Tensor,
        views: Sequence[Tensor],
        target_mask: Tensor,
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """The loss for each of several lists of teacher logits ``[B, K]``; what
        concerns the student alone is computed once.
        """
        lists = student_logits, views, target_mask, self.temperature, mask
        losses = []
        for terms in _terms_of_views(*lists):
            if self.listwise == 'kl':
                loss = terms.target + terms.non_target_mass * terms.non_target
            else:
                loss = self.alpha * terms.target + self.beta * terms.non_target
            losses.append(reduce(self.temperature**2 * loss, self.reduction))
        return losses


def rank_aware_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    teacher_top: Tensor,
    student_top: Tensor,
    temperature: float = 1.0,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two lists of the teacher's top items, in two parts
    that are weighted by the share of that top in the student's top, see
    :class:`RankAwareKDLoss`.

    Example:
        >>> scores, top = torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)
        >>> rank_aware_kd_loss(scores, scores, top, top)
        tensor(0.)
    """
    check_positive('temperature', temperature)
    check_lists('student_logits', student_logits)
    check_mask('student_logits', student_logits, 'teacher_top', teacher_top)
    check_selection('student_logits', student_logits, 'student_top', student_top)
    both, either = teacher_top & student_top, teacher_top | student_top
    student, teacher = as_list_pair(student_logits, teacher_logits, either)
    student, teacher = student / temperature, teacher / temperature

    share = both.sum(dim=-1) / teacher_top.sum(dim=-1)
    # An empty list has no divergence; the union replaces it, at weight zero.
    shared = torch.where(both.any(dim=-1, keepdim=True), both, either)
    loss = share * list_divergence(student, teacher, shared)
    loss = loss + (1 - share) * list_divergence(student, teacher, either)
    return reduce(temperature**2 * loss, reduction)


class RankAwareKDLoss(TemperatureLoss):
    r"""List-wise distillation of the teacher's top items, after the `"Rejuvenating
    Cross-Entropy Loss in Knowledge Distillation for Recommender Systems"
    <https://arxiv.org/abs/2509.20989>`_ paper.

    The paper shows that the cross entropy on a part of the items bounds their
    ranking quality only if the part is *closed*: with an item it contains all that the
    student ranks above it. The teacher's top :math:`\mathcal{T}` rarely is; so it is
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
      \setminus \mathcal{S}`. The student's top items, ranked above them, join their
      list, so that it is nearly closed. (The paper samples the items that join.)
    * :math:`\gamma`, the share of the teacher's top in the student's top, moves the
      weight from finding the top (0) to ordering it (1). It has no gradient.

    Both parts are zero for equal lists. Mark the tops among all items, or among
    candidates that contain both; renew the student's as it learns. Gradients flow to
    both lists.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over lists. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_logits`` and ``teacher_logits``, raw scores :math:`(B,
          K)`; ``teacher_top`` and ``student_top``, boolean :math:`(B, K)`, mark the top
          items of either, the teacher's at least one per row; candidates without a
          mark are not used
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``

    Raises:
        ValueError: If a row has no top item of the teacher.
    """

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        teacher_top: Tensor,
        student_top: Tensor,
    ) -> Tensor:
        lists = student_logits, teacher_logits, teacher_top, student_top
        return rank_aware_kd_loss(*lists, self.temperature, self.reduction)
