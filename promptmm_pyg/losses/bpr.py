"""Bayesian personalized ranking."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_same_shape
from promptmm_pyg.losses._checks_scores import check_finite
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def bpr_loss(
    positive_logits: Tensor, negative_logits: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns :math:`-\log \sigma(y^+ - y^-)`.

    Args:
        positive_logits: Raw scores of observed items ``[B]``.
        negative_logits: Raw scores of unobserved items ``[B]``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a score is not finite or the reduction is
            unknown.

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


class BPRLoss(torch.nn.Module):
    r"""The loss of the `"BPR: Bayesian Personalized Ranking from Implicit
    Feedback" <https://arxiv.org/abs/1205.2618>`_ paper.

    .. math::
        \mathcal{L} = -\log \sigma(y^+ - y^-)

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Shapes:
        - **inputs:** scores of positives :math:`(B,)`, of negatives :math:`(B,)`
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
        return bpr_loss(positive_logits, negative_logits, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"
