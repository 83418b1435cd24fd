"""What users and items are called outside the library."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from typing import TypeGuard, cast

import numpy as np

RawId = str | int


class RawIds:
    """Raw ids and their row numbers.

    Args:
        name: What the ids are called in error messages.
        ids: Strings or integers, each once.
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
                raise ValueError(
                    f"'{name}' must contain each id once (got {raw!r} twice)"
                )

    @cached_property
    def lookup(self) -> np.ndarray:
        """The ids as objects, with ``None`` in the last place."""
        lookup = np.full(len(self.ids) + 1, None, dtype=object)
        lookup[:-1] = self.ids
        return lookup

    def knows(self, raw: object) -> bool:
        """Whether ``raw`` is one of the ids."""
        return is_id(raw) and raw in self._row

    def rows(
        self, name: str, ids: RawId | Iterable[RawId], hint: str = ''
    ) -> list[int]:
        """The row of each id; one id gives one row."""
        rows = []
        for raw in [ids] if is_id(ids) else cast(Iterable[object], ids):
            row = self._row.get(raw) if is_id(raw) else None
            if row is None:
                raise ValueError(self._unknown(name, raw, hint))
            rows.append(row)
        return rows

    def _unknown(self, name: str, raw: object, hint: str) -> str:
        # By their text, so that 7 is found for '7'.
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
    # JSON does not know numpy's scalars.
    return str(raw) if isinstance(raw, str) else int(raw)
