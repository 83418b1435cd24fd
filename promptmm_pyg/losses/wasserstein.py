"""List-wise distillation by the Wasserstein distance."""

from typing import Literal

import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.losses._base import (
    Reduction,
    TemperatureLoss,
    as_list_pair,
    masked_mean,
    reduce,
)
from promptmm_pyg.losses.listwise import log_softmax

Distribution = Literal['logits', 'probabilities']


def wasserstein_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    distribution: Distribution = 'logits',
    mask: Tensor | None = None,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns the Wasserstein distance of the student's and the teacher's scores of
    each list, see :class:`WassersteinKDLoss`.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0, 0.0]])
        >>> wasserstein_kd_loss(student, teacher)  # |0 - 0| and |3 - 2|
        tensor(0.5000)
    """
    check_positive('temperature', temperature)
    check_choice('distribution', distribution, ('logits', 'probabilities'))
    student, teacher = as_list_pair(student_logits, teacher_logits, mask)
    student, teacher = student / temperature, teacher / temperature
    distance = _of_values if distribution == 'logits' else _of_items
    return reduce(temperature**2 * distance(student, teacher, mask), reduction)


def _of_values(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """The mean difference of the sorted logits."""
    if mask is None:
        return (student.sort().values - teacher.sort().values).abs().mean(dim=-1)
    first = mask.sort(descending=True).values
    student, teacher = (
        x.masked_fill(~mask, torch.inf).sort().values.masked_fill(~first, 0.0)
        for x in (student, teacher)
    )
    return masked_mean((student - teacher).abs(), first)


def _of_items(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """The distance of two softmax distributions on the line of the teacher's logits."""
    mass = log_softmax(student, mask).exp() - log_softmax(teacher, mask).exp()
    if mask is not None:  # Others have no mass, and are not beyond the line.
        lowest = teacher.detach().masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
        teacher = torch.where(mask, teacher, lowest)
    position, order = teacher.sort()
    moved = mass.gather(-1, order).cumsum(dim=-1)[:, :-1].abs()
    return (moved * position.diff(dim=-1)).sum(dim=-1)


class WassersteinKDLoss(TemperatureLoss):
    r"""List-wise distillation by the 1-Wasserstein distance, the loss on logits of the
    `"Bridging the Gap: Teacher-Assisted Wasserstein Knowledge Distillation for
    Efficient Multi-Modal Recommendation" <https://openreview.net/forum?id=ss9UXxbSys>`_
    (TARec) paper.

    With ``distribution='logits'`` it compares the values of the scores in a list,
    which are sorted on both sides:

    .. math::
        \mathcal{L} = \frac{\tau^2}{K} \sum_{k=1}^{K} \left| \frac{y^S_{(k)}}{\tau} -
        \frac{y^T_{(k)}}{\tau} \right|

    The student gets the teacher's scale and gaps, but not its order of the items:
    combine it with losses that rank or align (see
    :func:`~promptmm_pyg.distillation.tarec_losses`).

    With ``distribution='probabilities'`` it compares the softmax distributions
    :math:`\mathbf{p}` of the items, which are on the line of the teacher's scores:

    .. math::
        \mathcal{L} = \tau^2 \sum_{k=1}^{K-1} \left| \sum_{j \leq k} \left(
        p^S_{\pi(j)} - p^T_{\pi(j)} \right) \right| \, \frac{y^T_{\pi(k+1)} -
        y^T_{\pi(k)}}{\tau}

    with the items :math:`\pi(1), \dots, \pi(K)` in ascending order of the teacher.
    Mass on a wrong item costs by how much worse or better the teacher scores that item;
    items that the teacher scores alike are interchangeable.

    The paper replaces the Kullback-Leibler divergence by the Wasserstein distance
    because its gradient does not vanish where student and teacher are far apart. We
    have its abstract only: the two distributions, the order 1, the temperature and its
    square are our reading. Gradients flow to both lists.

    Args:
        temperature: :math:`\tau`. (default: ``1.0``)
        distribution: ``'logits'`` or ``'probabilities'``. (default: ``'logits'``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_logits`` and ``teacher_logits``, raw scores :math:`(B,
          K)`; ``mask``, boolean :math:`(B, K)`, true for the candidates to use, at
          least one per row (default: all)
        - **output:** scalar, or :math:`(B,)` with ``reduction='none'``
    """

    def __init__(
        self,
        temperature: float = 1.0,
        distribution: Distribution = 'logits',
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__(temperature, reduction)
        check_choice('distribution', distribution, ('logits', 'probabilities'))
        self.distribution = distribution

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return wasserstein_kd_loss(
            student_logits,
            teacher_logits,
            self.temperature,
            self.distribution,
            mask,
            self.reduction,
        )
