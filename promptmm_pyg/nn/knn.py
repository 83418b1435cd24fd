"""Graphs of nearest neighbors by features."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from promptmm_pyg._files import write_safetensors
from promptmm_pyg._reading import read_tensors
from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.ranking import top_items

Normalize = Literal['sym', 'row']


def knn_graph(
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    block_size: int = 1024,
    normalize: Normalize = 'sym',
    weighted: bool = False,
    self_loops: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Returns edges from the ``k`` rows of largest cosine to every row, and their
    normalized weights, the item graph of the `"Mining Latent Structures for Multimedia
    Recommendation" <https://arxiv.org/abs/2104.09036>`_ paper (with ``weighted=True``).

    Among equal cosines the smaller index is first. Rows that are absent by ``mask`` or
    zero have no edges; with fewer than ``k`` others, all of them are neighbors.
    Similarities are computed in blocks: memory grows with ``block_size`` times the
    number of rows. There is no gradient.

    Args:
        x: Features ``[N, F]``.
        k: Neighbors of a row.
        mask: Boolean ``[N]``, ``True`` where the row is present. (default: everywhere)
        block_size: Rows that are compared with all others at a time.
            (default: ``1024``)
        normalize: See :func:`normalize_edges`. (default: ``'sym'``)
        weighted: Whether weights before normalization are cosines, zero where these are
            negative, or else ones. (default: ``False``)
        self_loops: Whether every row is the first of its own ``k`` neighbors, as in the
            released code of most models with item graphs. (default: ``False``)

    Returns:
        ``edge_index [2, E]``, source and destination in PyG's order, by destination;
        ``edge_weight [E]``.

    Raises:
        ValueError: If shapes, sizes or options do not fit, or a feature of a present
            row is not finite.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> knn_graph(x, k=1)[0]
        tensor([[1, 0, 1],
                [0, 1, 2]])
    """
    check_positive('k', k)
    check_positive('block_size', block_size)
    check_choice('normalize', normalize, ('sym', 'row'))
    rows, unit = _directions(x.detach(), mask)
    k = max(min(k, rows.numel() - (not self_loops)), 0)
    sources, cosines = [rows[:0]], [unit.new_empty(0)]
    for start in range(0, rows.numel() if k else 0, block_size):
        cosine = unit[start : start + block_size] @ unit.t()
        own = cosine.diagonal(start)
        own.fill_(2.0 if self_loops else -torch.inf)
        neighbors = top_items(cosine, k).item_index.sort(dim=1).values
        own.fill_(1.0)
        sources.append(rows[neighbors].view(-1))
        cosines.append(cosine.gather(1, neighbors).view(-1))
    targets = rows.repeat_interleave(k)
    edge_index = torch.stack([torch.cat(sources), targets])
    cosine = torch.cat(cosines)
    weight = cosine.clamp_min(0.0) if weighted else torch.ones_like(cosine)
    return edge_index, normalize_edges(edge_index, weight, x.size(0), normalize)


def normalize_edges(
    edge_index: Tensor,
    edge_weight: Tensor,
    num_nodes: int,
    normalize: Normalize = 'sym',
) -> Tensor:
    r"""Returns weights normalized by the degrees of nodes, differentiable.

    .. math::
        \text{sym: } \frac{w_{ij}}{\sqrt{d_i d_j}}, \qquad \text{row: }
        \frac{w_{ij}}{d_i}, \qquad d_i = \sum_{j} w_{ij}

    where :math:`w_{ij}` is the weight of the edge from :math:`j` to :math:`i`. Edges of
    nodes with degree zero get weight zero.

    Args:
        edge_index: Source and destination of each edge, ``[2, E]``.
        edge_weight: Weights of zero or more, ``[E]``.
        num_nodes: The number of nodes.
        normalize: ``'sym'`` or ``'row'``. (default: ``'sym'``)

    Raises:
        ValueError: If ``normalize`` is unknown.
    """
    check_choice('normalize', normalize, ('sym', 'row'))
    source, target = edge_index
    degree = edge_weight.new_zeros(num_nodes).index_add(0, target, edge_weight)
    positive = degree > 0
    # Zeros are replaced before the root, whose gradient is infinite there.
    safe = torch.where(positive, degree, 1.0)
    if normalize == 'row':
        scale = torch.where(positive, safe.reciprocal(), 0.0)
        return edge_weight * scale[target]
    scale = torch.where(positive, safe.rsqrt(), 0.0)
    return edge_weight * scale[target] * scale[source]


def _directions(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The indices of the present, nonzero rows, and these rows at unit length."""
    if x.dim() != 2:
        raise ValueError(f"'x' must have shape [N, F] (got {list(x.shape)})")
    if mask is None:
        mask = x.new_ones(x.size(0), dtype=torch.bool)
    if mask.dtype != torch.bool or mask.shape != x.shape[:1]:
        raise ValueError(
            f"'mask' must be a bool tensor [{x.size(0)}], True where the row is "
            f'present (got {mask.dtype} {list(mask.shape)})'
        )
    present = mask & (x != 0).any(dim=1)
    rows: Tensor = present.nonzero().squeeze(1)
    x = x[rows].to(torch.promote_types(x.dtype, torch.float))
    if not bool(x.isfinite().all()):
        raise ValueError(
            f"'x' must be finite where it is present (got "
            f'{int((~x.isfinite()).sum())} values that are not)'
        )
    return rows, l2_normalize(x)


_VERSION = 1  # To be raised when the same arguments return another graph.


def cached_knn_graph(
    folder: str | Path,
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    normalize: Normalize = 'sym',
    weighted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Like :func:`knn_graph`, cached in a file of ``folder``.

    The name of the file is the SHA-256 of the features and all arguments, so a graph is
    never stale. A damaged file is computed again. The graph is on the device of ``x``.

    Args:
        folder: The folder of the cache, created if it does not exist.
        x: Features ``[N, F]``.
        k: Neighbors of a row.
        mask: Boolean ``[N]``, ``True`` where the row is present. (default: everywhere)
        normalize: See :func:`normalize_edges`. (default: ``'sym'``)
        weighted: See :func:`knn_graph`. (default: ``False``)

    Raises:
        ValueError: As in :func:`knn_graph`; then nothing is written.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> folder = getfixture('tmp_path')
        >>> first, second = (cached_knn_graph(folder, x, k=1)[0] for _ in range(2))
        >>> torch.equal(first, second), len(list(folder.iterdir()))
        (True, 1)
    """
    path = Path(folder) / f'{_digest(x, mask, [k, normalize, weighted])}.safetensors'
    graph = _read(path)
    if graph is None:
        graph = knn_graph(x, k, mask=mask, normalize=normalize, weighted=weighted)
        edge_index, edge_weight = (part.cpu().contiguous() for part in graph)
        write_safetensors(path, {'index': edge_index, 'weight': edge_weight})
    return graph[0].to(x.device), graph[1].to(x.device)


def _digest(x: Tensor, mask: Tensor | None, options: list[object]) -> str:
    header = [_VERSION, list(x.shape), str(x.dtype), mask is not None, *options]
    digest = hashlib.sha256(json.dumps(header).encode())
    for part in (x, mask):
        if part is not None:
            # As bytes: NumPy has no bfloat16.
            flat = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(flat.numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[Tensor, Tensor] | None:
    try:
        return read_tensors(
            path, None, 'a graph', lambda _, x: (x['index'], x['weight'])
        )
    except (FileNotFoundError, ValueError):
        return None
