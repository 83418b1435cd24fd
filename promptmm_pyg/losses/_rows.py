"""BPR and L2 of the rows of embedding tables; loss and gradient share their passes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from promptmm_pyg.functional import add_rows, check_width
from promptmm_pyg.losses._base import at_least_float32


def bpr_of_rows(
    user_x: Tensor, item_x: Tensor, user: Tensor, positive: Tensor, negative: Tensor
) -> Tensor:
    r"""Returns :math:`-\log \sigma(\mathbf{u}^{\top} (\mathbf{p} - \mathbf{n}))`,
    averaged over the batch: :func:`~promptmm_pyg.losses.bpr_loss` of the scores of
    triplets, several times as fast. First derivatives only. Not finite for embeddings
    that are not finite.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        user: Rows of ``user_x``, ``[B]``.
        positive: Rows of ``item_x``, ``[B]``.
        negative: Rows of ``item_x``, ``[B]``.

    Raises:
        ValueError: If widths or shapes do not match.
        IndexError: If an index is out of range.
    """
    check_width(user_x, item_x)
    if user.dim() != 1 or not user.size() == positive.size() == negative.size():
        sizes = [list(x.size()) for x in (user, positive, negative)]
        raise ValueError(
            f"'user', 'positive' and 'negative' must have the same shape [B] (got "
            f'{sizes})'
        )
    sparse = tuple(getattr(x, 'sparse_grad', False) for x in (user_x, item_x))
    loss: Tensor = _bpr(user_x, item_x, user, positive, negative, sparse)
    return loss


def squared_norm_of_rows(
    tables: Sequence[tuple[Tensor, Sequence[Tensor]]], batch_size: int
) -> Tensor:
    """Returns half the squared norm of the rows of an example, averaged over the batch:
    :func:`~promptmm_pyg.losses.squared_norm` of ``table[index]``, without copies of
    rows where they repeat. First derivatives only.

    Args:
        tables: Each table ``[N, D]`` with the rows ``[B]`` that are looked up.
        batch_size: The number of examples.

    Raises:
        IndexError: If an index is out of range.
    """
    parts = [
        _squared_norm(x, torch.cat(list(index)), getattr(x, 'sparse_grad', False))
        for x, index in tables
    ]
    return torch.stack(parts).sum() / (2 * batch_size)


class _BPR(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        user_x: Tensor,
        item_x: Tensor,
        user: Tensor,
        positive: Tensor,
        negative: Tensor,
        sparse: tuple[bool, bool],
    ) -> Tensor:
        u = user_x.index_select(0, user)
        gap = item_x.index_select(0, positive).sub_(item_x.index_select(0, negative))
        # A product of matrices makes no copy of the rows.
        margin = torch.bmm(
            at_least_float32(u)[:, None], at_least_float32(gap)[..., None]
        )
        margin = margin.view(-1)
        ctx.save_for_backward(u, gap, margin, user, positive, negative)
        ctx.sizes = user_x.size(), item_x.size()
        ctx.sparse = sparse
        return -F.logsigmoid(margin).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, gap, margin, user, positive, negative = ctx.saved_tensors
        factor = torch.sigmoid(-margin).mul_(-grads[0] / margin.numel())
        factor = factor.to(u.dtype)[:, None]
        user_size, item_size = ctx.sizes
        user_sparse, item_sparse = ctx.sparse
        d_user = d_item = None
        if ctx.needs_input_grad[0]:
            d_user = add_rows(user_size, user_sparse, [(user, factor * gap)])
        if ctx.needs_input_grad[1]:
            step = factor * u
            parts = [(positive, step), (negative, -step)]
            d_item = add_rows(item_size, item_sparse, parts)
        return d_user, d_item, None, None, None, None


class _SquaredNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, sparse: bool) -> Tensor:
        # Counts replace repeated rows, unless most rows are not looked up.
        ctx.sparse = sparse or x.size(0) > 2 * index.numel()
        ctx.is_sparse_grad = sparse
        if ctx.sparse:
            ctx.save_for_backward(x, index)
            return _squares(x.index_select(0, index)).sum()
        squares = _squares(x)
        # Unlike `bincount`, without waiting for a GPU.
        ones = squares.new_ones(()).expand_as(index)
        count = torch.zeros_like(squares).index_add_(0, index, ones)
        ctx.save_for_backward(x, count)
        return torch.dot(squares, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, saved = ctx.saved_tensors
        scale = 2 * grads[0]
        if not ctx.sparse:
            return x * (saved * scale).to(x.dtype)[:, None], None, None
        values = x.index_select(0, saved).mul_(scale.to(x.dtype))
        return add_rows(x.size(), ctx.is_sparse_grad, [(saved, values)]), None, None


def _squares(x: Tensor) -> Tensor:
    """The squared norm of every row, ``[N]``."""
    norm: Tensor = torch.linalg.vector_norm(at_least_float32(x), dim=1)
    return norm.square()


_bpr: Any = _BPR.apply
_squared_norm: Any = _SquaredNorm.apply
