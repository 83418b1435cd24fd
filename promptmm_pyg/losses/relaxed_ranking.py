"""The order of interesting items, all of them above the uninteresting ones."""

import torch
from torch import Tensor

from promptmm_pyg.losses._checks_scores import check_finite, check_lists, check_mask
from promptmm_pyg.losses._masked_mean import masked_mean
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


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

    Args:
        interesting_logits: The student's raw scores of interesting items, in the
            teacher's order, best first ``[B, K]``.
        uninteresting_logits: Its raw scores of uninteresting items, in any order
            ``[B, L]``.
        mask: Boolean ``[B, K]``, ``True`` where an interesting item takes part; at
            least one per row. (default: all do)
        uninteresting_mask: The same for the others ``[B, L]``. (default: all do)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Raises:
        ValueError: If the numbers of rows differ, a list is empty, a score is not
            finite or the reduction is unknown.
        TypeError: If a mask is not boolean.

    Example:
        >>> relaxed_ranking_loss(torch.zeros(1, 1), torch.zeros(1, 3))
        tensor(1.3863)
    """
    interesting = _masked('interesting_logits', interesting_logits, 'mask', mask)
    uninteresting = _masked(
        'uninteresting_logits',
        uninteresting_logits,
        'uninteresting_mask',
        uninteresting_mask,
    )
    if interesting.size(0) != uninteresting.size(0):
        raise ValueError(
            f"'uninteresting_logits' must have the rows of 'interesting_logits' "
            f'(got '
            f'{uninteresting.size(0)} and {interesting.size(0)})'
        )
    rest = uninteresting.logsumexp(dim=-1, keepdim=True)
    # From the end of the list, with the rest before it: a sum that starts with
    # masked places would have no gradient.
    remaining = torch.cat([rest, interesting.flip(-1)], dim=-1).logcumsumexp(dim=-1)
    remaining = remaining[:, 1:].flip(-1)
    return reduce(masked_mean(remaining - interesting, mask), reduction)


def _masked(name: str, logits: Tensor, mask_name: str, mask: Tensor | None) -> Tensor:
    check_lists(name, logits)
    if mask is not None:
        check_mask(name, logits, mask_name, mask)
    check_finite(name, logits, mask)
    logits = at_least_float32(logits)
    return logits if mask is None else logits.masked_fill(~mask, -torch.inf)


class RelaxedRankingLoss(torch.nn.Module):
    r"""Relaxed ranking distillation of the `"DE-RRD: A Knowledge Distillation
    Framework for Recommender System" <https://arxiv.org/abs/2012.04357>`_ paper.

    .. math::
        \mathcal{L} = - \frac{1}{K} \sum_{k=1}^{K} \log \frac{\exp(s_k)}
        {\sum_{i=k}^{K} \exp(s_i) + \sum_{j=1}^{L} \exp(u_j)}

    where :math:`s_1, \dots, s_K` are the student's scores of the interesting items in
    the teacher's order and :math:`u_1, \dots, u_L` those of the uninteresting ones,
    whose order is not asked for. The paper sums over :math:`k`; here the sum is
    divided by :math:`K`, so that its weight does not depend on the length of the
    list. For one interesting item it is :class:`SampledSoftmaxLoss`.

    The teacher takes part by its order only: the loss does not vanish where both
    agree, and falls as the student tells the items further apart.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** logits of interesting items :math:`(B, K)`, of uninteresting
          ones :math:`(B, L)`, boolean masks :math:`(B, K)` and :math:`(B, L)`
          *(optional)*
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(
        self,
        interesting_logits: Tensor,
        uninteresting_logits: Tensor,
        mask: Tensor | None = None,
        uninteresting_mask: Tensor | None = None,
    ) -> Tensor:
        return relaxed_ranking_loss(
            interesting_logits,
            uninteresting_logits,
            mask,
            uninteresting_mask,
            self.reduction,
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"
