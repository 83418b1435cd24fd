"""Approximate top-K lists by a clustered index; requires faiss."""

from collections.abc import Iterator, Mapping
from math import ceil, sqrt
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive, missing_extra
from promptmm_pyg.ranking.lists import rank_items, score_dtype
from promptmm_pyg.ranking.seen_items import SeenItems, check_catalogue, check_index
from promptmm_pyg.ranking.top import Ranking, check_length, top_items

_LONG = 256
"""The longest lists of a full batch of users; batches of longer lists are smaller."""


class ApproximateItems:
    r"""A clustered index of item vectors for catalogues of a million items and more:
    it scores few items and returns most of the items of the exact lists.

    Only the items of the ``nprobe`` clusters nearest to a user are scored. So that the
    nearest clusters have the largest inner products even if the lengths of item
    vectors differ widely, vectors are first lifted to a sphere, as in `"Speeding Up
    the Xbox Recommender System Using a Euclidean Transformation for Inner-Product
    Spaces" <https://doi.org/10.1145/2645710.2645741>`_: with :math:`M` the length of
    the longest item,

    .. math::
        \mathbf{x}_i \mapsto \Big(\frac{\mathbf{x}_i}{M},\;
        \sqrt{1 - \frac{\lVert \mathbf{x}_i \rVert^2}{M^2}}\Big), \qquad
        \mathbf{x}_u \mapsto \Big(\frac{\mathbf{x}_u}{\lVert \mathbf{x}_u \rVert},\;
        0\Big)

    The results are scored again by exact inner products, and ordered as by
    :func:`rank_items`. Measure :meth:`recall_against_exact` on your own vectors and
    raise ``nprobe`` until it suffices; with ``nprobe=num_lists`` lists are exact.

    The index contains a copy of the vectors in single precision on the CPU. Build it
    anew when the vectors have changed.

    Args:
        item_x: Item vectors ``[num_items, D]``, finite.
        num_lists: The number of clusters. (default: :math:`4 \sqrt{num\_items}`)
        nprobe: The number of clusters to search per user. (default: 32)
        seed: Seed of the clustering. (default: 0)

    Raises:
        ImportError: If faiss is not installed (the extra ``ann``).
        ValueError: If the vectors are not finite, or there are more clusters than
            items.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 1.0], [-2.0, 5.0]])
        >>> index = ApproximateItems(x)
        >>> index.rank_items(x, torch.tensor([0, 2]), k=2).item_index
        tensor([[1, 0],
                [2, 1]])
    """

    def __init__(
        self,
        item_x: Tensor,
        *,
        num_lists: int | None = None,
        nprobe: int = 32,
        seed: int = 0,
    ) -> None:
        import_faiss()
        score_dtype(item_x, item_x)  # Checks the type.
        num_items = item_x.size(0)
        check_positive('num_items', num_items)
        if num_lists is None:
            num_lists = min(num_items, ceil(4 * sqrt(num_items)))
        check_positive('num_lists', num_lists)
        check_positive('nprobe', nprobe)
        if num_lists > num_items:
            raise ValueError(
                "'num_lists' must be at most the number of items of "
                f'{num_items} (got {num_lists})'
            )
        self.item_x = item_x.detach()
        self.num_lists = num_lists
        self.nprobe = nprobe
        self._clusters = Clusters.train(self.item_x, num_lists, nprobe, seed)

    @classmethod
    def from_state(
        cls, item_x: Tensor, state: Mapping[str, Tensor], nprobe: int = 32
    ) -> Self:
        """The index of :meth:`state`, without clustering.

        Args:
            item_x: The vectors of the index, ``[num_items, D]``.
            state: Its centroids and the cluster of each item.
            nprobe: The number of clusters to search per user. (default: 32)

        Raises:
            ImportError: If faiss is not installed (the extra ``ann``).
            ValueError: If the state does not fit the vectors.
        """
        check_positive('nprobe', nprobe)
        centroids, label = (state.get(name) for name in ('centroids', 'label'))
        fits = (
            centroids is not None
            and label is not None
            and (centroids.dtype, label.dtype) == (torch.float, torch.long)
            and centroids.dim() == 2
            and centroids.size(1) == item_x.size(1) + 1
            and label.shape == item_x.shape[:1]
            and 0 <= int(label.min()) <= int(label.max()) < centroids.size(0)
        )
        if not fits or centroids is None or label is None:
            raise ValueError(
                f"'state' must be that of an index of {item_x.size(0)} items of width "
                f'{item_x.size(1)} (got another). Build the index anew'
            )
        index = cls.__new__(cls)
        index.item_x, index.nprobe = item_x.detach(), nprobe
        index.num_lists = centroids.size(0)
        index._clusters = Clusters(item_x.detach(), centroids, label, nprobe)
        return index

    def state(self) -> dict[str, Tensor]:
        """The centroids ``[num_lists, D + 1]`` and the cluster of each item
        ``[num_items]``, for :meth:`from_state`.
        """
        return {'centroids': self._clusters.centroids, 'label': self._clusters.label}

    @property
    def num_items(self) -> int:
        """The size of the catalogue."""
        return self.item_x.size(0)

    def rank_items(
        self,
        user_x: Tensor,
        users: Tensor,
        k: int,
        *,
        seen: SeenItems | None = None,
        batch_size: int = 1024,
        candidates: Tensor | None = None,
    ) -> Ranking:
        """Most of the best ``k`` items of every user, ordered and scored as by
        :func:`~promptmm_pyg.ranking.rank_items`, whose arguments these are.

        Users with many seen items get longer searches. If the clusters of a user
        contain fewer than ``k`` admissible items, the user is ranked exactly, so no
        list is shorter than the exact one.

        Args:
            user_x: User vectors ``[num_users, D]``.
            users: The users to rank for, ``[N]``, repeats allowed.
            k: The length of the lists.
            seen: Items to leave out, user by user. (default: none)
            batch_size: The largest number of users per search. (default: 1024)
            candidates: Boolean ``[num_items]``; where false, nobody gets the item.
                (default: every item)

        Raises:
            ValueError: If ``k`` exceeds the catalogue, a score is NaN, or sizes or
                indices do not match.
        """
        check_positive('batch_size', batch_size)
        dtype = score_dtype(user_x, self.item_x)
        check_index('users', users, user_x.size(0))
        check_length(k, self.num_items)
        check_catalogue(self.num_items, seen, candidates)
        if seen is not None:
            check_index('users', users, seen.num_users)

        device = self.item_x.device
        index = torch.empty(users.numel(), k, dtype=torch.long, device=device)
        scores = torch.empty(users.numel(), k, dtype=dtype, device=device)
        with torch.no_grad():
            params = self._clusters.parameters(candidates)
            for place, width in self._batches(users, k, seen, batch_size):
                batch = users[place.to(users.device)]
                rows = user_x[batch.to(user_x.device)].to(device, dtype)
                results = self._clusters.search(rows, width, params)
                part = self._order(rows, batch, results, k, seen)
                index[place], scores[place] = part
            short = (index[:, -1] < 0).nonzero().view(-1)
            if short.numel() > 0:
                index[short], scores[short] = rank_items(
                    (user_x, self.item_x),
                    users[short.to(users.device)],
                    k,
                    seen=seen,
                    batch_size=batch_size,
                    candidates=candidates,
                    item_batch_size=2**16,
                )
        return Ranking(index, scores)

    def recall_against_exact(
        self,
        user_x: Tensor,
        users: Tensor,
        k: int,
        *,
        seen: SeenItems | None = None,
        batch_size: int = 1024,
        candidates: Tensor | None = None,
    ) -> Tensor:
        """The fraction of the exact best ``k`` items that :meth:`rank_items` returns,
        per user, ``[N]``; one for a user without admissible items.

        A few hundred users are enough for a standard error of one or two percent. Of
        items with equal scores, only those of the exact list count.
        """
        approximate = self.rank_items(
            user_x,
            users,
            k,
            seen=seen,
            batch_size=batch_size,
            candidates=candidates,
        ).item_index
        exact = rank_items(
            (user_x, self.item_x),
            users,
            k,
            seen=seen,
            batch_size=batch_size,
            candidates=candidates,
            item_batch_size=2**16,
        ).item_index
        # A unique number per pair of row and item, also where the item is -1.
        row = torch.arange(users.numel(), device=exact.device).view(-1, 1)
        row = row * (self.num_items + 1)
        valid = exact >= 0
        hits = torch.isin(row + exact, row + approximate) & valid
        recall = hits.sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        return recall.masked_fill(~valid.any(dim=1), 1.0)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self.num_items}, num_lists={self.num_lists}, '
            f'nprobe={self.nprobe})'
        )

    def _batches(
        self, users: Tensor, k: int, seen: SeenItems | None, batch_size: int
    ) -> Iterator[tuple[Tensor, int]]:
        """Positions in ``users`` that are searched together, and how many items."""
        need = torch.full((users.numel(),), k)
        if seen is not None:
            need += seen.seen_before(users).diff().cpu()
        # Rounded to powers of two: one long history does not slow all users down.
        need = (2.0 ** need.double().log2().ceil()).long().clamp(max=self.num_items)
        for width in need.unique().tolist():
            place = (need == width).nonzero().view(-1).to(self.item_x.device)
            size = max(1, min(batch_size, batch_size * _LONG // width))
            for part in place.split(size):
                yield part, width

    def _order(
        self,
        rows: Tensor,
        users: Tensor,
        index: Tensor,
        k: int,
        seen: SeenItems | None,
    ) -> Ranking:
        """The best ``k`` of the search results, by exact scores."""
        device = index.device
        item_x = self.item_x[index.clamp(min=0)].to(rows.dtype)
        with torch.autocast(device.type, enabled=False):
            scores = torch.matmul(item_x, rows.unsqueeze(2)).squeeze(2)
        left_out = index < 0
        if seen is not None:
            row, item = (x.to(device) for x in seen.pairs(users))
            key = torch.arange(users.numel(), device=device).view(-1, 1)
            key = key * self.num_items + index
            left_out |= torch.isin(key, row * self.num_items + item)
        best = top_items(scores.masked_fill(left_out, -torch.inf), k)
        # Columns are in the order of items, so the tie rule is that of items.
        items = index.gather(1, best.item_index.clamp(min=0))
        return Ranking(items.masked_fill(best.item_index < 0, -1), best.scores)


class Clusters:
    """Item vectors on a sphere, clustered by distance; the one user of faiss."""

    def __init__(
        self, item_x: Tensor, centroids: Tensor, label: Tensor, nprobe: int
    ) -> None:
        self._faiss = import_faiss()
        from faiss.contrib.ivf_tools import add_preassigned

        self.centroids, self.label = centroids, label
        self._nprobe = min(nprobe, centroids.size(0))
        width = centroids.size(1)
        # Clusters are chosen by distance. Within them, inner products give the same
        # order with less rounding.
        self._quantizer = self._faiss.IndexFlatL2(width)
        self._quantizer.add(centroids.numpy())
        self._index = self._faiss.IndexIVFFlat(
            self._quantizer,
            width,
            centroids.size(0),
            self._faiss.METRIC_INNER_PRODUCT,
        )
        add_preassigned(self._index, _lift(item_x).numpy(), label.numpy())

    @classmethod
    def train(
        cls, item_x: Tensor, num_lists: int, nprobe: int, seed: int
    ) -> 'Clusters':
        """Clusters the vectors."""
        faiss = import_faiss()
        vectors = _lift(item_x).numpy()
        kmeans = faiss.Kmeans(
            vectors.shape[1],
            num_lists,
            niter=10,
            seed=seed,
            min_points_per_centroid=1,  # Fewer points print a warning.
        )
        kmeans.train(vectors)
        _, label = kmeans.index.search(vectors, 1)
        centroids = torch.from_numpy(kmeans.centroids)
        return cls(item_x, centroids, torch.from_numpy(label).view(-1), nprobe)

    def parameters(self, candidates: Tensor | None) -> Any:
        """The search parameters for some candidates."""
        options = {'nprobe': self._nprobe}
        if candidates is not None:
            chosen = candidates.nonzero().view(-1).cpu().numpy()
            options['sel'] = self._faiss.IDSelectorBatch(chosen)
        return self._faiss.SearchParametersIVF(**options)

    def search(self, rows: Tensor, width: int, params: Any) -> Tensor:
        """Up to ``width`` items for each user vector of ``rows`` ``[B, D]``, ascending
        and padded with -1 in front, ``[B, width]``.
        """
        query = F.pad(F.normalize(rows, dim=1), (0, 1)).float().cpu().numpy()
        _, index = self._index.search(query, width, params=params)
        return torch.from_numpy(index).to(rows.device).sort(dim=1).values


def import_faiss(name: str = 'ApproximateItems') -> Any:
    """The module, or an error that names the extra and what requires it."""
    try:
        import faiss
    except ImportError as error:
        raise missing_extra(name, 'faiss', 'ann') from error
    return faiss


def _lift(x: Tensor) -> Tensor:
    """Vectors on the unit sphere with one more dimension, ``[num_items, D + 1]``."""
    x = x.cpu().to(score_dtype(x, x))
    if not x.isfinite().all():
        raise ValueError("'item_x' must be finite (got NaN or infinity)")
    longest = x.norm(dim=1).max()
    x = x / longest.where(longest > 0, 1.0)
    rest = (1 - x.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([x, rest], dim=1).float()
