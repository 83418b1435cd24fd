"""The softmax over cosines with all rows of a batch, in few passes over memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The exponents that are summed reach from zero down to minus twice the inverse
# temperature; below this, a float has nothing left of their exponential.
_DEEPEST = 80.0


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        temperature: float,
        mask: Tensor | None,
        columns: bool,
    ) -> tuple[Tensor, Tensor | None]:
        scale = 1 / temperature
        # One more column lowers all exponents without a pass over the matrix.
        lowered = torch.nn.functional.pad(scale * a, (0, 1), value=-scale)
        e = (lowered @ torch.nn.functional.pad(b, (0, 1), value=1.0).t()).exp_()
        if mask is not None:
            e.masked_fill_(~mask, 0.0)
        sums = e.sum(dim=1), e.sum(dim=0) if columns else None
        ctx.save_for_backward(a, b, e, *sums)
        ctx.scale = scale
        row, column = (None if x is None else x.log().add_(scale) for x in sums)
        assert row is not None
        return row, column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        a, b, e, row_sum, column_sum = ctx.saved_tensors
        of_row, of_column = grads
        width = a.size(1)
        # What every row and every column of `e` is multiplied with is applied to the
        # thin factors instead.
        row = torch.zeros_like(row_sum) if of_row is None else of_row / row_sum
        row = row.mul_(ctx.scale).unsqueeze(-1)
        if column_sum is None or of_column is None:
            return (e @ b).mul_(row), e.t() @ (row * a), None, None, None
        column = (of_column / column_sum).mul_(ctx.scale).unsqueeze(-1)
        d_a = e @ torch.cat([b, column * b], dim=1)
        d_b = e.t() @ torch.cat([row * a, a], dim=1)
        return (
            torch.addcmul(d_a[:, width:], row, d_a[:, :width]),
            torch.addcmul(d_b[:, :width], column, d_b[:, width:]),
            *(None, None, None),
        )


_apply: Any = _LogSumExp.apply


def cosine_logsumexp(
    a: Tensor,
    b: Tensor,
    temperature: float,
    mask: Tensor | None = None,
    columns: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""Returns :math:`\log \sum_j \exp(\mathbf{a}_i^{\top} \mathbf{b}_j / \tau)` of
    every row :math:`i` and, on demand, the same sum over :math:`i` of every column.

    As rows have at most unit length, no exponent exceeds :math:`1 / \tau`, so none has
    to be searched for the largest. One matrix of exponentials serves both directions
    and the gradient, which is a product with it. First derivatives only. Temperatures
    of less than 0.025 go through :func:`torch.logsumexp`.

    Args:
        a: Rows ``[B, D]``, none longer than 1.
        b: Rows ``[K, D]``, none longer than 1.
        temperature: :math:`\tau`.
        mask: Boolean ``[B, K]``, ``True`` where a pair takes part; at least one in
            every row, and in every column that is asked for. (default: all do)
        columns: Whether columns are asked for. (default: ``False``)
    """
    if 2 / temperature <= _DEEPEST:
        row, column = _apply(a, b, temperature, mask, columns)
        return row, column
    logits = a @ b.t() / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.logsumexp(dim=1), logits.logsumexp(dim=0) if columns else None
