"""Raw ids and their row numbers."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from typing import Any, Literal, TypeGuard, cast

import numpy as np

from promptmm_pyg._utils import check_choice

RawId = str | int
Ids = Sequence[RawId] | np.ndarray
Unknown = Literal['raise', 'ignore']
_PLAIN = (str, int)
_SHOWN = 3
_FEW = 1000  # So many ids are compared with each unknown one.
_LONGEST = 64  # Longer texts have no close matches.
_DIGITS = 4300  # Python converts no longer text to an integer.


class RawIds:
    """Raw ids and their row numbers.

    An id is first looked up as it is, then by its text: ``'7'`` also finds the integer
    7, and 7 the text ``'7'``, if only the other one is known. Texts must be equal:
    ``'07'`` and ``' 7'`` are other ids.

    Args:
        name: The argument's name, for error messages.
        ids: Unique strings or integers.
        size: The number of rows.

    Raises:
        ValueError: If an id is neither a string nor an integer or occurs twice, or
            their number is not ``size``.

    Example:
        >>> ids = RawIds('item_ids', [7, '8', '08'], 3)
        >>> ids.find(['7', 8, '08', '007'])
        [0, 1, 2, -1]
    """

    def __init__(self, name: str, ids: Iterable[RawId], size: int) -> None:
        self.ids = _plain_ids(name, ids)
        if len(self.ids) != size:
            raise ValueError(
                f"'{name}' must contain one id for each of {size} rows of embeddings "
                f'(got {len(self.ids)})'
            )
        self._row: dict[object, int] = dict(zip(self.ids, range(size), strict=True))
        if len(self._row) < size:
            # The row of an id is that of its last occurrence.
            twice = next(x for row, x in enumerate(self.ids) if self._row[x] != row)
            raise ValueError(f"'{name}' must be unique (got {twice!r} twice)")

    @cached_property
    def lookup(self) -> np.ndarray:
        """The ids as objects, followed by ``None``, the id of row -1."""
        lookup = np.full(len(self.ids) + 1, None, dtype=object)
        lookup[:-1] = self.ids
        return lookup

    def __contains__(self, raw: object) -> bool:
        return self._find(raw) >= 0

    def find(self, ids: RawId | Iterable[RawId]) -> list[int]:
        """The row of each id, -1 where it is unknown; one id gives one row."""
        get, find = self._row.get, self._find
        rows = []
        for raw in as_list(ids):
            row = get(raw, -1) if type(raw) in _PLAIN else -1
            rows.append(row if row >= 0 else find(raw))
        return rows

    def rows(
        self,
        name: str,
        ids: RawId | Iterable[RawId],
        hint: str = '',
        unknown: Unknown = 'raise',
    ) -> list[int]:
        """As :meth:`find`.

        Args:
            name: The argument's name.
            ids: One id, or several.
            hint: The end of the message. (default: none)
            unknown: Whether unknown ids ``'raise'`` or have row -1 (``'ignore'``).

        Raises:
            TypeError: If there are no ids.
            ValueError: If an id is unknown.
        """
        check_choice('unknown', unknown, ('raise', 'ignore'))
        if isinstance(ids, bytes) or not (is_id(ids) or isinstance(ids, Iterable)):
            raise TypeError(
                f"'{name}' must be an id or a sequence of ids (got {ids!r})"
            )
        ids = as_list(ids)
        rows = self.find(ids)
        if unknown == 'raise' and -1 in rows:
            first = ids[rows.index(-1)]
            number = rows.count(-1)
            count = f', {number} unknown in all' if number > 1 else ''
            close = self.close_matches(first)
            parts = [f"'{name}' must contain known ids (got {first!r}{count})"]
            parts += [f'The closest are {close}'] if close else []
            raise ValueError('. '.join([*parts, *([hint] if hint else [])]))
        return rows

    def close_matches(self, raw: object) -> list[RawId]:
        """Up to three known ids that resemble an unknown one.

        The work does not grow with the number of ids: of more than a thousand, only
        those that differ in one character, in case, in blanks or in leading zeros.
        """
        text = str(raw)
        if not 0 < len(text.strip()) <= _LONGEST:
            return []
        few = len(self.ids) <= _FEW
        edits = () if few else _edits(text, self._alphabet)
        rows: dict[int, None] = {}
        for variant in chain(_spellings(text), edits):
            row = self._find(variant)
            if row >= 0:
                rows[row] = None
            if len(rows) == _SHOWN:
                break
        if few:
            known = {str(raw): row for row, raw in enumerate(self.ids)}
            close = get_close_matches(text, known, n=_SHOWN)
            rows |= dict.fromkeys(known[match] for match in close)
        return [self.ids[row] for row in rows][:_SHOWN]

    def typed(self, name: str, ids: Iterable[RawId]) -> list[RawId]:
        """New ids with the type of the known ones: integers if all are, else text.

        Args:
            name: What the message calls them.
            ids: Any ids.

        Raises:
            ValueError: If the known ids are integers and a new one is not.
        """
        if set(map(type, self.ids)) != {int}:
            return [str(raw) for raw in ids]
        typed: list[RawId] = []
        for raw in ids:
            if not _is_integer(str(raw)):
                raise ValueError(
                    f"{name} must be integers, as '{self.ids[0]}' and others are (got "
                    f"'{raw}')"
                )
            typed.append(int(raw))
        return typed

    @cached_property
    def _alphabet(self) -> list[str]:
        step = max(1, len(self.ids) // _FEW)
        return sorted(set(''.join(str(raw)[:_LONGEST] for raw in self.ids[::step])))

    def _find(self, raw: object) -> int:
        if not is_id(raw):
            return -1
        row = self._row.get(raw)
        if row is None and isinstance(raw, str) and _is_integer(raw):
            row = self._row.get(int(raw))
        elif row is None and not isinstance(raw, str):
            row = self._row.get(str(raw))
        return -1 if row is None else row


def is_id(value: object) -> TypeGuard[RawId]:
    """Whether ``value`` is a string or an integer; a boolean is neither."""
    return isinstance(value, str | int | np.integer) and not isinstance(value, bool)


def as_list(ids: object) -> list[Any]:
    """One id or several, as a list."""
    if is_id(ids):
        return [ids]
    values: Any = ids.tolist() if hasattr(ids, 'tolist') else list(cast(Any, ids))
    return values if isinstance(values, list) else [values]


def _is_integer(text: str) -> bool:
    """Whether a text is the one that an integer is written as."""
    digits = text.removeprefix('-')
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _DIGITS:
        return False
    return (digits[0] != '0' or len(digits) == 1) and text != '-0'


def _plain_ids(name: str, ids: Iterable[object]) -> list[RawId]:
    """Strings and integers of Python; JSON cannot write those of NumPy."""
    values = as_list(ids)
    if set(map(type, values)) <= {str, int}:
        return values
    for raw in values:
        if not is_id(raw):
            raise ValueError(
                f"'{name}' must contain strings or integers "
                f'(got {raw!r} of type {type(raw).__name__})'
            )
    return [str(raw) if isinstance(raw, str) else int(raw) for raw in values]


def _spellings(text: str) -> Iterator[str]:
    """Texts that differ in blanks, case or leading zeros."""
    bare = text.strip()
    yield from (bare, bare.lower(), bare.upper(), bare.title())
    yield from (bare.lstrip('0') or '0', *(bare.zfill(n) for n in range(2, 13)))


def _edits(text: str, alphabet: list[str]) -> Iterator[str]:
    """Texts that differ in one character; too many if there are one or two."""
    cuts = [(text[:n], text[n:]) for n in range(len(text) + 1)] if len(text) > 2 else []
    yield from (head + tail[1:] for head, tail in cuts if tail)
    yield from (h + t[1] + t[0] + t[2:] for h, t in cuts if len(t) > 1)
    yield from (h + x + t[1:] for h, t in cuts if t for x in alphabet)
    yield from (head + x + tail for head, tail in cuts for x in alphabet)
