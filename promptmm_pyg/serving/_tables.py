"""Embeddings, raw ids, seen items and titles: the data of a recommender."""

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg.functional import check_width
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._ids import Ids, RawId, RawIds, Unknown, as_list

Pairs = Mapping[Any, Any] | Iterable[tuple[RawId, RawId]]
"""Item ids by user id, or pairs of user and item id."""


class Titles(UserDict[Any, str]):
    """Item titles by raw id, read when they are first needed.

    Args:
        load: Returns the titles.
    """

    def __init__(self, load: Callable[[], dict[Any, str]]) -> None:
        self._load = load

    @cached_property
    def data(self) -> dict[Any, str]:  # type: ignore[override]
        """The titles."""
        return self._load()

    def __reduce__(self) -> tuple[type[dict[Any, str]], tuple[dict[Any, str]]]:
        return dict, (self.data,)


@dataclass(frozen=True)
class Tables:
    """The data of a recommender. New items make new tables."""

    user_x: Tensor
    """User embeddings ``[num_users, D]``."""
    item_x: Tensor
    """Item embeddings ``[num_items, D]``."""
    users: RawIds
    items: RawIds
    seen: SeenItems
    titles: MutableMapping[Any, str]
    """Item titles by raw id."""
    num_added: int = 0
    """The number of items that were appended."""

    @classmethod
    def build(
        cls,
        user_x: Tensor | np.ndarray,
        item_x: Tensor | np.ndarray,
        user_ids: Ids,
        item_ids: Ids,
        seen: SeenItems | Tensor | np.ndarray | None,
        titles: Mapping[Any, str] | None,
    ) -> 'Tables':
        """Copies the embeddings, so that further training does not change them.

        Raises:
            TypeError: If embeddings are neither tensors nor arrays.
            ValueError: If sizes do not match, an id occurs twice, or an embedding is
                not finite.
        """
        user_x, item_x = _table('user_x', user_x), _table('item_x', item_x)
        num_users, num_items = user_x.size(0), item_x.size(0)
        users = RawIds('user_ids', user_ids, num_users)
        items = RawIds('item_ids', item_ids, num_items)
        if seen is None:
            seen = torch.empty(2, 0, dtype=torch.long)
        if isinstance(seen, Tensor | np.ndarray):
            edges = torch.as_tensor(seen)
            seen = SeenItems.from_edge_index(edges, num_users, num_items)
        if not isinstance(seen, SeenItems):
            raise TypeError(
                "'seen' must be edges [2, E], SeenItems or None (got "
                f"'{type(seen).__name__}')"
            )
        tables = cls(user_x, item_x, users, items, seen, _titles(items, titles))
        tables.check()
        return tables

    def check(self, values: bool = True) -> None:
        """Raises unless sizes match and, with ``values``, embeddings are finite."""
        check_width(self.user_x, self.item_x)
        sizes = self.user_x.size(0), self.item_x.size(0)
        for name, ids, size in zip(
            ('user_ids', 'item_ids'), (self.users, self.items), sizes, strict=True
        ):
            if len(ids) != size:
                raise ValueError(
                    f"'{name}' must contain one id for each of {size} rows of "
                    f'embeddings (got {len(ids)})'
                )
        if (self.seen.num_users, self.seen.num_items) != sizes:
            raise ValueError(
                "'seen' must cover the users and items of the embeddings (got "
                f'{self.seen.num_users} x {self.seen.num_items} instead of '
                f'{sizes[0]} x {sizes[1]})'
            )
        for name, x in (('user_x', self.user_x), ('item_x', self.item_x)):
            if not values:
                continue
            # The sum is several times as fast; it may overflow.
            if not (x.sum().isfinite() or x.isfinite().all()):
                raise ValueError(f"'{name}' must be finite (got NaN or infinity)")

    @property
    def num_items(self) -> int:
        """The size of the catalogue."""
        return self.item_x.size(0)

    def with_items(
        self, item_x: Tensor, ids: list[RawId], titles: Mapping[Any, str] | None
    ) -> 'Tables':
        """The tables with rows appended to the catalogue.

        Raises:
            ValueError: If an id is known or occurs twice, or sizes do not match.
        """
        new = RawIds('ids', ids, item_x.size(0))
        known = [raw for raw in new if raw in self.items]
        if known:
            raise ValueError(
                f"'ids' must contain ids that are not in the catalogue (got "
                f'{known[0]!r}, {len(known)} known in all)'
            )
        num_items = self.num_items + len(new)
        return replace(
            self,
            item_x=torch.cat([self.item_x, item_x.to(self.item_x)]),
            items=self.items.joined(new),
            seen=SeenItems(self.seen.rowptr, self.seen.col, num_items),
            titles={**self.titles, **_titles(new, titles)},
            num_added=self.num_added + len(new),
        )

    def candidates(
        self,
        allow: Iterable[RawId] | None,
        deny: Iterable[RawId] | None,
        unknown: Unknown = 'raise',
    ) -> Tensor | None:
        """The items that may be recommended, boolean ``[num_items]``; none if all.

        Raises:
            ValueError: If both lists are given or an id is unknown.
        """
        if allow is not None and deny is not None:
            raise ValueError(
                "'allow' and 'deny' must be given one at a time (got both). "
                "Leave the denied items out of 'allow'"
            )
        if allow is None and deny is None:
            return None
        # The last place is that of unknown ids.
        mask = np.zeros(self.num_items + 1, dtype=bool)
        if allow is not None:
            mask[self.items.rows('allow', allow, unknown=unknown)] = True
            return torch.from_numpy(mask[:-1])
        if deny is not None:
            mask[self.items.rows('deny', deny, unknown=unknown)] = True
        return torch.from_numpy(~mask[:-1])

    def pairs(
        self, name: str, pairs: Pairs | None, unknown: Unknown
    ) -> SeenItems | None:
        """Pairs of users and items as compressed rows.

        Raises:
            ValueError: If they are no pairs or an id is unknown.
        """
        if pairs is None:
            return None
        if isinstance(pairs, Mapping):
            pairs = [(user, x) for user, ids in pairs.items() for x in as_list(ids)]
        pairs = as_list(pairs)
        wrong = next((x for x in pairs if not _is_pair(x)), None)
        if wrong is not None:
            raise ValueError(
                f"'{name}' must contain item ids by user id, or pairs of user and item "
                f'id (got {wrong!r})'
            )
        users = self.users.rows(name, [pair[0] for pair in pairs], unknown=unknown)
        items = self.items.rows(name, [pair[1] for pair in pairs], unknown=unknown)
        edges = torch.tensor([users, items], dtype=torch.long).view(2, -1)
        edges = edges[:, (edges >= 0).all(0)]
        return SeenItems.from_edge_index(edges, len(self.users), self.num_items)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _table(name: str, x: Tensor | np.ndarray) -> Tensor:
    if not isinstance(x, Tensor | np.ndarray):
        raise TypeError(
            f"'{name}' must be a tensor or an array (got '{type(x).__name__}')"
        )
    is_float = (
        x.dtype.kind == 'f' if isinstance(x, np.ndarray) else x.is_floating_point()
    )
    if x.ndim != 2 or not is_float:
        raise ValueError(
            f"'{name}' must be a floating point matrix (got {list(x.shape)}, {x.dtype})"
        )
    return torch.as_tensor(x).detach().clone()


def _titles(items: RawIds, titles: Mapping[Any, str] | None) -> dict[Any, str]:
    titles = titles or {}
    rows = items.rows('titles', list(titles))
    return {items[row]: x for row, x in zip(rows, titles.values(), strict=True)}
