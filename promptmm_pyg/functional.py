"""Scores, L2 normalization and softmax sums of embeddings, with :mod:`torch` only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows ``[*, D]`` of a table ``[N, D]`` at ``index`` ``[*]``.

    Unlike in ``x[index]``, negative indices are an error, and the gradient is several
    times as fast as that of indexing or of an embedding for repeated rows. Within
    :func:`sparse_gradients` the gradient is sparse.

    Raises:
        IndexError: If an index is out of range.
    """
    if getattr(x, 'sparse_grad', False):
        return F.embedding(index, x, sparse=True)
    return x.index_select(0, index.reshape(-1)).view(*index.size(), x.size(-1))


@contextmanager
def sparse_gradients(tables: Iterable[Tensor]) -> Iterator[None]:
    """Within the block, :func:`rows` of these tables have sparse gradients, as those of
    :class:`torch.nn.Embedding` with ``sparse=True``; no matrix of the size of a table
    is allocated.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(1000, 2))
        >>> with sparse_gradients([table]):
        ...     rows(table, torch.tensor([7, 7])).sum().backward()
        >>> table.grad.coalesce().values()
        tensor([[2., 2.]])
    """
    tables = list(tables)
    for table in tables:
        table.sparse_grad = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for table in tables:
            del table.sparse_grad  # type: ignore[attr-defined]


def score_pairs(
    user_x: Tensor, item_x: Tensor, user_index: Tensor, item_index: Tensor
) -> Tensor:
    """One score for each (user, item) pair, differentiable in both tables.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        user_index: Rows of ``user_x``, ``[B]``.
        item_index: Rows of ``item_x``, ``[B]``.

    Returns:
        Scores ``[B]``.

    Raises:
        ValueError: If widths or shapes do not match.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
        >>> score_pairs(x, x, torch.tensor([0, 1]), torch.tensor([1, 1]))
        tensor([ 1., 10.])
    """
    check_width(user_x, item_x)
    if user_index.dim() != 1 or user_index.size() != item_index.size():
        raise ValueError(
            "'user_index' and 'item_index' must have the same shape [B] "
            f'(got {list(user_index.size())} and {list(item_index.size())})'
        )
    return (rows(user_x, user_index) * rows(item_x, item_index)).sum(-1)


def score_lists(
    user_x: Tensor, item_x: Tensor, user_index: Tensor, item_index: Tensor
) -> Tensor:
    """One score for each candidate in each user's list, differentiable in both
    tables. First derivatives only.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        user_index: Rows of ``user_x``, ``[B]``.
        item_index: Rows of ``item_x``, ``[B, K]``.

    Returns:
        Scores ``[B, K]``.

    Raises:
        ValueError: If widths or shapes do not match.
    """
    check_width(user_x, item_x)
    if item_index.dim() != 2 or user_index.size() != item_index.size()[:1]:
        raise ValueError(
            "'item_index' must have the shape [B, K] where 'user_index' has [B] "
            f'(got {list(item_index.size())} and {list(user_index.size())})'
        )
    sparse = tuple(getattr(x, 'sparse_grad', False) for x in (user_x, item_x))
    scores: Tensor = _score_lists(user_x, item_x, user_index, item_index, sparse)
    return scores


class _ScoreLists(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        user_x: Tensor,
        item_x: Tensor,
        user_index: Tensor,
        item_index: Tensor,
        sparse: tuple[bool, bool],
    ) -> Tensor:
        users = user_x.index_select(0, user_index)
        items = item_x.index_select(0, item_index.reshape(-1))
        items = items.view(*item_index.size(), item_x.size(1))
        ctx.save_for_backward(users, items, user_index, item_index)
        ctx.sizes, ctx.sparse = (user_x.size(), item_x.size()), sparse
        return torch.bmm(items, users[..., None]).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        users, items, user_index, item_index = ctx.saved_tensors
        grad = grads[0]
        d_user = d_item = None
        if ctx.needs_input_grad[0]:
            d_rows = torch.bmm(grad[:, None], items).squeeze(1)
            d_user = add_rows(ctx.sizes[0], ctx.sparse[0], [(user_index, d_rows)])
        if ctx.needs_input_grad[1]:
            d_rows = (grad[..., None] * users[:, None]).flatten(0, 1)
            parts = [(item_index.reshape(-1), d_rows)]
            d_item = add_rows(ctx.sizes[1], ctx.sparse[1], parts)
        return d_user, d_item, None, None, None


_score_lists: Any = _ScoreLists.apply


