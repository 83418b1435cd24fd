"""Soft labels on candidates drawn by the teacher's rank."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.losses._checks_scores import check_finite, check_lists, check_mask
from promptmm_pyg.losses._masked_mean import masked_mean
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce


def sample_by_rank(
    num_ranks: int,
    num_samples: int,
    size: int,
    decay: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Returns places in a ranked list, drawn for each row without replacement in
    proportion to :math:`e^{-r / \lambda}`, int64 ``[size, num_samples]`` from 0.

    Read the teacher's list of a user at these places to get its candidates. A row
    comes in the order of the draw.

    Args:
        num_ranks: Length of the list.
        num_samples: Places per row, at most ``num_ranks``.
        size: Number of rows.
        decay: :math:`\lambda`, the places after which a probability has fallen to a
            third.
        generator: Makes the draw repeatable; the places lie on its device.
            (default: torch's own, on the CPU)

    Raises:
        ValueError: If an argument is not positive or more places are asked for than
            there are.

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
    # The largest of `log p + Gumbel noise` are a draw without replacement, and no
    # probability has to be represented that underflows.
    noise = torch.empty(size, num_ranks, device=device)
    noise.exponential_(generator=generator).log_()
    place = torch.arange(num_ranks, device=device)
    return (-place / decay - noise).topk(num_samples, dim=-1).indices


def collaborative_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the cross entropy of the student's beliefs with the teacher's softened
    ones, averaged over each list, see :class:`CollaborativeKDLoss`.

    Args:
        student_logits: Raw scores ``[B, K]``.
        teacher_logits: Raw scores ``[B, K]``.
        temperature: Softens the teacher only. (default: ``1.0``)
        mask: Boolean ``[B, K]``, ``True`` where a candidate takes part; at least one
            per row. (default: all do)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Raises:
        ValueError: If shapes differ, a list is empty, a score is not finite, the
            temperature is not positive or the reduction is unknown.
        TypeError: If the mask is not boolean.

    Example:
        >>> collaborative_kd_loss(torch.zeros(1, 3), torch.zeros(1, 3))
        tensor(0.6931)
    """
    check_positive('temperature', temperature)
    check_lists('student_logits', student_logits)
    check_same_shape('student_logits', student_logits, 'teacher_logits', teacher_logits)
    if mask is not None:
        check_mask('student_logits', student_logits, 'mask', mask)
    check_finite('student_logits', student_logits, mask)
    check_finite('teacher_logits', teacher_logits, mask)
    student = at_least_float32(student_logits)
    teacher = at_least_float32(teacher_logits) / temperature
    if mask is not None:
        student = student.masked_fill(~mask, 0.0)
        teacher = teacher.masked_fill(~mask, 0.0)
    cost = -teacher.sigmoid() * F.logsigmoid(student)
    cost = cost - (-teacher).sigmoid() * F.logsigmoid(-student)
    return reduce(masked_mean(cost, mask), reduction)


class CollaborativeKDLoss(torch.nn.Module):
    r"""Distillation of soft labels on sampled candidates, after the `"Collaborative
    Distillation for Top-N Recommendation" <https://arxiv.org/abs/1911.05276>`_ paper.

    .. math::
        \mathcal{L} = - \frac{1}{K} \sum_{k=1}^{K} \left( q_k \log \sigma(y^S_k) +
        (1 - q_k) \log (1 - \sigma(y^S_k)) \right), \qquad
        q_k = \sigma \left( \frac{y^T_k}{\tau} \right)

    The candidates are drawn by the teacher's rank, see :func:`sample_by_rank`, so the
    top of its list is taught most and the rest is not forgotten.

    It differs from :class:`SoftLabelKDLoss` in two ways. Only the teacher is softened:
    the minimum lies at :math:`\mathbf{y}^S = \mathbf{y}^T / \tau`, and no factor
    :math:`\tau^2` is needed. And it is a cross entropy: there it is the entropy of
    the teacher's beliefs and not zero. With :math:`\tau = 1` the student's gradients
    are the same. Gradients flow to both lists, and the teacher's do not vanish at
    the minimum: a teacher that is trained along needs a loss of its own.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the lists.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** logits of student and teacher :math:`(B, K)`, boolean mask
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
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return collaborative_kd_loss(
            student_logits, teacher_logits, self.temperature, mask, self.reduction
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"temperature={self.temperature}, reduction='{self.reduction}'"
