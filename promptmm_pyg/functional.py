"""Scores, unit rows and softmax sums of embeddings; imports :mod:`torch` only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows ``[*, D]`` of a table ``[N, D]`` at ``index`` ``[*]``.

    Unlike ``x[index]`` it refuses a negative index, and its gradient is a plain
    addition of rows: several times as fast as that of indexing or of an embedding
    where rows repeat. Within :func:`sparse_gradients` the gradient is sparse.

    Raises:
        IndexError: If an index is negative or beyond the table.
    """
    if getattr(x, 'sparse_grad', False):
        return F.embedding(index, x, sparse=True)
    return x.index_select(0, index.reshape(-1)).view(*index.size(), x.size(-1))


@contextmanager
def sparse_gradients(tables: Iterable[Tensor]) -> Iterator[None]:
    """Within the block, :func:`rows` of these tables have sparse gradients of the rows
    that were looked up, as :class:`torch.nn.Embedding` has with ``sparse=True``; no
    matrix of the size of a table is allocated.

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
        ValueError: If the widths or the index shapes do not fit each other.

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
    tables.

    Args:
        user_x: User vectors ``[num_users, D]``.
        item_x: Item vectors ``[num_items, D]``.
        user_index: Rows of ``user_x``, ``[B]``.
        item_index: Rows of ``item_x``, ``[B, K]``.

    Returns:
        Scores ``[B, K]``.

    Raises:
        ValueError: If the widths or the index shapes do not fit each other.
    """
    check_width(user_x, item_x)
    if item_index.dim() != 2 or user_index.size() != item_index.size()[:1]:
        raise ValueError(
            "'item_index' must have the shape [B, K] where 'user_index' has [B] "
            f'(got {list(item_index.size())} and {list(user_index.size())})'
        )
    users, items = rows(user_x, user_index).unsqueeze(1), rows(item_x, item_index)
    if torch.is_grad_enabled() and (users.requires_grad or items.requires_grad):
        return (users * items).sum(-1)  # Its gradient is the faster one.
    return torch.matmul(users, items.mT).squeeze(1)


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


def l2_normalize(x: Tensor) -> Tensor:
    r"""Returns every row of ``x`` divided by its length.

    Equal to :func:`torch.nn.functional.normalize` on the last axis, several times as
    fast with its gradient. A row of zeros stays zero, and its gradient is unchanged
    (torch's is multiplied by :math:`10^{12}`). First derivatives only.

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
    r"""Returns ``base + weight * l2_normalize(x).sum(1)``: the unit rows are never in
    memory. First derivatives only.

    Args:
        base: Rows ``[N, D]``.
        x: One or several rows for each of them, ``[N, M, D]``.
        weight: Of the unit rows. (default: ``1.0``)

    Example:
        >>> x = torch.tensor([[[3.0, 4.0], [0.0, 5.0]]])
        >>> add_l2_normalized(torch.ones(1, 2), x)
        tensor([[1.6000, 2.8000]])
    """
    out: Tensor = _add(base, x, weight)
    return out


# The exponents range from zero down to minus twice the inverse temperature; the
# exponential of anything below this is zero in float32.
_LOWEST = 80.0


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
        # The factors of every row and column of `e` are applied to the thin matrices
        # instead.
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


_logsumexp: Any = _LogSumExp.apply


def cosine_logsumexp(
    a: Tensor,
    b: Tensor,
    temperature: float,
    mask: Tensor | None = None,
    columns: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""Returns :math:`\log \sum_j \exp(\mathbf{a}_i^{\top} \mathbf{b}_j / \tau)` of
    every row :math:`i` and, on demand, the same sum over :math:`i` of every column.

    As rows have at most unit length, no exponent exceeds :math:`1 / \tau`, so the
    maximum is not searched for. One matrix of exponentials serves both directions and
    the gradient, which is a product with it. First derivatives only. Temperatures
    below 0.025 use :func:`torch.logsumexp`.

    Args:
        a: Rows ``[B, D]``, none longer than 1.
        b: Rows ``[K, D]``, none longer than 1.
        temperature: :math:`\tau`.
        mask: Boolean ``[B, K]``, true for the pairs to use; at least one per row,
            and per column with ``columns``. (default: all)
        columns: Whether to sum columns, too. (default: ``False``)
    """
    if 2 / temperature <= _LOWEST:
        row, column = _logsumexp(a, b, temperature, mask, columns)
        return row, column
    logits = a @ b.t() / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.logsumexp(dim=1), logits.logsumexp(dim=0) if columns else None
