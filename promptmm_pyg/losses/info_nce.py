"""InfoNCE with the other rows of the batch as negatives."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.functional import cosine_logsumexp, l2_normalize
from promptmm_pyg.losses._base import (
    Loss,
    Reduction,
    at_least_float32,
    check_finite,
    reduce,
)


def info_nce_loss(
    anchor: Tensor,
    positive: Tensor,
    temperature: float = 0.2,
    group: Tensor | None = None,
    symmetric: bool = False,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns minus the log-probability of each anchor's own row among those of the
    batch, see :class:`InfoNCELoss`.

    Example:
        >>> info_nce_loss(torch.eye(2), torch.eye(2), temperature=1.0)
        tensor(0.3133)
    """
    check_positive('temperature', temperature)
    check_same_shape('anchor', anchor, 'positive', positive)
    if anchor.dim() != 2 or anchor.size(0) < 2:
        raise ValueError(
            f"'anchor' must be [B, D] with at least two rows (got shape "
            f'{list(anchor.size())}). Negatives are the other rows'
        )
    check_finite('anchor', anchor)
    check_finite('positive', positive)
    mask = None if group is None else _pairs_to_use(anchor, group)
    # Under autocast a product would keep three digits of a cosine.
    with torch.autocast(anchor.device.type, enabled=False):
        a, b = (l2_normalize(at_least_float32(x)) for x in (anchor, positive))
        own = (a * b).sum(dim=-1) / temperature
        row, column = cosine_logsumexp(a, b, temperature, mask, columns=symmetric)
    loss = row - own
    if column is not None:
        loss = (loss + column - own) / 2
    return reduce(loss, reduction)


def _pairs_to_use(anchor: Tensor, group: Tensor) -> Tensor:
    """True for the positive and the negatives of each row, ``[B, B]``."""
    if group.size() != anchor.size()[:1]:
        raise ValueError(
            f"'group' must have one id per row of 'anchor' (got shapes "
            f'{list(group.size())} and {list(anchor.size())})'
        )
    if group.is_floating_point():
        raise TypeError(f"'group' must contain integers (got {group.dtype})")
    negative = group.unsqueeze(1) != group.unsqueeze(0)
    alone = ~negative.any(dim=-1)
    if bool(alone.any()):
        raise ValueError(
            f"'group' must leave every row a negative (got {int(alone.sum())} rows "
            f'of one group only). Draw larger batches'
        )
    own = torch.eye(anchor.size(0), dtype=torch.bool, device=anchor.device)
    return negative | own


class InfoNCELoss(Loss):
    r"""The InfoNCE loss of the `"Representation Learning with Contrastive Predictive
    Coding" <https://arxiv.org/abs/1807.03748>`_ paper, on cosines and with the other
    rows of the batch as negatives.

    .. math::
        \mathcal{L}_b = -\log \frac{\exp(\cos(\mathbf{a}_b, \mathbf{p}_b) / \tau)}
        {\sum_{j = b \,\vee\, g_j \neq g_b} \exp(\cos(\mathbf{a}_b, \mathbf{p}_j) /
        \tau)}

    Two uses:

    * *ranking*: anchors are users, positives the items they interacted with. Pass
      the item ids as ``group``, or a popular item is its own negative.
    * *contrastive distillation of embeddings* (in the spirit of the `"Contrastive
      Representation Distillation" <https://arxiv.org/abs/1910.10699>`_ paper, without
      its memory of negatives): anchors are the student's rows, positives the
      teacher's rows of the same nodes. A row should be closer to its own target than
      to those of other rows; the loss does not vanish where both are equal.

    Items are negatives in proportion to their popularity, without a correction; see
    :class:`SampledSoftmaxLoss` for one. A zero row has cosine 0 with all others.
    Memory grows with :math:`B^2`. Gradients flow to both inputs.

    Args:
        temperature: :math:`\tau`. (default: ``0.2``)
        symmetric: Averages the loss with its mirror, in which positives and anchors
            swap roles. (default: ``False``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``anchor`` and ``positive`` :math:`(B, D)` with :math:`B \geq 2`;
          ``group``, integers :math:`(B,)`: rows of one group are not each other's
          negatives (default: one group per row)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``

    Raises:
        ValueError: If a row has no negative.
        TypeError: If the groups are not integers.
    """

    min_rows = 2

    def __init__(
        self,
        temperature: float = 0.2,
        symmetric: bool = False,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__(reduction)
        check_positive('temperature', temperature)
        self.temperature = temperature
        self.symmetric = symmetric

    def forward(
        self, anchor: Tensor, positive: Tensor, group: Tensor | None = None
    ) -> Tensor:
        return info_nce_loss(
            anchor, positive, self.temperature, group, self.symmetric, self.reduction
        )
