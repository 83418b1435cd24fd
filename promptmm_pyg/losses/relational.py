"""Relational distillation: distances and angles among the rows of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce
from promptmm_pyg.losses._rows import as_row_pair, inner_products


def distance_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns how far the student's relative distances among rows are from the
    teacher's, see :class:`DistanceKDLoss`.

    Args:
        student_x: Embeddings ``[N, D_S]`` of at least two rows.
        teacher_x: Embeddings ``[N, D_T]``; the widths may differ.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over distinct pairs.
            (default: ``'mean'``)

    Raises:
        ValueError: If an input is no matrix, the numbers of rows differ or are below
            two, a value is not finite or the reduction is unknown.

    Example:
        >>> triangle = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> larger_in_space = torch.nn.functional.pad(10 * triangle, (0, 1))
        >>> distance_kd_loss(triangle, larger_in_space)
        tensor(0.)
    """
    student_x, teacher_x = as_row_pair(student_x, teacher_x, at_least=2)
    student, teacher = _relative_distances(student_x), _relative_distances(teacher_x)
    return reduce(F.huber_loss(student, teacher, reduction='none'), reduction)


def _relative_distances(x: Tensor) -> Tensor:
    # The gradient of `pdist` is zero, not NaN, where two rows coincide.
    distance = F.pdist(x)
    mean = distance.mean()
    return distance / torch.where(mean > 0, mean, 1.0)


def angle_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns how far the student's angles among rows are from the teacher's, see
    :class:`AngleKDLoss`.

    Args:
        student_x: Embeddings ``[N, D_S]`` of at least three rows.
        teacher_x: Embeddings ``[N, D_T]``; the widths may differ.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over all angles.
            (default: ``'mean'``)

    Raises:
        ValueError: If an input is no matrix, the numbers of rows differ or are below
            three, a value is not finite or the reduction is unknown.
    """
    student_x, teacher_x = as_row_pair(student_x, teacher_x, at_least=3)
    student, teacher = _cosines_of_angles(student_x), _cosines_of_angles(teacher_x)
    return reduce(F.huber_loss(student, teacher, reduction='none'), reduction)


def _cosines_of_angles(x: Tensor) -> Tensor:
    """Every vertex with every pair of other rows, ``[N, (N - 1) (N - 2) / 2]``."""
    num_others = x.size(0) - 1
    vertex = torch.arange(x.size(0), device=x.device).unsqueeze(-1)
    other = torch.arange(num_others, device=x.device)
    other = other + (other >= vertex)  # [N, N - 1], all rows but the vertex
    rays = l2_normalize(x[other] - x.unsqueeze(1))  # [N, N - 1, D]
    first, second = torch.triu_indices(num_others, num_others, 1, device=x.device)
    return inner_products(rays, rays)[:, first, second]


class DistanceKDLoss(torch.nn.Module):
    r"""The distance-wise loss of the `"Relational Knowledge Distillation"
    <https://arxiv.org/abs/1904.05068>`_ paper: pairs of rows should be as far apart,
    relative to all others, as the teacher has them.

    .. math::
        \mathcal{L} = \frac{2}{N (N - 1)} \sum_{i < j} h \left( \frac{\|
        \mathbf{x}^S_i - \mathbf{x}^S_j \|}{\mu^S}, \frac{\| \mathbf{x}^T_i -
        \mathbf{x}^T_j \|}{\mu^T} \right)

    with :math:`\mu` the mean distance of distinct pairs, on either side its own, and
    :math:`h` the Huber loss: half the squared gap up to a gap of 1, linear beyond.
    Scale, rotation and width of an embedding do not count. Where all rows coincide,
    every distance is zero. Gradients flow to both inputs. The cost grows with
    :math:`N^2`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over distinct pairs.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** embeddings :math:`(N, D_S)` and :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N (N - 1) / 2,)` with ``reduction='none'``,
          in the order of :func:`torch.nn.functional.pdist`
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return distance_kd_loss(student_x, teacher_x, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"


class AngleKDLoss(torch.nn.Module):
    r"""The angle-wise loss of the `"Relational Knowledge Distillation"
    <https://arxiv.org/abs/1904.05068>`_ paper: three rows should form the angles that
    they form in the teacher's space.

    .. math::
        \mathcal{L} = \frac{2}{N (N - 1) (N - 2)} \sum_j \sum_{i < k; \, i, k \neq j}
        h \left( \cos \angle \, \mathbf{x}^S_i \mathbf{x}^S_j \mathbf{x}^S_k, \, \cos
        \angle \, \mathbf{x}^T_i \mathbf{x}^T_j \mathbf{x}^T_k \right)

    with the vertex :math:`j` and :math:`h` the Huber loss. A gap of cosines is at
    most 2. Place, scale, rotation and width of an embedding do not count. Where a row
    coincides with the vertex, the cosine is taken to be zero. Gradients flow to both
    inputs.

    Time and memory grow with :math:`N^3` (a quarter of a gigabyte for each side at
    :math:`N = 400` in float32, and more with gradients): for a larger batch, give a
    random part of its rows, the same of both.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over all angles.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** embeddings :math:`(N, D_S)` and :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N, (N - 1) (N - 2) / 2)` with
          ``reduction='none'``: a row per vertex
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return angle_kd_loss(student_x, teacher_x, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"
