"""The best items of known users, and of items, under raw ids."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from promptmm_pyg._checks import check_positive
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items
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
    ) -> Recommendations:
        """The best ``k`` items for each user.

        Args:
            users: One raw user id, or several.
            k: How many items; more than the catalogue holds are padded. (default: 10)
            exclude_seen: Whether to leave out what the user has seen. (default:
                ``True``)
            allow: Recommend only these raw item ids. (default: every item)
            deny: Never recommend these raw item ids. (default: none)

        Raises:
            ValueError: If an id is unknown or both lists are given.
        """
        rows = self._users.rows('users', users, _COLD_USER)
        ranking = self._rank(
            (self.user_x, self.item_x),
            rows,
            k,
            seen=self.seen if exclude_seen else None,
            candidates=self._candidates(allow, deny),
        )
        return self._raw(ranking, scalar=is_id(users), k=k)

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
    ) -> Ranking:
        check_positive('k', k)
        users = torch.tensor(rows, dtype=torch.long)
        k = min(k, self.num_items)
        return rank_items(tables, users, k, seen=seen, candidates=candidates)

    def _raw(self, ranking: Ranking, *, scalar: bool, k: int) -> Recommendations:
        index = ranking.item_index.cpu().numpy()
        ids = np.full((len(index), k), None, dtype=object)
        # Row -1 of the lookup is the `None` that stands for padding.
        ids[:, : index.shape[1]] = self._items.lookup[index]
        scores = np.full((len(index), k), -np.inf, dtype=np.float32)
        scores[:, : index.shape[1]] = ranking.scores.float().cpu().numpy()
        return Recommendations(*((ids[0], scores[0]) if scalar else (ids, scores)))
