"""Embeddings under raw ids: what every part of serving reads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg.functional import check_width
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._raw_ids import RawId, RawIds

Ids = Sequence[RawId] | np.ndarray


class Tables:
    """User and item embeddings, their ids, titles, and who has seen what."""

    def __init__(
        self,
        user_x: Tensor,
        item_x: Tensor,
        *,
        user_ids: Ids,
        item_ids: Ids,
        seen: SeenItems | Tensor | None,
        titles: Mapping[Any, str] | None = None,
    ) -> None:
        check_width(user_x, item_x)
        for name, x in (('user_x', user_x), ('item_x', item_x)):
            if not x.isfinite().all():
                raise ValueError(f"'{name}' must be finite (got NaN or infinity)")
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
                "'seen' must cover the users and items of the embeddings "
                f'(got {seen.num_users} x {seen.num_items} instead of '
                f'{self.num_users} x {self.num_items})'
            )
        self.seen = seen
        self.titles = dict(titles or {})
        self._items.rows('titles', self.titles)
        # Made of the tables when first asked for, and forgotten when they change.
        self._derived: dict[Any, Any] = {}

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

    def _append_items(
        self, item_x: Tensor, ids: list[RawId], titles: Mapping[Any, str] | None
    ) -> None:
        """Adds rows to the catalogue, or raises and changes nothing."""
        new = RawIds('ids', ids, item_x.size(0))
        old = [raw for raw in new.ids if self._items.knows(raw)]
        if old:
            raise ValueError(
                f"'ids' must contain ids that are not in the catalogue (got "
                f'{old[0]!r}, {len(old)} known in all)'
            )
        new.rows('titles', titles or {})
        items = RawIds('ids', [*self._items.ids, *new.ids], self.num_items + len(ids))
        self.item_x = torch.cat([self.item_x, item_x.to(self.item_x)])
        self._items = items
        self.seen = SeenItems(self.seen.rowptr, self.seen.col, self.num_items)
        self.titles.update(titles or {})
        self._derived.clear()

    def _candidates(
        self, allow: Iterable[RawId] | None, deny: Iterable[RawId] | None
    ) -> Tensor | None:
        if allow is not None and deny is not None:
            raise ValueError(
                "'allow' and 'deny' must be given one at a time (got both). "
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
