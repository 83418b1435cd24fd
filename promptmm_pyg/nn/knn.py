"""Graphs of nearest neighbors by features."""

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from promptmm_pyg._files import write_safetensors
from promptmm_pyg._reading import read_tensors
from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.ranking import top_items
from promptmm_pyg.ranking.approximate import import_faiss

Normalize = Literal['sym', 'row']
Method = Literal['auto', 'exact', 'approximate']

_CHEAP = 4 * 10**12
"""Multiplications of an exact graph: about two minutes of a core."""
_SAMPLE = 512
"""Rows whose exact neighbors are compared with those of a graph."""
_RECALL, _LEAST_RECALL = 0.98, 0.95


def knn_graph(
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    block_size: int = 1024,
    normalize: Normalize = 'sym',
    weighted: bool = False,
    self_loops: bool = False,
    method: Method = 'auto',
) -> tuple[Tensor, Tensor]:
    r"""Returns edges from the ``k`` rows of largest cosine to every row, and their
    normalized weights, the item graph of the `"Mining Latent Structures for Multimedia
    Recommendation" <https://arxiv.org/abs/2104.09036>`_ paper (with ``weighted=True``).

    Among equal cosines the smaller index is first. Rows that are absent by ``mask`` or
    zero have no edges; with fewer than ``k`` others, all of them are neighbors.
    Similarities are computed in blocks: memory grows with ``block_size`` times the
    number of rows. There is no gradient.

    The cost of the exact graph is :math:`N^2 F`. The approximate one compares rows
    only within the nearest of :math:`\sqrt{N}` clusters. So many clusters are compared
    that a sample of rows has 98 % of its exact neighbors, but at most an eighth of
    them. :func:`knn_recall` measures the recall of any graph.

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
        method: ``'exact'``, ``'approximate'`` (requires faiss, the extra ``ann``), or
            ``'auto'``: approximate where :math:`N^2 F` exceeds 4e12, the features are
            on the CPU and faiss is installed. (default: ``'auto'``)

    Returns:
        ``edge_index [2, E]``, source and destination in PyG's order, by destination;
        ``edge_weight [E]``.

    Warns:
        UserWarning: If an approximate graph has less than 95 % of the exact edges.

    Raises:
        ImportError: If faiss is not installed and ``method='approximate'``.
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
    check_choice('method', method, ('auto', 'exact', 'approximate'))
    rows, unit = _directions(x.detach(), mask)
    k = max(min(k, rows.numel() - (not self_loops)), 0)
    neighbors, cosine = rows[:0].view(-1, 1), unit.new_empty(0, 1)
    if k > 0 and _is_approximate(method, x):
        neighbors, cosine = _clustered(unit, k, self_loops, block_size)
    elif k > 0:
        places = torch.arange(rows.numel(), device=x.device)
        neighbors, cosine = _nearest(unit, places, None, k, self_loops, block_size)
    neighbors, cosine = neighbors.view(-1), cosine.view(-1)
    edge_index = torch.stack([rows[neighbors], rows.repeat_interleave(k)])
    weight = cosine.clamp_min(0.0) if weighted else torch.ones_like(cosine)
    return edge_index, normalize_edges(edge_index, weight, x.size(0), normalize)


def knn_recall(
    x: Tensor,
    edge_index: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    self_loops: bool = False,
    num_rows: int = 512,
    seed: int = 0,
) -> float:
    """The fraction of the edges of the exact :func:`knn_graph` that a graph has,
    measured on a sample of rows.

    Args:
        x: Features ``[N, F]``.
        edge_index: The edges of the graph, source and destination, ``[2, E]``.
        k: See :func:`knn_graph`.
        mask: See :func:`knn_graph`. (default: everywhere)
        self_loops: See :func:`knn_graph`. (default: ``False``)
        num_rows: The size of the sample. (default: ``512``)
        seed: Seed of the sample. (default: ``0``)

    Raises:
        ValueError: As in :func:`knn_graph`, or if ``num_rows`` is not positive.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> knn_recall(x, torch.tensor([[1, 0], [0, 1]]), k=1)
        0.6666666666666666
    """
    check_positive('k', k)
    check_positive('num_rows', num_rows)
    rows, unit = _directions(x.detach(), mask)
    k = min(k, rows.numel() - (not self_loops))
    if k < 1:
        return 1.0
    sample = _sample(rows.numel(), num_rows, seed).to(x.device)
    exact, _ = _nearest(unit, sample, None, k, self_loops, num_rows)
    keys = rows[exact] * x.size(0) + rows[sample].view(-1, 1)
    hits = torch.isin(keys, edge_index[0] * x.size(0) + edge_index[1])
    return float(hits.double().mean())


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


def _is_approximate(method: Method, x: Tensor) -> bool:
    if method != 'auto':
        return method == 'approximate'
    costly = x.size(0) ** 2 * x.size(1) > _CHEAP and x.device.type == 'cpu'
    return costly and find_spec('faiss') is not None


def _sample(num: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num, generator=generator)[:size].sort().values


def _nearest(
    unit: Tensor,
    queries: Tensor,
    candidates: Tensor | None,
    k: int,
    self_loops: bool,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest candidates of each query and their cosines, ``[B, k]`` each.

    Args:
        unit: Rows of unit length ``[N, F]``.
        queries: Rows ``[B]``, all of which are candidates.
        candidates: Rows in ascending order ``[C]``; ``None`` for all.
        k: The number of neighbors.
        self_loops: Whether a row is the first of its own neighbors.
        block_size: Queries per block.
    """
    x = unit if candidates is None else unit[candidates]
    parts = []
    for block in queries.split(block_size):
        cosine = unit[block] @ x.t()
        own = block if candidates is None else torch.searchsorted(candidates, block)
        own = own.view(-1, 1)
        cosine.scatter_(1, own, 2.0 if self_loops else -torch.inf)
        neighbors = top_items(cosine, k).item_index.sort(dim=1).values
        cosine.scatter_(1, own, 1.0)
        parts.append((neighbors, cosine.gather(1, neighbors)))
    neighbors, cosine = (torch.cat(part) for part in zip(*parts, strict=True))
    return neighbors if candidates is None else candidates[neighbors], cosine


