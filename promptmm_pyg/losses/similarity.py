"""Similarity-preserving distillation: who is like whom within a batch."""

import torch
from torch import Tensor

from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce
from promptmm_pyg.losses._rows import as_row_pair, inner_products


def similarity_kd_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    r"""Returns how far the student's inner products among rows are from the
    teacher's, see :class:`SimilarityKDLoss`.

    Args:
        student_x: Embeddings ``[N, D_S]``.
        teacher_x: Embeddings ``[N, D_T]``; the widths may differ.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Raises:
        ValueError: If an input is no matrix or empty, the numbers of rows differ, a
            value is not finite or the reduction is unknown.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> similarity_kd_loss(x, torch.ones(2, 3))  # (1 - r)^2 and r^2, r^2 = 1/2
        tensor(0.2929)
    """
    student_x, teacher_x = as_row_pair(student_x, teacher_x)
    gap = _similarities(student_x) - _similarities(teacher_x)  # [N, N]
    return reduce(gap.square().mean(dim=-1), reduction)


def _similarities(x: Tensor) -> Tensor:
    return l2_normalize(inner_products(x, x))


class SimilarityKDLoss(torch.nn.Module):
    r"""The loss of the `"Similarity-Preserving Knowledge Distillation"
    <https://arxiv.org/abs/1907.09682>`_ paper: rows that are alike for the teacher
    should be alike for the student.

    .. math::
        \mathcal{L} = \frac{1}{N^2} \left\| \mathrm{norm} \left( \mathbf{X}^S
        {\mathbf{X}^S}^{\top} \right) - \mathrm{norm} \left( \mathbf{X}^T
        {\mathbf{X}^T}^{\top} \right) \right\|_F^2

    where :math:`\mathrm{norm}` scales every row to unit length. Rotation, width and
    overall scale of an embedding do not count; the lengths of its rows relative to
    one another do. A row of zeros is like no other. Gradients flow to both inputs.
    The cost grows with :math:`N^2`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows, each of which is the
            mean over its :math:`N` entries. (default: ``'mean'``)

    Shapes:
        - **inputs:** embeddings :math:`(N, D_S)` and :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return similarity_kd_loss(student_x, teacher_x, self.reduction)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"reduction='{self.reduction}'"
