"""Embeddings, raw ids, seen items and titles: the data of a recommender."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg.functional import check_width
from promptmm_pyg.ranking import SeenItems

RawId = str | int
Ids = Sequence[RawId] | np.ndarray


class RawIds:
    """Raw ids and their row numbers.

    Args:
        name: The argument's name, for error messages.
        ids: Unique strings or integers.
        size: The number of rows.
    """

    def __init__(self, name: str, ids: Iterable[RawId], size: int) -> None:
        self.ids = [_plain(name, raw) for raw in ids]
        if len(self.ids) != size:
            raise ValueError(
                f"'{name}' must contain one id for each of {size} rows of embeddings "
                f'(got {len(self.ids)})'
            )
        self._row: dict[object, int] = {}
        for row, raw in enumerate(self.ids):
            if self._row.setdefault(raw, row) != row:
                raise ValueError(f"'{name}' must be unique (got {raw!r} twice)")

    @cached_property
    def lookup(self) -> np.ndarray:
        """The ids as objects, followed by ``None``, the id of row -1."""
        lookup = np.full(len(self.ids) + 1, None, dtype=object)
        lookup[:-1] = self.ids
        return lookup

    def __contains__(self, raw: object) -> bool:
        return is_id(raw) and raw in self._row

    def rows(
        self, name: str, ids: RawId | Iterable[RawId], hint: str = ''
    ) -> list[int]:
        """The row of each id; one id gives one row.

        Raises:
            ValueError: If an id is unknown.
        """
        rows = []
        for raw in [ids] if is_id(ids) else cast(Iterable[object], ids):
            row = self._row.get(raw) if is_id(raw) else None
            if row is None:
                raise ValueError(self._unknown(name, raw, hint))
            rows.append(row)
        return rows

    def _unknown(self, name: str, raw: object, hint: str) -> str:
        # Compared as text, so that 7 is suggested for '7'.
        known = {str(raw): raw for raw in self.ids}
        close = [known[text] for text in get_close_matches(str(raw), known)]
        parts = [f"'{name}' must contain known ids (got {raw!r})"]
        if close:
            parts.append(f'The closest are {close}')
        if hint:
            parts.append(hint)
        return '. '.join(parts)


def is_id(value: object) -> TypeGuard[RawId]:
    """Whether ``value`` is a string or an integer; a boolean is neither."""
    return isinstance(value, str | int | np.integer) and not isinstance(value, bool)


def _plain(name: str, raw: object) -> RawId:
    if not is_id(raw):
        raise ValueError(
            f"'{name}' must contain strings or integers "
            f'(got {raw!r} of type {type(raw).__name__})'
        )
    # JSON cannot write numpy scalars.
    return str(raw) if isinstance(raw, str) else int(raw)


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
    titles: dict[Any, str]
    """Item titles by raw id."""

    @classmethod
    def build(
        cls,
        user_x: Tensor,
        item_x: Tensor,
        user_ids: Ids,
        item_ids: Ids,
        seen: SeenItems | Tensor | None,
        titles: Mapping[Any, str] | None,
    ) -> 'Tables':
        """Copies the embeddings, so that further training does not change them.

        Raises:
            ValueError: If sizes do not match, an id occurs twice, or an embedding is
                not finite.
        """
        check_width(user_x, item_x)
        for name, x in (('user_x', user_x), ('item_x', item_x)):
            if not x.isfinite().all():
                raise ValueError(f"'{name}' must be finite (got NaN or infinity)")
        num_users, num_items = user_x.size(0), item_x.size(0)
        users = RawIds('user_ids', user_ids, num_users)
        items = RawIds('item_ids', item_ids, num_items)
        items.rows('titles', titles or {})
        if seen is None:
            seen = torch.empty(2, 0, dtype=torch.long)
        if isinstance(seen, Tensor):
            seen = SeenItems.from_edge_index(seen, num_users, num_items)
        if (seen.num_users, seen.num_items) != (num_users, num_items):
            raise ValueError(
                "'seen' must cover the users and items of the embeddings (got "
                f'{seen.num_users} x {seen.num_items} instead of {num_users} x '
                f'{num_items})'
            )
        user_x, item_x = user_x.detach().clone(), item_x.detach().clone()
        return cls(user_x, item_x, users, items, seen, dict(titles or {}))

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
        known = [raw for raw in new.ids if raw in self.items]
        if known:
            raise ValueError(
                f"'ids' must contain ids that are not in the catalogue (got "
                f'{known[0]!r}, {len(known)} known in all)'
            )
        new.rows('titles', titles or {})
        num_items = self.num_items + len(new.ids)
        return replace(
            self,
            item_x=torch.cat([self.item_x, item_x.to(self.item_x)]),
            items=RawIds('ids', [*self.items.ids, *new.ids], num_items),
            seen=SeenItems(self.seen.rowptr, self.seen.col, num_items),
            titles={**self.titles, **(titles or {})},
        )

    def candidates(
        self, allow: Iterable[RawId] | None, deny: Iterable[RawId] | None
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
        mask = torch.zeros(self.num_items, dtype=torch.bool)
        if allow is not None:
            mask[self.items.rows('allow', allow)] = True
            return mask
        if deny is not None:
            mask[self.items.rows('deny', deny)] = True
            return ~mask
        return None
