"""Distillation of Bernoulli probabilities: pairs, soft labels, sampled items."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._base import (
    Reduction,
    TemperatureLoss,
    as_list_pair,
    at_least_float32,
    check_finite,
    masked_mean,
    reduce,
)


def bernoulli_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Elementwise Kullback-Leibler divergence of the teacher's from the student's
    Bernoulli distribution, from logits.
    """
    gap = F.logsigmoid(teacher_logits) - F.logsigmoid(student_logits)
    other_gap = F.logsigmoid(-teacher_logits) - F.logsigmoid(-student_logits)
    return teacher_logits.sigmoid() * gap + (-teacher_logits).sigmoid() * other_gap


def pairwise_kd_loss(
    student_margin: Tensor,
    teacher_margin: Tensor,
    temperature: float = 1.0,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two probabilities that the first item of a pair is
    preferred, see :class:`PairwiseKDLoss`.
    """
    check_same_shape('student_margin', student_margin, 'teacher_margin', teacher_margin)
    check_positive('temperature', temperature)
    check_finite('student_margin', student_margin)
    check_finite('teacher_margin', teacher_margin)
    student = at_least_float32(student_margin) / temperature
    teacher = at_least_float32(teacher_margin) / temperature
    return reduce(temperature**2 * bernoulli_divergence(student, teacher), reduction)


class PairwiseKDLoss(TemperatureLoss):
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
        - **inputs:** ``student_margin`` and ``teacher_margin``, score of the positive
          minus score of the negative :math:`(B,)`
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def forward(self, student_margin: Tensor, teacher_margin: Tensor) -> Tensor:
        return pairwise_kd_loss(
            student_margin, teacher_margin, self.temperature, self.reduction
        )


def soft_label_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the divergence of two probabilities that a candidate is relevant,
    averaged over each list, see :class:`SoftLabelKDLoss`.

    Example:
        >>> scores = torch.tensor([[2.0, -1.0]])
        >>> soft_label_kd_loss(scores, scores)
        tensor(0.)
    """
    check_positive('temperature', temperature)
    student, teacher = as_list_pair(student_logits, teacher_logits, mask, fill=0.0)
    divergence = bernoulli_divergence(student / temperature, teacher / temperature)
    return reduce(temperature**2 * masked_mean(divergence, mask), reduction)


class SoftLabelKDLoss(TemperatureLoss):
    r"""Point-wise distillation: the Kullback-Leibler divergence of the teacher's and
    the student's probability of each candidate, after the `"Distilling the Knowledge
    in a Neural Network" <https://arxiv.org/abs/1503.02531>`_ paper with a sigmoid per
    item in place of the softmax.

    .. math::
        \mathcal{L} = \frac{\tau^2}{K} \sum_{k=1}^{K} \left( \pi^T_k \log
        \frac{\pi^T_k}{\pi^S_k} + (1 - \pi^T_k) \log \frac{1 - \pi^T_k}{1 - \pi^S_k}
        \right), \qquad \pi_k = \sigma \left( \frac{y_k}{\tau} \right)

    Unlike :class:`ListwiseKDLoss` it compares the scores themselves, not up to a shift
    per user: it fits models whose score is trained as a logit. Its gradient with
    respect to a score is :math:`\tau (\pi^S_k - \pi^T_k) / K`. Gradients flow to both
    lists.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over lists. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_logits`` and ``teacher_logits``, raw scores :math:`(B,
          K)`; ``mask``, boolean :math:`(B, K)`, true for the candidates to use, at
          least one per row (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return soft_label_kd_loss(
            student_logits, teacher_logits, self.temperature, mask, self.reduction
        )


def sample_by_rank(
    num_ranks: int,
    num_samples: int,
    size: int,
    decay: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Returns positions in a ranked list, drawn per row without replacement in
    proportion to :math:`e^{-r / \lambda}`, int64 ``[size, num_samples]`` from 0, in
    the order of the draw.

    The items at these positions of the teacher's list of a user are the candidates.

    Args:
        num_ranks: Length of the list.
        num_samples: Positions per row, at most ``num_ranks``.
        size: Number of rows.
        decay: :math:`\lambda`, the ranks after which the probability is divided by
            :math:`e`.
        generator: Makes the draw repeatable; the result is on its device.
            (default: torch's own, on the CPU)

    Raises:
        ValueError: If an argument is not positive, or ``num_samples`` exceeds
            ``num_ranks``.

    Example:
        >>> sample_by_rank(num_ranks=100, num_samples=3, size=4, decay=10.0).size()
        torch.Size([4, 3])
    """
    for name, value in (
        ('num_ranks', num_ranks),
        ('num_samples', num_samples),
        ('size', size),
        ('decay', decay),
    ):
        check_positive(name, value)
    if num_samples > num_ranks:
        raise ValueError(
            f"'num_samples' must be at most 'num_ranks' (got {num_samples} and "
            f'{num_ranks})'
        )
    device = 'cpu' if generator is None else generator.device
    # Gumbel top-k: a draw without replacement in which no probability underflows.
    noise = torch.empty(size, num_ranks, device=device)
    noise.exponential_(generator=generator).log_()
    rank = torch.arange(num_ranks, device=device)
    return (-rank / decay - noise).topk(num_samples, dim=-1).indices


def collaborative_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the cross entropy of the student's probabilities with the teacher's
    softened ones, averaged over each list, see :class:`CollaborativeKDLoss`.

    Example:
        >>> collaborative_kd_loss(torch.zeros(1, 3), torch.zeros(1, 3))
        tensor(0.6931)
    """
    check_positive('temperature', temperature)
    student, teacher = as_list_pair(student_logits, teacher_logits, mask, fill=0.0)
    teacher = teacher / temperature
    cost = -teacher.sigmoid() * F.logsigmoid(student)
    cost = cost - (-teacher).sigmoid() * F.logsigmoid(-student)
    return reduce(masked_mean(cost, mask), reduction)


class CollaborativeKDLoss(TemperatureLoss):
    r"""Distillation of soft labels on sampled candidates, after the `"Collaborative
    Distillation for Top-N Recommendation" <https://arxiv.org/abs/1911.05276>`_ paper.

    .. math::
        \mathcal{L} = - \frac{1}{K} \sum_{k=1}^{K} \left( q_k \log \sigma(y^S_k) +
        (1 - q_k) \log (1 - \sigma(y^S_k)) \right), \qquad
        q_k = \sigma \left( \frac{y^T_k}{\tau} \right)

    The candidates are drawn by the teacher's rank with :func:`sample_by_rank`: mostly
    from the top of its list, sometimes from the rest.

    It differs from :class:`SoftLabelKDLoss` in two ways. Only the teacher is softened:
    the minimum is at :math:`\mathbf{y}^S = \mathbf{y}^T / \tau`, and no factor
    :math:`\tau^2` is needed. And it is a cross entropy: at the minimum it equals the
    teacher's entropy, not zero. With :math:`\tau = 1` the student's gradients are the
    same. Gradients flow to both lists, and the teacher's do not vanish at the minimum:
    a teacher that is trained with the student requires its own loss.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over lists. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_logits`` and ``teacher_logits``, raw scores :math:`(B,
          K)`; ``mask``, boolean :math:`(B, K)`, true for the candidates to use, at
          least one per row (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return collaborative_kd_loss(
            student_logits, teacher_logits, self.temperature, mask, self.reduction
        )
