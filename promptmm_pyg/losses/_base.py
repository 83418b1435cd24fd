"""The base class of losses, reduction, masks, precision and checks."""

import inspect
from typing import Literal

import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice, check_positive, check_same_shape

Reduction = Literal['none', 'mean', 'sum']


class Loss(torch.nn.Module):
    """Base class of the loss modules.

    Every argument of a subclass's constructor is an attribute of the same name; the
    printed module shows all of them.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. (default: ``'mean'``)
    """

    min_rows = 1
    """The number of rows that a loss on rows requires."""

    def __init__(self, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        names = inspect.signature(type(self)).parameters
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)


class TemperatureLoss(Loss):
    """A loss with a temperature, which divides scores."""

    def __init__(self, temperature: float = 1.0, reduction: Reduction = 'mean') -> None:
        super().__init__(reduction)
        check_positive('temperature', temperature)
        self.temperature = temperature


def check_reduction(reduction: str) -> None:
    """Raises unless ``reduction`` is known."""
    check_choice('reduction', reduction, ('none', 'mean', 'sum'))


def reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    """Returns ``loss`` itself, its mean or its sum."""
    check_reduction(reduction)
    if reduction == 'none':
        return loss
    return loss.mean() if reduction == 'mean' else loss.sum()


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; all others unchanged.

    Scores divided by a small temperature exceed the largest half, 65504, and
    differences of logarithms need more digits.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class NotFiniteError(ValueError, FloatingPointError):
    """NaN or infinite inputs, passed by a user or computed in training."""


def check_finite(name: str, x: Tensor, mask: Tensor | None = None) -> None:
    """Raises unless every value of ``x`` is finite where ``mask`` is true."""
    x = x.detach()
    if mask is not None:
        x = x.masked_fill(~mask, 0)
    if x.numel() == 0:
        return
    # Both propagate NaN, in one pass over memory instead of four.
    low, high = torch.aminmax(x)
    if not bool(low.isfinite() & high.isfinite()):
        raise NotFiniteError(
            f"'{name}' must be finite (got {int(x.isnan().sum())} NaN and "
            f'{int(x.isinf().sum())} infinite of {x.numel()} values). Often the '
            f'learning rate is too high'
        )


def check_lists(name: str, x: Tensor) -> None:
    """Raises unless ``x`` is ``[B, K]`` with at least one candidate per list."""
    if x.dim() != 2 or x.size(1) == 0:
        raise ValueError(
            f"'{name}' must be lists [B, K] of at least one candidate "
            f'(got shape {list(x.size())})'
        )


def check_selection(logits_name: str, logits: Tensor, name: str, mask: Tensor) -> None:
    """Raises unless ``mask`` is boolean and of the shape of ``logits``."""
    check_same_shape(logits_name, logits, name, mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"'{name}' must be boolean (got {mask.dtype})")


def check_mask(logits_name: str, logits: Tensor, name: str, mask: Tensor) -> None:
    """Raises unless ``mask`` is boolean, of the shape of ``logits``, and has a
    candidate in every row.
    """
    check_selection(logits_name, logits, name, mask)
    empty = ~mask.any(dim=-1)
    if bool(empty.any()):
        raise ValueError(
            f"'{name}' must have at least one candidate per row (got "
            f'{int(empty.sum())} rows without). Leave these lists out'
        )


def as_list_pair(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    fill: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Checks two lists ``[B, K]`` of the same candidates and returns both in float32
    or above, with ``fill`` where ``mask`` is false.
    """
    check_lists('student_logits', student_logits)
    check_same_shape('student_logits', student_logits, 'teacher_logits', teacher_logits)
    if mask is not None:
        check_mask('student_logits', student_logits, 'mask', mask)
    check_finite('student_logits', student_logits, mask)
    check_finite('teacher_logits', teacher_logits, mask)
    student, teacher = (
        at_least_float32(student_logits),
        at_least_float32(teacher_logits),
    )
    if mask is not None and fill is not None:
        student = student.masked_fill(~mask, fill)
        teacher = teacher.masked_fill(~mask, fill)
    return student, teacher


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each row of ``x`` where ``mask`` is true."""
    if mask is None:
        return x.mean(dim=-1)
    return x.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)


def as_row_pair(
    student_x: Tensor, teacher_x: Tensor, at_least: int = 1
) -> tuple[Tensor, Tensor]:
    """Checks two matrices with the same number of rows, at least ``at_least``, and
    returns both in one dtype, float32 or above; their widths may differ.
    """
    for name, x in (('student_x', student_x), ('teacher_x', teacher_x)):
        if x.dim() != 2:
            raise ValueError(f"'{name}' must have shape [N, D] (got {list(x.size())})")
    if student_x.size(0) != teacher_x.size(0):
        raise ValueError(
            f"'student_x' and 'teacher_x' must have the same number of rows (got "
            f'{student_x.size(0)} and {teacher_x.size(0)})'
        )
    if student_x.size(0) < at_least:
        raise ValueError(
            f"'student_x' and 'teacher_x' must have at least {at_least} rows (got "
            f'{student_x.size(0)})'
        )
    check_finite('student_x', student_x)
    check_finite('teacher_x', teacher_x)
    student_x, teacher_x = at_least_float32(student_x), at_least_float32(teacher_x)
    dtype = torch.promote_types(student_x.dtype, teacher_x.dtype)
    return student_x.to(dtype), teacher_x.to(dtype)
