"""The best items of known users, and of items, under raw ids."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from promptmm_pyg._utils import check_positive
from promptmm_pyg.ranking import ApproximateItems, Ranking, SeenItems, rank_items
from promptmm_pyg.serving._raw_ids import RawId, is_id
from promptmm_pyg.serving.exports import Exports

_COLD_USER = (
    "A user without a row of embeddings is new to the model: 'recommend_from_history' "
    'ranks by the items they took'
)


class Recommendations(NamedTuple):
    """Raw item ids, best first, and their scores.

    Both are ``[k]`` for one user and ``[B, k]`` for several. Where fewer than ``k``
    items can be recommended, the rest is ``None`` with score ``-inf``.
    """

    ids: np.ndarray
    scores: np.ndarray


class Ranked(Exports):
    """What a :class:`~promptmm_pyg.serving.Recommender` says of users it knows."""

    def recommend(
        self,
        users: RawId | Sequence[RawId] | np.ndarray,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
        memory: int | str | None = None,
        index: ApproximateItems | None = None,
    ) -> Recommendations:
        """The best ``k`` items for each user.

        Args:
            users: One raw user id, or several.
            k: How many items; more than the catalogue holds are padded. (default: 10)
            exclude_seen: Whether to leave out what the user has seen. (default:
                ``True``)
            allow: Recommend only these raw item ids. (default: every item)
            deny: Never recommend these raw item ids. (default: none)
            memory: Bytes, or text such as ``'2GiB'``, that everything made on the way
                fits in together; the lists are the same but for rounding, see
                :func:`~promptmm_pyg.ranking.rank_items`. (default: no bound)
            index: What :meth:`index_items` returned, to look at a part of the
                catalogue and find most of the best items; :meth:`index_recall` tells how
                many. (default: none, the exact lists)

        Raises:
            ValueError: If an id is unknown, both lists are given, ``memory`` cannot
                hold the lists or comes with an index, or the index is not one of the
                items there are.
        """
        rows = self._users.rows('users', users, _COLD_USER)
        ranking = self._rank(
            (self.user_x, self.item_x),
            rows,
            k,
            seen=self.seen if exclude_seen else None,
            candidates=self._candidates(allow, deny),
            memory=memory,
            index=index,
        )
        return self._raw(ranking, scalar=is_id(users), k=k)

    def index_items(
        self, *, num_lists: int | None = None, num_probes: int = 32, seed: int = 0
    ) -> ApproximateItems:
        """An index of the items there are, for catalogues of a million and more; needs
        faiss. It is not saved with the recommender, and no longer of use once items
        are added.

        Args:
            num_lists: The number of clusters of items. (default: four times the square
                root of the catalogue's size)
            num_probes: How many of them a user is compared with. (default: 32)
            seed: Of the clustering. (default: 0)

        Raises:
            ImportError: If faiss is not installed.
            ValueError: If a number is not positive, or there are more clusters than
                items.
        """
        return ApproximateItems(
            self.item_x, num_lists=num_lists, num_probes=num_probes, seed=seed
        )

    def index_recall(
        self,
        index: ApproximateItems,
        users: RawId | Sequence[RawId] | np.ndarray,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[RawId] | None = None,
        deny: Iterable[RawId] | None = None,
    ) -> np.ndarray:
        """The share of the exact best ``k`` items that :meth:`recommend` finds by the
        index, user by user, ``[B]``. A few hundred users tell it to within a percent or
        two.

        Args:
            index: What :meth:`index_items` returned.
            users: See :meth:`recommend`; so are the others.
            k: (default: 10)
            exclude_seen: (default: ``True``)
            allow: (default: every item)
            deny: (default: none)

        Raises:
            ValueError: As :meth:`recommend`.
        """
        rows = self._users.rows('users', users, _COLD_USER)
        check_positive('k', k)
        self._check_index(index, None)
        shares = index.recall_against_exact(
            self.user_x,
            torch.tensor(rows, dtype=torch.long),
            min(k, self.num_items),
            seen=self.seen if exclude_seen else None,
            candidates=self._candidates(allow, deny),
        )
        found: np.ndarray = shares.float().cpu().numpy()
        return found

    def similar_items(
        self, items: RawId | Sequence[RawId] | np.ndarray, k: int = 10
    ) -> Recommendations:
        """The ``k`` items closest to each item by cosine, itself left out.

        Args:
            items: One raw item id, or several.
            k: How many items; more than the catalogue holds are padded. (default: 10)

        Raises:
            ValueError: If an id is unknown.
        """
        rows = self._items.rows('items', items)
        number = torch.arange(self.num_items + 1)
        itself = SeenItems(number, number[:-1], self.num_items)
        if 'unit' not in self._derived:
            self._derived['unit'] = normalize(self.item_x, dim=-1)
        unit = self._derived['unit']
        ranking = self._rank((unit, unit), rows, k, seen=itself)
        return self._raw(ranking, scalar=is_id(items), k=k)

    def _rank(
        self,
        tables: tuple[Tensor, Tensor],
        rows: list[int],
        k: int,
        *,
        seen: SeenItems | None,
        candidates: Tensor | None = None,
        memory: int | str | None = None,
        index: ApproximateItems | None = None,
    ) -> Ranking:
        check_positive('k', k)
        users = torch.tensor(rows, dtype=torch.long)
        k = min(k, self.num_items)
        if index is not None:
            self._check_index(index, memory)
            return index.rank_items(
                tables[0], users, k, seen=seen, candidates=candidates
            )
        return rank_items(
            tables, users, k, seen=seen, candidates=candidates, memory=memory
        )

    def _check_index(self, index: ApproximateItems, memory: int | str | None) -> None:
        if memory is not None:
            raise ValueError(
                "'memory' and 'index' must be given one at a time (got both). An "
                'index scores few items anyway'
            )
        # Of the same numbers, not equal ones: reading both would take longer.
        if index.item_x.data_ptr() != self.item_x.data_ptr() or (
            index.num_items != self.num_items
        ):
            raise ValueError(
                "'index' must be one of the items there are (got "
                f'{index.num_items} others, there are {self.num_items}). Build it anew '
                "with 'index_items'"
            )

    def _raw(self, ranking: Ranking, *, scalar: bool, k: int) -> Recommendations:
        index = ranking.item_index.cpu().numpy()
        ids = np.full((len(index), k), None, dtype=object)
        # Row -1 of the lookup is the `None` that stands for padding.
        ids[:, : index.shape[1]] = self._items.lookup[index]
        scores = np.full((len(index), k), -np.inf, dtype=np.float32)
        scores[:, : index.shape[1]] = ranking.scores.float().cpu().numpy()
        return Recommendations(*((ids[0], scores[0]) if scalar else (ids, scores)))
