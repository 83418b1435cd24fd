"""Topology distillation: cosines among the rows of a batch, all or by group."""

import torch
from torch import Tensor

from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce
from promptmm_pyg.losses._rows import as_row_pair, inner_products


def topology_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns the squared error of the student's cosines among rows, see
    :class:`TopologyKDLoss`.

    Args:
        student_x: Embeddings ``[N, D_S]``.
        teacher_x: Embeddings ``[N, D_T]``; the widths may differ.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Raises:
        ValueError: If an input is no matrix or empty, the numbers of rows differ, a
            value is not finite or the reduction is unknown.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> topology_kd_loss(x, torch.ones(2, 3))
        tensor(0.5000)
    """
    student_x, teacher_x = as_row_pair(student_x, teacher_x)
    student, teacher = l2_normalize(student_x), l2_normalize(teacher_x)
    return reduce(
        _squared_gap(student, student, teacher, teacher).mean(dim=-1), reduction
    )


def hierarchical_topology_kd_loss(
    student_x: Tensor, teacher_x: Tensor, group: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns the squared error of the student's cosines from rows to groups and
    among rows of one group, see :class:`HierarchicalTopologyKDLoss`.

    Args:
        student_x: Embeddings ``[N, D_S]``.
        teacher_x: Embeddings ``[N, D_T]``; the widths may differ.
        group: The group of every row, int64 ``[N]``, zero or more, with gaps as may
            be.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Raises:
        TypeError: If ``group`` is not int64.
        ValueError: If an input is no matrix or empty, the numbers of rows differ, a
            value is not finite, a group is negative or the reduction is unknown.
    """
    student_x, teacher_x = as_row_pair(student_x, teacher_x)
    _check_group(group, student_x.size(0))
    member_of = group.unsqueeze(0) == group.unique().unsqueeze(1)  # [G, N]
    student_group = _unit_centroids(student_x, member_of)
    teacher_group = _unit_centroids(teacher_x, member_of)
    student, teacher = l2_normalize(student_x), l2_normalize(teacher_x)

    to_groups = _squared_gap(student, student_group, teacher, teacher_group)  # [N, G]
    among_rows = _squared_gap(student, student, teacher, teacher)  # [N, N]
    alike = group.unsqueeze(0) == group.unsqueeze(1)
    within = (among_rows * alike).sum(dim=-1) / alike.sum(dim=-1)
    return reduce(to_groups.mean(dim=-1) + within, reduction)


def _squared_gap(
    student: Tensor, student_other: Tensor, teacher: Tensor, teacher_other: Tensor
) -> Tensor:
    gap = inner_products(student, student_other)
    return (gap - inner_products(teacher, teacher_other)).square()


def _unit_centroids(x: Tensor, member_of: Tensor) -> Tensor:
    # At unit length, the sum of a group's rows is their mean.
    return l2_normalize(inner_products(member_of.to(x.dtype), x.mT))


def _check_group(group: Tensor, num_rows: int) -> None:
    if group.dtype != torch.long:
        raise TypeError(
            f"'group' must be int64 (got {group.dtype}). Call 'group.long()'"
        )
    if group.size() != (num_rows,):
        raise ValueError(
            f"'group' must have shape [{num_rows}], a group for every row (got "
            f'{list(group.size())})'
        )
    if bool((group < 0).any()):
        raise ValueError(
            f"'group' must be zero or more (got {int(group.min())}). Leave rows "
            f'without a group out'
        )


class TopologyKDLoss(torch.nn.Module):
    r"""Full topology distillation after the `"Topology Distillation for Recommender
    System" <https://arxiv.org/abs/2106.08700>`_ paper: every cosine among the rows of
    a batch should be the teacher's.

    .. math::
        \mathcal{L}_i = \frac{1}{N} \sum_j \left( \cos(\mathbf{x}^S_i,
        \mathbf{x}^S_j) - \cos(\mathbf{x}^T_i, \mathbf{x}^T_j) \right)^2

    The lengths of rows do not count, unlike in :class:`SimilarityKDLoss`. A row of
    zeros has the cosine 0 to all, itself too. Gradients flow to both inputs. The cost
    grows with :math:`N^2`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** embeddings :math:`(N, D_S)` and :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return topology_kd_loss(student_x, teacher_x, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"


class HierarchicalTopologyKDLoss(torch.nn.Module):
    r"""Hierarchical topology distillation after the `"Topology Distillation for
    Recommender System" <https://arxiv.org/abs/2106.08700>`_ paper, with groups that
    are given (categories, clusters of the teacher), not learned: a student too small
    for every cosine keeps those to the groups and those within its own.

    .. math::
        \mathcal{L}_i = \frac{1}{G} \sum_g \left( \cos(\mathbf{x}^S_i,
        \mathbf{c}^S_g) - \cos(\mathbf{x}^T_i, \mathbf{c}^T_g) \right)^2 +
        \frac{1}{|g(i)|} \sum_{j \in g(i)} \left( \cos(\mathbf{x}^S_i,
        \mathbf{x}^S_j) - \cos(\mathbf{x}^T_i, \mathbf{x}^T_j) \right)^2

    with the groups of the batch :math:`g`, the group :math:`g(i)` of row :math:`i` and
    itself among it, and the mean :math:`\mathbf{c}_g` of a group's rows. Gradients
    flow to both inputs. The cost grows with :math:`N^2`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Shapes:
        - **inputs:** embeddings :math:`(N, D_S)` and :math:`(N, D_T)`, groups
          :math:`(N,)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, student_x: Tensor, teacher_x: Tensor, group: Tensor) -> Tensor:
        return hierarchical_topology_kd_loss(
            student_x, teacher_x, group, self.reduction
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"
