"""The precision that losses are computed in."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; all others as they are.

    The range of a half ends at 65504, which a score divided by a small temperature
    soon leaves; and differences of logarithms need more digits than a half has.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
