"""Softmax over one positive and a sample of negatives."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.losses._checks_scores import check_finite, check_lists, check_mask
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def sampled_softmax_loss(
    positive_logits: Tensor,
    negative_logits: Tensor,
    temperature: float = 1.0,
    negative_log_q: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns minus the log-probability of the positive in a softmax over itself and
    its negatives, see :class:`SampledSoftmaxLoss`.

    Args:
        positive_logits: Raw scores of observed items ``[B]``.
        negative_logits: Raw scores of sampled items ``[B, K]``.
        temperature: Sharpens the softmax below 1. (default: ``1.0``)
        negative_log_q: Logarithm of the probability with which one draw yields each
            negative ``[B, K]``, or ``[K]`` where all rows share their negatives.
            (default: no correction)
        mask: Boolean ``[B, K]``, ``True`` where a negative takes part; at least one
            per row. (default: all do)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a row has no negative, a score is not finite, a
            probability is above one, the temperature is not positive or the
            reduction is unknown.
        TypeError: If the mask is not boolean.

    Example:
        >>> sampled_softmax_loss(torch.zeros(1), torch.zeros(1, 3))
        tensor(1.3863)
    """
    check_positive('temperature', temperature)
    _check_scores(positive_logits, negative_logits, mask)
    # Differences first: nothing is lost where both scores are large. What they are
    # then changed in place by needs no copy of its own, and gradients none of them.
    positive = at_least_float32(positive_logits).unsqueeze(-1)
    gap = (at_least_float32(negative_logits) - positive).div_(temperature)
    if negative_log_q is not None:
        gap = gap - _log_expected_count(negative_logits, negative_log_q, mask)
    if mask is not None:
        gap = gap.masked_fill_(~mask, -torch.inf)
    margin = torch.logsumexp(gap, dim=-1)
    return reduce(-F.logsigmoid(-margin), reduction)


def _check_scores(positive: Tensor, negative: Tensor, mask: Tensor | None) -> None:
    check_lists('negative_logits', negative)
    if positive.size() != negative.size()[:1]:
        raise ValueError(
            f"'positive_logits' requires one score per row of 'negative_logits' "
            f'(got shapes {list(positive.size())} and {list(negative.size())})'
        )
    if mask is not None:
        check_mask('negative_logits', negative, 'mask', mask)
    check_finite('positive_logits', positive)
    check_finite('negative_logits', negative, mask)


def _log_expected_count(negative: Tensor, log_q: Tensor, mask: Tensor | None) -> Tensor:
    """Logarithm of how often each negative is expected in its row's sample."""
    if log_q.size() not in (negative.size(), negative.size()[1:]):
        raise ValueError(
            f"'negative_log_q' requires the shape of 'negative_logits' or of one of "
            f'its '
            f'rows (got {list(log_q.size())} and {list(negative.size())})'
        )
    log_q = at_least_float32(log_q).expand_as(negative)
    if mask is not None:
        log_q = log_q.masked_fill(~mask, 0.0)
    check_finite('negative_log_q', log_q)
    if bool((log_q > 0).any()):
        raise ValueError(
            f"'negative_log_q' must be zero or less (got up to "
            f'{float(log_q.max()):.6g}). Take the logarithm of the probabilities'
        )
    if mask is None:
        return log_q + math.log(negative.size(-1))
    return log_q + mask.sum(dim=-1, keepdim=True).to(log_q.dtype).log()


class SampledSoftmaxLoss(torch.nn.Module):
    r"""The sampled softmax loss of the `"On Using Very Large Target Vocabulary for
    Neural Machine Translation" <https://arxiv.org/abs/1412.2007>`_ paper, studied for
    recommendation in the `"On the Effectiveness of Sampled Softmax Loss for Item
    Recommendation" <https://arxiv.org/abs/2201.02327>`_ paper.

    .. math::
        \mathcal{L} = -\log \frac{\exp(y^+ / \tau)}{\exp(y^+ / \tau) +
        \sum_{k=1}^{K} \exp(y^-_k / \tau - c_k)}

    With ``negative_log_q``, :math:`c_k = \log(K q_k)` is the logarithm of how often
    the negative is expected in the sample: the sum then estimates, without bias, the
    one over all items that can be drawn, whatever their popularity in the sample.
    Without it :math:`c_k = 0`. For one negative and :math:`\tau = 1` that is
    :class:`BPRLoss`.

    :math:`K` counts the negatives of a row that take part. Negatives that happen to
    be positives of the user belong in ``mask``, and then :math:`q` is the probability
    among the others.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Shapes:
        - **inputs:** scores of positives :math:`(B,)`, of negatives :math:`(B, K)`,
          log-probabilities :math:`(B, K)` or :math:`(K,)` *(optional)*, boolean mask
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
        self,
        positive_logits: Tensor,
        negative_logits: Tensor,
        negative_log_q: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        return sampled_softmax_loss(
            positive_logits,
            negative_logits,
            self.temperature,
            negative_log_q,
            mask,
            self.reduction,
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"temperature={self.temperature}, reduction='{self.reduction}'"