def _clustered(
    unit: Tensor, k: int, self_loops: bool, block_size: int
) -> tuple[Tensor, Tensor]:
    """As :func:`_nearest` for all rows, in their nearest clusters only: the rows of a
    cluster share their candidates, so their cosines are products of dense blocks.
    """
    label, near = _clusters(unit)
    sizes = label.bincount(minlength=near.size(0)).tolist()
    members = label.argsort(stable=True).split(sizes)
    sample = _sample(unit.size(0), _SAMPLE).to(unit.device)
    exact, _ = _nearest(unit, sample, None, k, self_loops, block_size)
    # An edge is in the graph if the cluster of the neighbor is compared.
    is_compared = near[label[sample]].unsqueeze(2) == label[exact].unsqueeze(1)
    recall = is_compared.double().mean(dim=(0, 2)).cumsum(0)
    num_near = min(int((recall < _RECALL).sum()) + 1, near.size(1))
    _check_recall(float(recall[num_near - 1]))

    neighbors = label.new_empty(unit.size(0), k)
    cosine = unit.new_empty(unit.size(0), k)
    for nearest, queries in zip(near[:, :num_near].tolist(), members, strict=True):
        if queries.numel() == 0:
            continue
        rows = torch.cat([members[cluster] for cluster in nearest]).sort().values
        candidates = rows if rows.numel() > k else None
        neighbors[queries], cosine[queries] = _nearest(
            unit, queries, candidates, k, self_loops, block_size
        )
    return neighbors, cosine


def _clusters(unit: Tensor) -> tuple[Tensor, Tensor]:
    """The cluster of each row ``[N]``, and an eighth of the clusters for each, the
    nearest first, which is the cluster itself.
    """
    faiss = import_faiss("knn_graph(method='approximate')")
    num_clusters = math.ceil(math.sqrt(unit.size(0)))
    kmeans = faiss.Kmeans(
        unit.size(1),
        num_clusters,
        niter=8,
        spherical=True,
        seed=0,
        min_points_per_centroid=1,  # Fewer points print a warning.
        max_points_per_centroid=64,
    )
    kmeans.train(unit.cpu().float().numpy())
    centroids = torch.from_numpy(kmeans.centroids).to(unit)
    label = torch.cat([(x @ centroids.t()).argmax(1) for x in unit.split(2**14)])
    cosine = (centroids @ centroids.t()).fill_diagonal_(torch.inf)
    return label, cosine.topk(math.ceil(num_clusters / 8)).indices


def _check_recall(recall: float) -> None:
    if recall < _LEAST_RECALL:
        warnings.warn(
            f'the approximate graph should have at least {_LEAST_RECALL:.0%} of the '
            f'edges of the exact one (got {recall:.0%}): the features have few '
            "clusters, or are noise. Check them, or pass method='exact' to "
            "'knn_graph'",
            stacklevel=4,
        )


_VERSION = 1  # To be raised when the same arguments return another graph.


def cached_knn_graph(
    folder: str | Path,
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    normalize: Normalize = 'sym',
    weighted: bool = False,
    method: Method = 'auto',
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
        method: See :func:`knn_graph`. (default: ``'auto'``)

    Raises:
        ValueError: As in :func:`knn_graph`; then nothing is written.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> folder = getfixture('tmp_path')
        >>> first, second = (cached_knn_graph(folder, x, k=1)[0] for _ in range(2))
        >>> torch.equal(first, second), len(list(folder.iterdir()))
        (True, 1)
    """
    options = [k, normalize, weighted, _is_approximate(method, x)]
    path = Path(folder) / f'{_digest(x, mask, options)}.safetensors'
    graph = _read(path)
    if graph is None:
        graph = knn_graph(
            x, k, mask=mask, normalize=normalize, weighted=weighted, method=method
        )
        edge_index, edge_weight = (part.cpu().contiguous() for part in graph)
        write_safetensors(path, {'index': edge_index, 'weight': edge_weight})
    return graph[0].to(x.device), graph[1].to(x.device)


def _digest(x: Tensor, mask: Tensor | None, options: Sequence[object]) -> str:
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
