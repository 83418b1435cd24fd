"""What tells one trained model from another."""

import hashlib
from typing import Any

import torch

_BYTE = torch.uint8


def model_print(model: Any) -> str:
    """A hash of a module's structure, settings and weights: a name or a folder says
    nothing about what was last saved under it.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f'\n{name} {tensor.dtype} {list(tensor.shape)}\n'.encode())
        # As bytes, since numpy knows no bfloat16.
        digest.update(tensor.reshape(-1).view(_BYTE).numpy().tobytes())
    return digest.hexdigest()[:32]
