"""Encoders of contents: their interface, and sentence-transformers."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

from promptmm_pyg._utils import how_to_install

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
    how = how_to_install('content')
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


class SentenceTransformerEncoder:
    """Rows from a model of the package sentence-transformers, 768 wide for the
    SBERT models that the field's data sets were made with.

    `"Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks"
    <https://arxiv.org/abs/1908.10084>`_. The model is in evaluation mode, and its
    own limit on the length of a text cuts what is longer. Text without a letter
    is encoded like any other. The fingerprint is a hash of the weights.

    Args:
        model: A name on the hub, a folder, or a loaded
            ``sentence_transformers.SentenceTransformer``.
        prompt: Text to put before each text, as some models require.
            (default: none)
        normalize: Whether to bring rows to length one. (default: ``False``)
        device: Where a model that is not loaded yet runs. (default: the package's
            choice)

    Raises:
        ImportError: If sentence-transformers is needed and not installed.
    """

    takes: Literal['text'] = 'text'

    def __init__(
        self,
        model: Any,
        *,
        prompt: str | None = None,
        normalize: bool = False,
        device: str | None = None,
    ) -> None:
        self.model = _load(model, device) if isinstance(model, str) else model
        self.model.eval()
        self.prompt = prompt
        self.normalize = normalize
        self.width = _width(self.model)
        self.fingerprint = (
            f'sentences-v1 {model_print(self.model)} prompt={prompt!r} '
            f'length={getattr(self.model, "max_seq_length", None)} '
            f'normalize={normalize}'
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(width={self.width})'

    def encode(self, batch: Sequence[str]) -> Rows:
        """Rows ``[len(batch), width]``, float32."""
        rows = self.model.encode(
            list(batch),
            batch_size=max(len(batch), 1),
            prompt=self.prompt,
            normalize_embeddings=self.normalize,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(rows).astype(np.float32)


def _load(name: str, device: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except BROKEN as error:
        what, package = 'SentenceTransformerEncoder', 'sentence_transformers'
        raise not_loaded(what, package, error) from error
    return SentenceTransformer(name, device=device)


def _width(model: Any) -> int:
    # Renamed in version 5 of the package; the older name warns there.
    ask = getattr(model, 'get_embedding_dimension', None)
    return int(ask() if ask else model.get_sentence_embedding_dimension())
