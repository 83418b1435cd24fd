"""How per-example losses become one number."""

from typing import Literal

from torch import Tensor

from promptmm_pyg._utils import check_choice

Reduction = Literal['none', 'mean', 'sum']


def check_reduction(reduction: str) -> None:
    """Raises unless ``reduction`` is one of the three."""
    check_choice('reduction', reduction, ('none', 'mean', 'sum'))


def reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    """Returns ``loss`` itself, its mean or its sum."""
    check_reduction(reduction)
    if reduction == 'none':
        return loss
    return loss.mean() if reduction == 'mean' else loss.sum()
