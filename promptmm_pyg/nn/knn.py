"""Graphs that join every node to those with the most similar features."""

from typing import Literal

import torch
from torch import Tensor

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
) -> tuple[Tensor, Tensor]:
    r"""Returns edges from the ``k`` rows of largest cosine to every row, and their
    normalized weights, the item graph of the `"Mining Latent Structures for Multimedia
    Recommendation" <https://arxiv.org/abs/2104.09036>`_ paper (there with
    ``weighted=True``) and of those that follow it.

    A row is not its own neighbor. Among equal cosines the smaller index comes first.
    A row that ``mask`` calls absent, or one of zeros (it has no direction), gives and
    gets no edge; with fewer than ``k`` others, all of them are neighbors. Similarities
    are computed in blocks: memory grows with ``block_size`` times the number of rows.
    No gradient flows.

    Args:
        x: Features ``[N, F]``.
        k: Neighbors of a row.
        mask: Boolean ``[N]``, ``True`` where the row is present. (default: everywhere)
        block_size: Rows compared with all others at a time. (default: ``1024``)
        normalize: See :func:`normalize_edges`. (default: ``'sym'``)
        weighted: Whether edges weigh their cosine, with negative ones as zero, before
            they are normalized; otherwise all weigh one. (default: ``False``)

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
    k = max(min(k, rows.numel() - 1), 0)
    sources, cosines = [rows[:0]], [unit.new_empty(0)]
    for start in range(0, rows.numel() if k else 0, block_size):
        cosine = unit[start : start + block_size] @ unit.t()
        cosine.diagonal(start).fill_(-torch.inf)
        near = top_items(cosine, k).item_index.sort(dim=1).values
        sources.append(rows[near].view(-1))
        cosines.append(cosine.gather(1, near).view(-1))
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
    r"""Returns the weights divided by those that nodes receive, differentiable.

    .. math::
        \text{sym: } \frac{w_{ij}}{\sqrt{d_i d_j}}, \qquad \text{row: }
        \frac{w_{ij}}{d_i}, \qquad d_i = \sum_{j} w_{ij}

    where :math:`w_{ij}` is the weight of the edge from :math:`j` to :math:`i`. An edge
    of a node that receives nothing weighs zero.

    Args:
        edge_index: Source and destination of each edge, ``[2, E]``.
        edge_weight: Weights that are not negative, ``[E]``.
        num_nodes: The number of nodes.
        normalize: ``'sym'`` or ``'row'``. (default: ``'sym'``)

    Raises:
        ValueError: If ``normalize`` is unknown.
    """
    check_choice('normalize', normalize, ('sym', 'row'))
    source, target = edge_index
    received = edge_weight.new_zeros(num_nodes).index_add(0, target, edge_weight)
    positive = received > 0
    # Zeros are replaced before the root: its slope there is infinite.
    safe = torch.where(positive, received, 1.0)
    if normalize == 'row':
        scale = torch.where(positive, safe.reciprocal(), 0.0)
        return edge_weight * scale[target]
    scale = torch.where(positive, safe.rsqrt(), 0.0)
    return edge_weight * scale[target] * scale[source]


def _directions(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows that have a direction, and their directions."""
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
