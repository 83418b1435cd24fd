"""What turns contents into rows of numbers."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

Rows = np.ndarray[Any, Any]
Takes = Literal['text', 'files']


class ContentEncoder(Protocol):
    """What :func:`~promptmm_pyg.content.encode_content` asks of an encoder.

    A row of NaN, or of zeros only, says that there is nothing in a content that
    the encoder can read.
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
