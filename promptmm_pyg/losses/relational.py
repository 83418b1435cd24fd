"""Distillation of relations among the rows of a batch: distances, angles, cosines."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.losses._base import Loss, Reduction, as_row_pair, reduce


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.mT`` in the precision of its inputs.

    Autocast would use half precision, in which squared norms overflow and cosines have
    three digits.
    """
    with torch.autocast(device_type=a.device.type, enabled=False):
        return a @ b.mT


def distance_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns how far the student's relative distances among rows are from the
    teacher's, see :class:`DistanceKDLoss`.

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
    # The gradient of `pdist` is zero, not NaN, for equal rows.
    distance = F.pdist(x)
    mean = distance.mean()
    return distance / torch.where(mean > 0, mean, 1.0)


class DistanceKDLoss(Loss):
    r"""The distance-wise loss of the `"Relational Knowledge Distillation"
    <https://arxiv.org/abs/1904.05068>`_ paper: the distances of pairs of rows,
    relative to their mean, should be the teacher's.

    .. math::
        \mathcal{L} = \frac{2}{N (N - 1)} \sum_{i < j} h \left( \frac{\|
        \mathbf{x}^S_i - \mathbf{x}^S_j \|}{\mu^S}, \frac{\| \mathbf{x}^T_i -
        \mathbf{x}^T_j \|}{\mu^T} \right)

    with :math:`\mu` the mean distance of distinct pairs of either side and :math:`h`
    the Huber loss: half the squared gap up to a gap of 1, linear beyond. The loss is
    invariant to scale, rotation and width. Where all rows coincide, every distance is
    zero. Gradients flow to both inputs. The cost grows with :math:`N^2`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over distinct pairs.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_x`` :math:`(N, D_S)`, ``teacher_x`` :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N (N - 1) / 2,)` with ``reduction='none'``,
          in the order of :func:`torch.nn.functional.pdist`

    Raises:
        ValueError: If there are fewer than two rows.
    """

    min_rows = 2

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return distance_kd_loss(student_x, teacher_x, self.reduction)


def angle_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns how far the student's angles among rows are from the teacher's, see
    :class:`AngleKDLoss`.
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


class AngleKDLoss(Loss):
    r"""The angle-wise loss of the `"Relational Knowledge Distillation"
    <https://arxiv.org/abs/1904.05068>`_ paper: the angles formed by three rows should
    be the teacher's.

    .. math::
        \mathcal{L} = \frac{2}{N (N - 1) (N - 2)} \sum_j \sum_{i < k; \, i, k \neq j}
        h \left( \cos \angle \, \mathbf{x}^S_i \mathbf{x}^S_j \mathbf{x}^S_k, \, \cos
        \angle \, \mathbf{x}^T_i \mathbf{x}^T_j \mathbf{x}^T_k \right)

    with the vertex :math:`j` and :math:`h` the Huber loss. The loss is invariant to
    translation, scale, rotation and width. Where a row coincides with the vertex, the
    cosine is defined as zero. Gradients flow to both inputs.

    Time and memory grow with :math:`N^3` (a quarter of a gigabyte per side at
    :math:`N = 400` in float32, and more with gradients): for a larger batch, pass a
    random sample of its rows, the same of both.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over all angles.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_x`` :math:`(N, D_S)`, ``teacher_x`` :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N, (N - 1) (N - 2) / 2)` with
          ``reduction='none'``: one row per vertex

    Raises:
        ValueError: If there are fewer than three rows.
    """

    min_rows = 3

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return angle_kd_loss(student_x, teacher_x, self.reduction)


def similarity_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns how far the student's inner products among rows are from the
    teacher's, see :class:`SimilarityKDLoss`.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> similarity_kd_loss(x, torch.ones(2, 3))  # (1 - r)^2 and r^2, r^2 = 1/2
        tensor(0.2929)
    """
    student, teacher = (
        l2_normalize(inner_products(x, x)) for x in as_row_pair(student_x, teacher_x)
    )
    return reduce((student - teacher).square().mean(dim=-1), reduction)


class SimilarityKDLoss(Loss):
    r"""The loss of the `"Similarity-Preserving Knowledge Distillation"
    <https://arxiv.org/abs/1907.09682>`_ paper: rows that are similar for the teacher
    should be similar for the student.

    .. math::
        \mathcal{L} = \frac{1}{N^2} \left\| \mathrm{norm} \left( \mathbf{X}^S
        {\mathbf{X}^S}^{\top} \right) - \mathrm{norm} \left( \mathbf{X}^T
        {\mathbf{X}^T}^{\top} \right) \right\|_F^2

    where :math:`\mathrm{norm}` scales every row to unit length. The loss is invariant
    to rotation, width and overall scale, not to the relative lengths of rows. A row of
    zeros is similar to no other. Gradients flow to both inputs. The cost grows with
    :math:`N^2`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows, each of which is the
            mean over its :math:`N` entries. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_x`` :math:`(N, D_S)`, ``teacher_x`` :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return similarity_kd_loss(student_x, teacher_x, self.reduction)


