"""Rows of numbers from text by a sentence transformer."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from promptmm_pyg.content.encoder import BROKEN, Rows, model_print, not_loaded


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
