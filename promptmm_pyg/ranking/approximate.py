"""Lists from an index that looks at a part of the catalogue, by faiss."""

from collections.abc import Iterator
from math import ceil, sqrt

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.ranking._clusters import Clusters, import_faiss
from promptmm_pyg.ranking._item_blocks import score_dtype
from promptmm_pyg.ranking.lists import rank_items
from promptmm_pyg.ranking.seen_items import SeenItems, check_catalogue, check_index
from promptmm_pyg.ranking.top import Ranking, check_length, top_items

_LONG = 256
"""Entries a user of a full batch; where lists are longer, fewer users go together."""


class ApproximateItems:
    r"""An index of item vectors, whose lists hold most of the items of the exact ones
    and are found by scoring few: for catalogues of a million items and more.

    Items are clustered, and a user is compared with the items of the nearest
    ``num_probes`` clusters. So that the nearest are those with the largest inner
    products, also where some items have far longer vectors than others, vectors are
    first lifted to a sphere, as in `"Speeding Up the Xbox Recommender System Using a
    Euclidean Transformation for Inner-Product Spaces"
    <https://doi.org/10.1145/2645710.2645741>`_: with :math:`M` the length of the
    longest item,

    .. math::
        \mathbf{x}_i \mapsto \Big(\frac{\mathbf{x}_i}{M},\;
        \sqrt{1 - \frac{\lVert \mathbf{x}_i \rVert^2}{M^2}}\Big), \qquad
        \mathbf{x}_u \mapsto \Big(\frac{\mathbf{x}_u}{\lVert \mathbf{x}_u \rVert},\;
        0\Big)

    The items found are scored again by exact inner products, and ordered as
    :func:`rank_items` orders them. Measure what is missed on your own vectors by
    :meth:`recall_against_exact`, and raise ``num_probes`` until it suffices; with
    ``num_probes=num_lists`` nothing is.

    The index holds a copy of the vectors in single precision on the CPU, and the table
    itself to score by: build it anew when the table has changed.

    Args:
        item_x: Item vectors ``[num_items, D]``, finite.
        num_lists: The number of clusters. (default: :math:`4 \sqrt{num\_items}`)
        num_probes: How many of them a user is compared with. (default: 32)
        seed: Of the clustering. (default: 0)

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
        num_probes: int = 32,
        seed: int = 0,
    ) -> None:
        import_faiss()
        score_dtype(item_x, item_x)  # Refuses what is no table of numbers.
        num_items = item_x.size(0)
        check_positive('num_items', num_items)
        if num_lists is None:
            num_lists = min(num_items, ceil(4 * sqrt(num_items)))
        check_positive('num_lists', num_lists)
        check_positive('num_probes', num_probes)
        if num_lists > num_items:
            raise ValueError(
                "'num_lists' must be at most the number of items of "
                f'{num_items} (got {num_lists})'
            )
        self.item_x = item_x.detach()
        self.num_lists = num_lists
        self.num_probes = num_probes
        self._clusters = Clusters(self.item_x, num_lists, num_probes, seed)

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
        """Most of the best ``k`` items of every user, in the order and with the scores
        of :func:`~promptmm_pyg.ranking.rank_items`, whose arguments these are.

        As many more items are looked up as the user has seen. Where the clusters
        compared hold fewer than ``k`` admissible items, the user is ranked exactly, so
        that no list is shorter than the exact one.

        Args:
            user_x: User vectors ``[num_users, D]``.
            users: The users to rank for, ``[N]``, repeats allowed.
            k: The length of the lists.
            seen: Items to leave out, user by user. (default: none)
            batch_size: How many users are looked up at once at most. (default: 1024)
            candidates: Boolean ``[num_items]``; where false, nobody gets the item.
                (default: every item)

        Raises:
            ValueError: If ``k`` exceeds the catalogue, a score is NaN, or sizes or
                indices do not fit each other.
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
                found = self._clusters.look_up(rows, width, params)
                part = self._order(rows, batch, found, k, seen)
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
        """The share of the exact best ``k`` items that :meth:`rank_items` finds, user
        by user, ``[N]``; one where a user has no admissible item.

        A few hundred users tell it to within a percent or two. Of items with equal
        scores, only those of the exact list count.
        """
        found = self.rank_items(
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
        # One number for each pair of row and item, also where the item is -1.
        row = torch.arange(users.numel(), device=exact.device).view(-1, 1)
        row = row * (self.num_items + 1)
        there = exact >= 0
        hits = torch.isin(row + exact, row + found) & there
        share = hits.sum(dim=1) / there.sum(dim=1).clamp(min=1)
        return share.masked_fill(~there.any(dim=1), 1.0)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self.num_items}, num_lists={self.num_lists}, '
            f'num_probes={self.num_probes})'
        )

    def _batches(
        self, users: Tensor, k: int, seen: SeenItems | None, batch_size: int
    ) -> Iterator[tuple[Tensor, int]]:
        """Positions in ``users`` that are looked up together, and how many items."""
        need = torch.full((users.numel(),), k)
        if seen is not None:
            need += seen.seen_before(users).diff().cpu()
        # To powers of two: one user who has seen much does not slow all.
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
        """The best ``k`` of the items found, by exact scores."""
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
        # Columns ascend as their items do: the tie rule is that of items.
        items = index.gather(1, best.item_index.clamp(min=0))
        return Ranking(items.masked_fill(best.item_index < 0, -1), best.scores)