def add_rows(
    size: torch.Size, sparse: bool, parts: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """The sum of rows ``[B, D]`` at their positions ``[B]`` in zeros of ``size``."""
    if sparse:
        index = torch.cat([index for index, _ in parts])
        values = torch.cat([rows for _, rows in parts])
        return torch.sparse_coo_tensor(
            index[None], values, size, check_invariants=False
        )
    out = parts[0][1].new_zeros(size)
    for index, values in parts:
        out.scatter_add_(0, index[:, None].expand_as(values), values)
    return out


def score_all(user_x: Tensor, item_x: Tensor) -> Tensor:
    """The score of every item for every given user vector, differentiable in both.

    Args:
        user_x: User vectors ``[B, D]``.
        item_x: Item vectors ``[num_items, D]``.

    Returns:
        Scores ``[B, num_items]``.

    Raises:
        ValueError: If the widths differ.
    """
    check_width(user_x, item_x)
    return user_x @ item_x.t()


def check_width(user_x: Tensor, item_x: Tensor) -> None:
    """Raises unless both are matrices with the same number of columns."""
    if user_x.dim() != 2 or item_x.dim() != 2 or user_x.size(1) != item_x.size(1):
        raise ValueError(
            "'user_x' and 'item_x' must be matrices of one width "
            f'(got {list(user_x.size())} and {list(item_x.size())})'
        )


def _inverse_norm(x: Tensor) -> Tensor:
    """The inverse L2 norm of every row, 1 for a row of zeros."""
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


def l2_normalize(x: Tensor) -> Tensor:
    r"""Returns every row of ``x`` divided by its L2 norm.

    Equal to :func:`torch.nn.functional.normalize` along the last dimension, and several
    times as fast with its gradient. Rows of zeros stay zero, with an unchanged gradient
    (torch multiplies it by :math:`10^{12}`). First derivatives only.

    Args:
        x: Any floating tensor ``[..., D]``.

    Example:
        >>> l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
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


def add_l2_normalized(base: Tensor, x: Tensor, weight: float = 1.0) -> Tensor:
    r"""Returns ``base + weight * l2_normalize(x).sum(1)`` without storing normalized
    rows. First derivatives only.

    Args:
        base: Rows ``[N, D]``.
        x: One or several rows for each of them, ``[N, M, D]``.
        weight: Of the normalized rows. (default: ``1.0``)

    Example:
        >>> x = torch.tensor([[[3.0, 4.0], [0.0, 5.0]]])
        >>> add_l2_normalized(torch.ones(1, 2), x)
        tensor([[1.6000, 2.8000]])
    """
    out: Tensor = _add(base, x, weight)
    return out


# Exponents are between minus twice the inverse temperature and zero; below minus this,
# the exponential is zero in float32.
_MAX_EXPONENT = 80.0


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
        # One more column shifts all exponents without a pass over the matrix.
        shifted = F.pad(scale * a, (0, 1), value=-scale)
        e = (shifted @ F.pad(b, (0, 1), value=1.0).t()).exp_()
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
        row_grad, column_grad = grads
        width = a.size(1)
        # Factors of rows and columns of `e` are applied to the narrow matrices.
        row = torch.zeros_like(row_sum) if row_grad is None else row_grad / row_sum
        row = row.mul_(ctx.scale).unsqueeze(-1)
        if column_sum is None or column_grad is None:
            return (e @ b).mul_(row), e.t() @ (row * a), None, None, None
        column = (column_grad / column_sum).mul_(ctx.scale).unsqueeze(-1)
        d_a = e @ torch.cat([b, column * b], dim=1)
        d_b = e.t() @ torch.cat([row * a, a], dim=1)
        return (
            torch.addcmul(d_a[:, width:], row, d_a[:, :width]),
            torch.addcmul(d_b[:, :width], column, d_b[:, width:]),
            *(None, None, None),
        )


_logsumexp: Any = _LogSumExp.apply


def cosine_logsumexp(
    a: Tensor,
    b: Tensor,
    temperature: float,
    mask: Tensor | None = None,
    columns: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""Returns :math:`\log \sum_j \exp(\mathbf{a}_i^{\top} \mathbf{b}_j / \tau)` of
    every row :math:`i` and, with ``columns``, those over :math:`i` of every column.

    As rows have at most unit norm, no exponent exceeds :math:`1 / \tau`, and no maximum
    is needed. Both directions and the gradient use the same matrix of exponentials.
    First derivatives only. Temperatures below 0.025 use :func:`torch.logsumexp`.

    Args:
        a: Rows ``[B, D]`` of norm 1 or less.
        b: Rows ``[K, D]`` of norm 1 or less.
        temperature: :math:`\tau`.
        mask: Boolean ``[B, K]``, true for the pairs to use; at least one per row,
            and per column with ``columns``. (default: all)
        columns: Whether to also return the sums of columns. (default: ``False``)
    """
    if 2 / temperature <= _MAX_EXPONENT:
        row, column = _logsumexp(a, b, temperature, mask, columns)
        return row, column
    logits = a @ b.t() / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.logsumexp(dim=1), logits.logsumexp(dim=0) if columns else None
