"""Items in clusters, searched by inner product; the one place that calls faiss."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg.ranking._item_blocks import score_dtype


class Clusters:
    """Item vectors on a sphere, clustered by distance.

    Args:
        item_x: Item vectors ``[num_items, D]``.
        num_lists: The number of clusters.
        num_probes: How many of them a user is compared with.
        seed: Of the clustering.
    """

    def __init__(
        self, item_x: Tensor, num_lists: int, num_probes: int, seed: int
    ) -> None:
        self._faiss = import_faiss()
        self._num_probes = min(num_probes, num_lists)
        vectors = _lift(item_x).numpy()
        width = vectors.shape[1]
        # Distances choose the clusters; in them, inner products suffer less from
        # rounding, and order the items alike.
        self._index = self._faiss.IndexIVFFlat(
            self._faiss.IndexFlatL2(width),
            width,
            num_lists,
            self._faiss.METRIC_INNER_PRODUCT,
        )
        self._index.cp.spherical = False
        self._index.cp.seed = seed
        self._index.cp.min_points_per_centroid = 1  # Short of points, it would print.
        self._index.train(vectors)
        self._index.add(vectors)

    def parameters(self, candidates: Tensor | None) -> Any:
        """What a search is told of the items that may be found."""
        options = {'nprobe': self._num_probes}
        if candidates is not None:
            chosen = candidates.nonzero().view(-1).cpu().numpy()
            options['sel'] = self._faiss.IDSelectorBatch(chosen)
        return self._faiss.SearchParametersIVF(**options)

    def look_up(self, rows: Tensor, width: int, params: Any) -> Tensor:
        """Up to ``width`` items for each user vector of ``rows`` ``[B, D]``, ascending,
        after as many -1 as miss, ``[B, width]``.
        """
        query = F.pad(F.normalize(rows, dim=1), (0, 1)).float().cpu().numpy()
        _, index = self._index.search(query, width, params=params)
        return torch.from_numpy(index).to(rows.device).sort(dim=1).values


def import_faiss() -> Any:
    """The module, or an error that names the extra."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "'ApproximateItems' requires 'faiss'. "
            "Install it with 'pip install promptmm_pyg[ann]'"
        ) from error
    return faiss


def _lift(x: Tensor) -> Tensor:
    """Vectors on the unit sphere of one more dimension, ``[num_items, D + 1]``."""
    x = x.cpu().to(score_dtype(x, x))
    if not x.isfinite().all():
        raise ValueError("'item_x' must be finite (got NaN or infinity)")
    longest = x.norm(dim=1).max()
    x = x / longest.where(longest > 0, 1.0)
    rest = (1 - x.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([x, rest], dim=1).float()
