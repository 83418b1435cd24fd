"""What an encoder is, and what the encoders share."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

Rows = np.ndarray[Any, Any]
Takes = Literal['text', 'files']


class ContentEncoder(Protocol):
    """What :func:`~promptmm_pyg.content.encode_content` requires of an encoder.

    A row of NaN, or of zeros only, marks a content that the encoder cannot read.
    """

    @property
    def takes(self) -> Takes:
        """``'text'`` for strings, ``'files'`` for paths."""

    @property
    def width(self) -> int:
        """Numbers in a row."""

    @property
    def fingerprint(self) -> str:
        """Text that differs wherever the rows of one content would: it names the
        model, its weights and its settings, and is half of the cache's key.
        """

    def encode(self, batch: Sequence[Any]) -> Rows:
        """Rows ``[len(batch), width]`` of strings, or of the files at paths."""


BROKEN = (ImportError, OSError, RuntimeError, AttributeError)


def not_loaded(what: str, package: str, error: Exception) -> ImportError:
    """The error to raise where ``what`` needs a package that is missing or broken."""
    how = "'pip install promptmm_pyg[content]'"
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        name = package.replace('_', '-')
        return ImportError(f"'{what}' requires '{name}'. Install it with {how}")
    return ImportError(
        f"'{what}' requires a '{package}' that loads (got: {error}). Install one that "
        f'fits this torch, both from one index: {how}'
    )


_BYTE = torch.uint8


def model_print(model: Any) -> str:
    """A hash of a module's structure, settings and weights: what is saved under a
    name or in a folder may change.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f'\n{name} {tensor.dtype} {list(tensor.shape)}\n'.encode())
        # As bytes, since numpy knows no bfloat16.
        digest.update(tensor.reshape(-1).view(_BYTE).numpy().tobytes())
    return digest.hexdigest()[:32]
