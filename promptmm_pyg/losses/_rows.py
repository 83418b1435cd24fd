"""What the losses on relations between rows share."""

import torch
from torch import Tensor

from promptmm_pyg.losses._checks_scores import check_finite
from promptmm_pyg.losses._precision import at_least_float32


def as_row_pair(
    student_x: Tensor, teacher_x: Tensor, at_least: int = 1
) -> tuple[Tensor, Tensor]:
    """Both inputs in one dtype, float32 or above; their widths may differ.

    Raises:
        ValueError: If an input is no matrix, the numbers of rows differ, there are
            fewer than ``at_least`` rows or a value is not finite.
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


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.mT`` in the precision of its inputs.

    Under autocast a product is computed in half precision, where squared lengths
    overflow and cosines keep three digits.
    """
    with torch.autocast(device_type=a.device.type, enabled=False):
        return a @ b.mT
