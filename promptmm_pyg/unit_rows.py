"""Rows at unit length, in few passes over memory; imports :mod:`torch` only."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _inverse_norm(x: Tensor) -> Tensor:
    """One over the length of every row, 1 for a row of zeros."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norm > 0, norm, 1.0).reciprocal_()


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = _inverse_norm(x)
        out = x * inverse
        ctx.save_for_backward(out, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        out, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, out).unsqueeze(-1)
        return torch.addcmul(grad, out, along, value=-1).mul_(inverse)


_apply: Any = _UnitRows.apply


def unit_rows(x: Tensor) -> Tensor:
    r"""Returns every row of ``x`` divided by its length.

    Equal to :func:`torch.nn.functional.normalize` on the last axis, several times as
    fast with its gradient. A row of zeros stays zero, and what comes back passes as it
    is (there, the other multiplies it by :math:`10^{12}`). First derivatives only.

    Args:
        x: Any floating tensor ``[..., D]``.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    out: Tensor = _apply(x)
    return out


class _AddUnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, weight: float) -> Tensor:
        inverse = _inverse_norm(x)
        ctx.save_for_backward(x, inverse)
        ctx.weight = weight
        out = base
        for part, scale in zip(x.unbind(1), inverse.unbind(1), strict=True):
            out = torch.addcmul(out, part, scale, value=weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        x, inverse = ctx.saved_tensors
        d_x = torch.empty_like(x)
        for part, scale, d_part in zip(
            x.unbind(1), inverse.unbind(1), d_x.unbind(1), strict=True
        ):
            along = torch.linalg.vecdot(grad, part).unsqueeze_(-1)
            along.mul_(scale).mul_(scale)
            torch.addcmul(grad, part, along, value=-1, out=d_part)
            d_part.mul_(scale * ctx.weight)
        return grad, d_x, None


_add: Any = _AddUnitRows.apply


def add_unit_rows(base: Tensor, x: Tensor, weight: float = 1.0) -> Tensor:
    r"""Returns ``base + weight * unit_rows(x).sum(1)``: the unit rows are never in
    memory. First derivatives only.

    Args:
        base: Rows ``[N, D]``.
        x: One or several rows for each of them, ``[N, M, D]``.
        weight: Of the unit rows. (default: ``1.0``)

    Example:
        >>> add_unit_rows(torch.ones(1, 2), torch.tensor([[[3.0, 4.0], [0.0, 5.0]]]))
        tensor([[1.6000, 2.8000]])
    """
    out: Tensor = _add(base, x, weight)
    return out