def topology_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns the squared error of the student's cosines among rows, see
    :class:`TopologyKDLoss`.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> topology_kd_loss(x, torch.ones(2, 3))
        tensor(0.5000)
    """
    student, teacher = (l2_normalize(x) for x in as_row_pair(student_x, teacher_x))
    error = _squared_error(student, teacher, student, teacher)
    return reduce(error.mean(dim=-1), reduction)


def _squared_error(
    student: Tensor, teacher: Tensor, student_other: Tensor, teacher_other: Tensor
) -> Tensor:
    """The squared error of the student's inner products with other rows."""
    gap = inner_products(student, student_other) - inner_products(
        teacher, teacher_other
    )
    return gap.square()


class TopologyKDLoss(Loss):
    r"""Full topology distillation after the `"Topology Distillation for Recommender
    System" <https://arxiv.org/abs/2106.08700>`_ paper: every cosine among the rows of
    a batch should be the teacher's.

    .. math::
        \mathcal{L}_i = \frac{1}{N} \sum_j \left( \cos(\mathbf{x}^S_i,
        \mathbf{x}^S_j) - \cos(\mathbf{x}^T_i, \mathbf{x}^T_j) \right)^2

    The loss is invariant to the lengths of rows, unlike :class:`SimilarityKDLoss`. A
    row of zeros has cosine 0 with all rows, itself included. Gradients flow to both
    inputs. The cost grows with :math:`N^2`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_x`` :math:`(N, D_S)`, ``teacher_x`` :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return topology_kd_loss(student_x, teacher_x, self.reduction)


def hierarchical_topology_kd_loss(
    student_x: Tensor, teacher_x: Tensor, group: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns the squared error of the student's cosines from rows to groups and
    among rows of one group, see :class:`HierarchicalTopologyKDLoss`.
    """
    student_x, teacher_x = as_row_pair(student_x, teacher_x)
    if group.dtype != torch.long:
        raise TypeError(
            f"'group' must be int64 (got {group.dtype}). Call 'group.long()'"
        )
    if group.size() != student_x.size()[:1]:
        raise ValueError(
            f"'group' must have shape [{student_x.size(0)}], a group for every row "
            f'(got {list(group.size())})'
        )
    if bool((group < 0).any()):
        raise ValueError(
            f"'group' must be zero or more (got {int(group.min())}). Leave rows "
            f'without a group out'
        )
    member_of = group.unsqueeze(0) == group.unique().unsqueeze(1)  # [G, N]
    student_group = _unit_centroids(student_x, member_of)
    teacher_group = _unit_centroids(teacher_x, member_of)
    student, teacher = l2_normalize(student_x), l2_normalize(teacher_x)

    to_groups = _squared_error(student, teacher, student_group, teacher_group)  # [N, G]
    among_rows = _squared_error(student, teacher, student, teacher)  # [N, N]
    same_group = group.unsqueeze(0) == group.unsqueeze(1)
    within = (among_rows * same_group).sum(dim=-1) / same_group.sum(dim=-1)
    return reduce(to_groups.mean(dim=-1) + within, reduction)


def _unit_centroids(x: Tensor, member_of: Tensor) -> Tensor:
    # At unit length, the sum of a group's rows is their mean.
    return l2_normalize(inner_products(member_of.to(x.dtype), x.mT))


class HierarchicalTopologyKDLoss(Loss):
    r"""Hierarchical topology distillation after the `"Topology Distillation for
    Recommender System" <https://arxiv.org/abs/2106.08700>`_ paper, with groups that
    are given (categories, clusters of the teacher), not learned: only the cosines of
    rows with the groups' centroids and within one's own group should be the teacher's.

    .. math::
        \mathcal{L}_i = \frac{1}{G} \sum_g \left( \cos(\mathbf{x}^S_i,
        \mathbf{c}^S_g) - \cos(\mathbf{x}^T_i, \mathbf{c}^T_g) \right)^2 +
        \frac{1}{|g(i)|} \sum_{j \in g(i)} \left( \cos(\mathbf{x}^S_i,
        \mathbf{x}^S_j) - \cos(\mathbf{x}^T_i, \mathbf{x}^T_j) \right)^2

    with the groups of the batch :math:`g`, the group :math:`g(i)` of row :math:`i`,
    which includes it, and the mean :math:`\mathbf{c}_g` of a group's rows. Gradients
    flow to both inputs, through the means, too. The cost grows with :math:`N^2`.

    The paper's loss differs: its groups are learned with the student, by a router on
    the teacher's rows. In the released code the means have no gradient, pairs within
    a group are used only where the teacher's cosine is positive, users and items are
    in one topology, and squares are summed.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_x`` :math:`(N, D_S)`, ``teacher_x`` :math:`(N, D_T)`;
          ``group``, the group of every row, int64 :math:`(N,)`, zero or more, not
          necessarily contiguous
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``

    Raises:
        ValueError: If a group is negative.
        TypeError: If ``group`` is not int64.
    """

    def forward(self, student_x: Tensor, teacher_x: Tensor, group: Tensor) -> Tensor:
        return hierarchical_topology_kd_loss(
            student_x, teacher_x, group, self.reduction
        )
