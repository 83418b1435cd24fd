"""Neighbor graphs on disk, found again by the features they are made of."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptmm_pyg._utils import replacing
from promptmm_pyg.nn.knn import Normalize, knn_graph

_VERSION = 1  # Of what the same arguments give.


def cached_knn_graph(
    folder: str | Path,
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    normalize: Normalize = 'sym',
    weighted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns what :func:`knn_graph` does, from a file of ``folder`` if it was computed
    before from the same features.

    The file's name is a SHA-256 of every byte of the features and of all arguments:
    other features have another file, and nothing is ever stale. A file that is damaged
    is computed anew. The graph has the device of ``x``.

    Args:
        folder: Where graphs are kept; made if it is not there.
        x: Features ``[N, F]``.
        k: Neighbors of a row.
        mask: Boolean ``[N]``, ``True`` where the row is present. (default: everywhere)
        normalize: See :func:`normalize_edges`. (default: ``'sym'``)
        weighted: See :func:`knn_graph`. (default: ``False``)

    Raises:
        ValueError: As :func:`knn_graph` does; then nothing is written.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> folder = getfixture('tmp_path')
        >>> once, again = (cached_knn_graph(folder, x, k=1)[0] for _ in range(2))
        >>> torch.equal(once, again), len(list(folder.iterdir()))
        (True, 1)
    """
    path = Path(folder) / f'{_digest(x, mask, [k, normalize, weighted])}.safetensors'
    kept = _read(path)
    if kept is None:
        kept = knn_graph(x, k, mask=mask, normalize=normalize, weighted=weighted)
        edge_index, edge_weight = (part.cpu().contiguous() for part in kept)
        with replacing(path) as temporary:
            save_file({'index': edge_index, 'weight': edge_weight}, temporary)
    return kept[0].to(x.device), kept[1].to(x.device)


def _digest(x: Tensor, mask: Tensor | None, numbers: list[object]) -> str:
    names = [_VERSION, list(x.shape), str(x.dtype), mask is not None, *numbers]
    digest = hashlib.sha256(json.dumps(names).encode())
    for part in (x, mask):
        if part is not None:
            # As bytes: NumPy has no bfloat16.
            flat = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(flat.numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[Tensor, Tensor] | None:
    if not path.is_file():
        return None
    try:
        state = load_file(path)
        return state['index'], state['weight']
    except (SafetensorError, KeyError):
        return None
