"""Ranks the catalogue of a recommender and names the results by raw ids."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from promptmm_pyg._utils import check_positive
from promptmm_pyg.ranking import ApproximateItems, SeenItems, rank_items
from promptmm_pyg.serving._tables import Tables
from promptmm_pyg.serving.fold_in import FoldIn


class Recommendations(NamedTuple):
    """Raw item ids, best first, and their scores.

    Both are ``[k]`` for one user and ``[B, k]`` for several. Where fewer than ``k``
    items can be recommended, the rest is ``None`` with score ``-inf``.
    """

    ids: np.ndarray
    scores: np.ndarray


class Ranker:
    """Top-K lists of one set of tables, with what is computed once per set.

    Args:
        tables: The tables to rank.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._fold_in: FoldIn | None = None

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
        *,
        scalar: bool,
        item_x: Tensor | None = None,
        seen: SeenItems | None = None,
        candidates: Tensor | None = None,
        memory_limit: int | str | None = None,
        index: ApproximateItems | None = None,
    ) -> Recommendations:
        """The ``k`` best items for ``rows`` of ``user_x``.

        Args:
            user_x: Vectors ``[N, D]``.
            rows: The rows to rank for, ``[B]``.
            k: How many items; beyond the catalogue, lists are padded.
            scalar: Whether to return the first list alone, ``[k]``.
            item_x: Item vectors. (default: those of the tables)
            seen: Items to leave out for each row of ``user_x``. (default: none)
            candidates: Boolean ``[num_items]``. (default: every item)
            memory_limit: See :func:`~promptmm_pyg.ranking.rank_items`.
            index: An index of the tables' items. (default: none)

        Raises:
            ValueError: If ``k`` is not positive, or ``memory_limit`` or ``index`` do
                not fit.
        """
        check_positive('k', k)
        users = torch.tensor(rows, dtype=torch.long)
        length = min(k, self.tables.num_items)
        if index is not None:
            self.check_index(index, memory_limit)
            ranking = index.rank_items(
                user_x, users, length, seen=seen, candidates=candidates
            )
        else:
            ranking = rank_items(
                (user_x, self.tables.item_x if item_x is None else item_x),
                users,
                length,
                seen=seen,
                candidates=candidates,
                memory_limit=memory_limit,
            )
        ids = np.full((len(rows), k), None, dtype=object)
        ids[:, :length] = self.tables.items.lookup[ranking.item_index.cpu().numpy()]
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
        scores[:, :length] = ranking.scores.float().cpu().numpy()
        return Recommendations(*((ids[0], scores[0]) if scalar else (ids, scores)))

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
