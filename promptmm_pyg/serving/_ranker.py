"""Ranks the catalogue of a recommender and names the results by raw ids."""

from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from promptmm_pyg._utils import check_positive
from promptmm_pyg.ranking import (
    ApproximateItems,
    SeenItems,
    rank_candidates,
    rank_items,
)
from promptmm_pyg.serving._tables import Tables
from promptmm_pyg.serving.fold_in import FoldIn

LONGEST = 10_000
"""The longest lists of a smaller catalogue."""


class Recommendations(NamedTuple):
    """Raw item ids, best first, and their scores.

    Both are ``[k]`` for one user and ``[B, k]`` for several. Where fewer than ``k``
    items can be recommended, the rest is ``None`` with score ``-inf``.
    """

    ids: np.ndarray
    scores: np.ndarray


class Filters(NamedTuple):
    """The items that may be recommended, by rows of the users' vectors."""

    mask: Tensor | None = None
    """Boolean ``[num_items]``; where false, nobody gets the item."""
    seen: SeenItems | None = None
    """Left out, user by user."""
    exclude: SeenItems | None = None
    """Left out, too."""
    candidates: SeenItems | None = None
    """Only these, user by user."""

    def left_out(self, users: Tensor) -> SeenItems | None:
        """What is left out for ``users`` ``[B]``; other users may lack it."""
        if self.seen is None or self.exclude is None:
            return self.exclude if self.seen is None else self.seen
        edges = [
            torch.stack([users[row.cpu()], item.cpu()])
            for row, item in (x.pairs(users) for x in (self.seen, self.exclude))
        ]
        sizes = (self.seen.num_users, self.seen.num_items)
        return SeenItems.from_edge_index(torch.cat(edges, dim=1), *sizes)


class Ranker:
    """Top-K lists of one set of tables, with what is computed once per set.

    Args:
        tables: The tables to rank.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._fold_in: FoldIn | None = None

    def __reduce__(self) -> tuple[type['Ranker'], tuple[Tables]]:
        return Ranker, (self.tables,)  # Without what is computed from them.

    @cached_property
    def unit_x(self) -> Tensor:
        """Item embeddings of length one."""
        return normalize(self.tables.item_x, dim=-1)

    @cached_property
    def precise_x(self) -> Tensor:
        """Item embeddings in single precision or better."""
        item_x = self.tables.item_x
        return item_x.to(torch.promote_types(item_x.dtype, torch.float))

    def fold_in(self, unseen_weight: float, ridge: float) -> FoldIn:
        """The solver for new users; the last one is cached."""
        current = self._fold_in
        if current is None or (current.unseen_weight, current.ridge) != (
            unseen_weight,
            ridge,
        ):
            current = self._fold_in = FoldIn(
                self.tables.item_x, unseen_weight=unseen_weight, ridge=ridge
            )
        return current

    def recommend(
        self,
        user_x: Tensor,
        rows: list[int],
        k: int,
        filters: Filters,
        *,
        scalar: bool,
        item_x: Tensor | None = None,
        memory_limit: int | str | None = None,
        index: ApproximateItems | None = None,
    ) -> Recommendations:
        """The ``k`` best items for ``rows`` of ``user_x``.

        Args:
            user_x: Vectors ``[N, D]``.
            rows: The rows to rank for, ``[B]``; the list of row -1 is empty.
            k: How many items; beyond the catalogue, lists are padded.
            filters: The items that may be recommended.
            scalar: Whether to return the first list alone, ``[k]``.
            item_x: Item vectors. (default: those of the tables)
            memory_limit: See :func:`~promptmm_pyg.ranking.rank_items`.
            index: An index of the tables' items. (default: none)

        Raises:
            ValueError: If ``k`` is not a positive integer or too large, or
                ``memory_limit`` or ``index`` do not fit.
        """
        length = min(self.check_k(k), self.tables.num_items)
        item_x = self.tables.item_x if item_x is None else item_x
        all_rows = np.array(rows, dtype=np.int64)
        known = all_rows >= 0
        users = torch.from_numpy(all_rows[known])
        options: dict[str, Any] = {'seen': filters.left_out(users)}
        if index is not None:
            self.check_index(index, memory_limit)
            rank = partial(index.rank_items, user_x)
        else:
            rank = partial(rank_items, (user_x, item_x), memory_limit=memory_limit)
        if filters.candidates is None:
            ranking = rank(users, length, candidates=filters.mask, **options)
        else:
            options |= {'candidates': filters.candidates, 'mask': filters.mask}
            ranking = rank_candidates(user_x, item_x, users, length, **options)
        ids = np.full((len(rows), k), None, dtype=object)
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
        names = self.tables.items.names(ranking.item_index.cpu().numpy())
        ids[known, :length] = names
        scores[known, :length] = ranking.scores.float().cpu().numpy()
        return Recommendations(*((ids[0], scores[0]) if scalar else (ids, scores)))

    def check_k(self, k: int) -> int:
        """Raises unless lists of ``k`` items can be made, before memory is used."""
        most = max(self.tables.num_items, LONGEST)
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise TypeError(f"'k' must be an integer (got {k!r})")
        check_positive('k', k)
        if k > most:
            raise ValueError(
                f"'k' must be at most {most}: there are {self.tables.num_items} items "
                f'(got {k})'
            )
        return int(k)

    def check_index(
        self, index: ApproximateItems, memory_limit: int | str | None = None
    ) -> None:
        """Raises unless the index was built from these tables."""
        if memory_limit is not None:
            raise ValueError(
                "'memory_limit' and 'index' must be given one at a time (got both). An "
                'index scores few items anyway'
            )
        num_items = self.tables.num_items
        # The same memory, not equal numbers: comparing both tables would be slower.
        if index.item_x.data_ptr() != self.tables.item_x.data_ptr() or (
            index.num_items != num_items
        ):
            raise ValueError(
                "'index' must be built from the current items (got one of "
                f'{index.num_items} items for a catalogue of {num_items}). Build it '
                "anew with 'index_items'"
            )
