"""Losses of a recommender without a teacher: BPR, sampled softmax and L2."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._base import (
    Loss,
    Reduction,
    TemperatureLoss,
    at_least_float32,
    check_finite,
    check_lists,
    check_mask,
    reduce,
)


def bpr_loss(
    positive_logits: Tensor, negative_logits: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns :math:`-\log \sigma(y^+ - y^-)`, see :class:`BPRLoss`.

    Example:
        >>> bpr_loss(torch.tensor([2.0]), torch.tensor([2.0]))
        tensor(0.6931)
    """
    check_same_shape(
        'positive_logits', positive_logits, 'negative_logits', negative_logits
    )
    check_finite('positive_logits', positive_logits)
    check_finite('negative_logits', negative_logits)
    margin = at_least_float32(positive_logits) - at_least_float32(negative_logits)
    return reduce(-F.logsigmoid(margin), reduction)


class BPRLoss(Loss):
    r"""The loss of the `"BPR: Bayesian Personalized Ranking from Implicit
    Feedback" <https://arxiv.org/abs/1205.2618>`_ paper.

    .. math::
        \mathcal{L} = -\log \sigma(y^+ - y^-)

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``positive_logits``, raw scores of observed items :math:`(B,)`;
          ``negative_logits``, of unobserved ones :math:`(B,)`
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def forward(self, positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
        return bpr_loss(positive_logits, negative_logits, self.reduction)


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

    Example:
        >>> sampled_softmax_loss(torch.zeros(1), torch.zeros(1, 3))
        tensor(1.3863)
    """
    check_positive('temperature', temperature)
    check_lists('negative_logits', negative_logits)
    if positive_logits.size() != negative_logits.size()[:1]:
        raise ValueError(
            f"'positive_logits' must have one score per row of 'negative_logits' "
            f'(got shapes {list(positive_logits.size())} and '
            f'{list(negative_logits.size())})'
        )
    if mask is not None:
        check_mask('negative_logits', negative_logits, 'mask', mask)
    check_finite('positive_logits', positive_logits)
    check_finite('negative_logits', negative_logits, mask)
    # Differences first: large scores lose no digits. The result is changed in place,
    # without copies; no gradient reads it.
    positive = at_least_float32(positive_logits).unsqueeze(-1)
    gap = (at_least_float32(negative_logits) - positive).div_(temperature)
    if negative_log_q is not None:
        gap = gap - _log_expected_count(negative_logits, negative_log_q, mask)
    if mask is not None:
        gap = gap.masked_fill_(~mask, -torch.inf)
    margin = torch.logsumexp(gap, dim=-1)
    return reduce(-F.logsigmoid(-margin), reduction)


def _log_expected_count(negative: Tensor, log_q: Tensor, mask: Tensor | None) -> Tensor:
    """Logarithm of the expected count of each negative in its row's sample."""
    if log_q.size() not in (negative.size(), negative.size()[1:]):
        raise ValueError(
            f"'negative_log_q' must have the shape of 'negative_logits' or of one of "
            f'its rows (got {list(log_q.size())} and {list(negative.size())})'
        )
    log_q = at_least_float32(log_q).expand_as(negative)
    if mask is not None:
        log_q = log_q.masked_fill(~mask, 0.0)
    check_finite('negative_log_q', log_q)
    if bool((log_q > 0).any()):
        raise ValueError(
            f"'negative_log_q' must be zero or less (got up to "
            f'{float(log_q.max()):.6g}). Pass the logarithm of the probabilities'
        )
    if mask is None:
        return log_q + math.log(negative.size(-1))
    return log_q + mask.sum(dim=-1, keepdim=True).to(log_q.dtype).log()


class SampledSoftmaxLoss(TemperatureLoss):
    r"""The sampled softmax loss of the `"On Using Very Large Target Vocabulary for
    Neural Machine Translation" <https://arxiv.org/abs/1412.2007>`_ paper, studied for
    recommendation in the `"On the Effectiveness of Sampled Softmax Loss for Item
    Recommendation" <https://arxiv.org/abs/2201.02327>`_ paper.

    .. math::
        \mathcal{L} = -\log \frac{\exp(y^+ / \tau)}{\exp(y^+ / \tau) +
        \sum_{k=1}^{K} \exp(y^-_k / \tau - c_k)}

    With ``negative_log_q``, :math:`c_k = \log(K q_k)` is the logarithm of the
    expected count of the negative in the sample: the sum is then an unbiased estimate
    of the sum over all items that can be drawn, whatever their popularity in the
    sample. Without it :math:`c_k = 0`; for one negative and :math:`\tau = 1` that is
    :class:`BPRLoss`.

    :math:`K` counts the negatives of a row that ``mask`` selects. Mask out negatives
    that are positives of the user; :math:`q` is then the probability among the others.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``positive_logits``, raw scores of observed items :math:`(B,)`;
          ``negative_logits``, of sampled items :math:`(B, K)`; ``negative_log_q``, the
          logarithm of the probability with which one draw yields each negative
          :math:`(B, K)`, or :math:`(K,)` where all rows share their negatives
          (default: no correction); ``mask``, boolean :math:`(B, K)`, true for the
          negatives to use, at least one per row (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``

    Raises:
        ValueError: If a row has no negative, or a probability is above one.
    """

    def forward(
        self,
        positive_logits: Tensor,
        negative_logits: Tensor,
        negative_log_q: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        scores = positive_logits, negative_logits
        return sampled_softmax_loss(
            *scores, self.temperature, negative_log_q, mask, self.reduction
        )


def squared_norm(*embeddings: Tensor) -> Tensor:
    """Returns half the squared norm of the embeddings of one example, summed over the
    given tensors and averaged over the batch.

    Args:
        *embeddings: Rows of one batch, each ``[B, D]``.

    Raises:
        ValueError: If none is given or their first sizes differ.

    Example:
        >>> squared_norm(torch.ones(2, 4), torch.zeros(2, 4))
        tensor(2.)
    """
    sizes = [x.size(0) for x in embeddings]
    if not sizes or len(set(sizes)) > 1:
        raise ValueError(f"'embeddings' must have one batch size (got {sizes})")
    total = torch.stack([at_least_float32(x).square().sum() for x in embeddings]).sum()
    return total / (2 * sizes[0])
