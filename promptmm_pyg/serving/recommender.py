"""Recommendations by raw ids, from embeddings alone."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from promptmm_pyg._checks import check_positive
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items
from promptmm_pyg.scoring import check_width
from promptmm_pyg.serving._files import read_files, write_files
from promptmm_pyg.serving._raw_ids import RawId, RawIds, is_id

_COLD_USER = 'A user without a row of embeddings is new to the model: train again'


class Recommendations(NamedTuple):
    """Raw item ids, best first, and their scores.

    Both are ``[k]`` for one user and ``[B, k]`` for several. Where fewer than ``k``
    items can be recommended, the rest is ``None`` with score ``-inf``.
    """

    ids: np.ndarray
    scores: np.ndarray


class Recommender:
    """Serves a trained model: raw ids in, raw ids out, without model, graph library or
    training data.

    Equal scores are ordered as everywhere in the package: by position in ``item_ids``.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        user_ids: The raw id of each user, strings or integers.
        item_ids: The raw id of each item, strings or integers.
        seen: What the users have seen already: (user, item) edges ``[2, E]`` of row
            numbers, the same as :class:`~promptmm_pyg.ranking.SeenItems`, or ``None``
            if nobody has seen anything.
        titles: What to call items when printing them, by raw id. (default: none)

    Raises:
        ValueError: If sizes do not fit each other, an id occurs twice, or an embedding
            is not finite.

    Example:
        >>> x = torch.eye(2)
        >>> model = Recommender(
        ...     x, x, user_ids=['ann', 'bob'], item_ids=[10, 20], seen=None
        ... )
        >>> model.recommend('bob', k=1).ids.tolist()
        [20]
    """

    def __init__(
        self,
        user_x: Tensor,
        item_x: Tensor,
        *,
        user_ids: Sequence[RawId] | np.ndarray,
        item_ids: Sequence[RawId] | np.ndarray,
        seen: SeenItems | Tensor | None,
        titles: Mapping[Any, str] | None = None,
    ) -> None:
        check_width(user_x, item_x)
        for name, x in (('user_x', user_x), ('item_x', item_x)):
            if not x.isfinite().all():
                raise ValueError(f"'{name}' needs to be finite (got NaN or infinity)")
        # Copies: training on must not change what is served.
        self.user_x = user_x.detach().clone()
        self.item_x = item_x.detach().clone()
        self._users = RawIds('user_ids', user_ids, user_x.size(0))
        self._items = RawIds('item_ids', item_ids, item_x.size(0))
        if seen is None:
            seen = torch.empty(2, 0, dtype=torch.long)
        if isinstance(seen, Tensor):
            seen = SeenItems.from_edge_index(seen, self.num_users, self.num_items)
        if (seen.num_users, seen.num_items) != (self.num_users, self.num_items):
            raise ValueError(
                "'seen' needs to cover the users and items of the embeddings "
                f'(got {seen.num_users} x {seen.num_items} instead of '
                f'{self.num_users} x {self.num_items})'
            )
        self.seen = seen
        self.titles = dict(titles or {})
        self._items.rows('titles', self.titles)

    @property
    def num_users(self) -> int:
        """The number of known users."""
        return self.user_x.size(0)

    @property
    def num_items(self) -> int:
        """The size of the catalogue."""
        return self.item_x.size(0)

    @property
    def user_ids(self) -> list[RawId]:
        """The raw user ids, in the order of ``user_x``."""
        return list(self._users.ids)

    @property
    def item_ids(self) -> list[RawId]:
        """The raw item ids, in the order of ``item_x``."""
        return list(self._items.ids)

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
        ranking = self._rank(
            (self._unit_item_x, self._unit_item_x),
            rows,
            k,
            seen=itself,
        )
        return self._raw(ranking, scalar=is_id(items), k=k)

    def save(self, path: str | Path) -> None:
        """Writes the folder ``path``: ``model.safetensors``, ``ids.json`` and, last,
        ``config.json`` with the checksums of both.

        Raises:
            ValueError: If ``path`` is a file.
        """
        tensors = {
            'user_x': self.user_x,
            'item_x': self.item_x,
            'seen_rowptr': self.seen.rowptr,
            'seen_col': self.seen.col,
        }
        ids = {
            'user_ids': self.user_ids,
            'item_ids': self.item_ids,
            'titles': [self.titles.get(raw) for raw in self.item_ids],
        }
        write_files(Path(path), tensors, ids)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | torch.device = 'cpu'
    ) -> 'Recommender':
        """Reads what :meth:`save` wrote; no code in the files is ever run.

        Args:
            path: The folder.
            device: Where the embeddings are to live. (default: the CPU)

        Raises:
            ValueError: If a file is missing, of another format version, or not the one
                that was written.
        """
        tensors, ids = read_files(Path(path))
        item_x, item_ids = tensors['item_x'], ids['item_ids']
        seen = SeenItems(tensors['seen_rowptr'], tensors['seen_col'], item_x.size(0))
        pairs = zip(item_ids, ids['titles'], strict=True)
        return cls(
            tensors['user_x'].to(device),
            item_x.to(device),
            user_ids=ids['user_ids'],
            item_ids=item_ids,
            seen=seen,
            titles={raw: title for raw, title in pairs if title is not None},
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self.num_users} users, {self.num_items} items, '
            f'{self.user_x.size(1)} channels)'
        )

    @cached_property
    def _unit_item_x(self) -> Tensor:
        return normalize(self.item_x, dim=-1)

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

    def _candidates(
        self, allow: Iterable[RawId] | None, deny: Iterable[RawId] | None
    ) -> Tensor | None:
        if allow is not None and deny is not None:
            raise ValueError(
                "'allow' and 'deny' need to be given one at a time (got both). "
                "Leave the denied items out of 'allow'"
            )
        mask = torch.zeros(self.num_items, dtype=torch.bool)
        if allow is not None:
            mask[self._items.rows('allow', allow)] = True
            return mask
        if deny is not None:
            mask[self._items.rows('deny', deny)] = True
            return ~mask
        return None

    def _raw(self, ranking: Ranking, *, scalar: bool, k: int) -> Recommendations:
        index = ranking.item_index.cpu().numpy()
        ids = np.full((len(index), k), None, dtype=object)
        # Row -1 of the lookup is the `None` that stands for padding.
        ids[:, : index.shape[1]] = self._items.lookup[index]
        scores = np.full((len(index), k), -np.inf, dtype=np.float32)
        scores[:, : index.shape[1]] = ranking.scores.float().cpu().numpy()
        return Recommendations(*((ids[0], scores[0]) if scalar else (ids, scores)))
