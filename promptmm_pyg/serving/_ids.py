"""Raw ids and their row numbers."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import chain, islice
from typing import Any, Literal, TypeGuard, cast, overload

import numpy as np

from promptmm_pyg._utils import check_choice
from promptmm_pyg.serving._texts import Texts, encode

RawId = str | int
Ids = Sequence[RawId] | np.ndarray
Unknown = Literal['raise', 'ignore']
_PARTS = ('text', 'offsets', 'is_integer', 'order')
_BITS = 14_000  # Of the largest integer that Python converts to text.
_PLAIN = (str, int)
_SHOWN = 3
_FEW = 1000  # So many ids are compared with each unknown one.
_LONGEST = 64  # Longer texts have no close matches.
_STEP = 64  # Of the sorted ids, each of these is in memory for the binary search.
_CACHED = 2**16  # So many rows that were looked up are in memory.
_CHARACTERS = 64  # So many characters are tried at a place.


class RawIds(Sequence[RawId]):
    """Raw ids and their row numbers, in arrays: 30 bytes per id, and nothing is built
    when they are loaded.

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
        >>> list(ids)
        [7, '8', '08']
    """

    def __init__(self, name: str, ids: Iterable[RawId], size: int) -> None:
        values = _plain_ids(name, ids)
        if len(values) != size:
            raise ValueError(
                f"'{name}' must contain one id for each of {size} rows of embeddings "
                f'(got {len(values)})'
            )
        if len(set(values)) < size:
            number = Counter(values)
            twice = next(raw for raw in values if number[raw] > 1)
            raise ValueError(f"'{name}' must be unique (got {twice!r} twice)")
        is_integer = np.fromiter((type(raw) is int for raw in values), bool, size)
        try:
            texts = Texts.pack(map(str, values))
        except ValueError as error:
            raise ValueError(
                f"'{name}' must contain integers of at most 4300 digits ({error})"
            ) from error
        # An integer is before the equal text.
        keys = [texts.encoded(row) for row in range(size)]
        rows = np.argsort(~is_integer, kind='stable').tolist()
        rows.sort(key=keys.__getitem__)
        self._set(texts, is_integer, np.array(rows, dtype=np.int64))

    @classmethod
    def from_arrays(
        cls, name: str, arrays: Mapping[str, np.ndarray], verify: bool = True
    ) -> 'RawIds':
        """The ids of :meth:`arrays`, which are not copied; without ``verify`` only
        their types and sizes are checked.

        Raises:
            ValueError: If the arrays do not fit each other.
        """
        ids = cls.__new__(cls)
        data, offsets, is_integer, order = (arrays[f'{name}.{part}'] for part in _PARTS)
        texts = Texts.checked(data, offsets, verify)
        fits = (
            is_integer.dtype == np.bool
            and order.dtype == np.int64
            and is_integer.shape == order.shape == (len(texts),)
        )
        if not fits or (verify and not _is_permutation(order)):
            raise ValueError(f"the order of '{name}' is no permutation")
        if not verify:
            ids._set(texts, is_integer, order)
            return ids
        # Else known ids are not found, or those of another row are.
        signs = texts.compare_next(order)
        is_before = is_integer[order[:-1]] & ~is_integer[order[1:]]
        if not ((signs < 0) | ((signs == 0) & is_before)).all():
            raise ValueError(f"'{name}' are not sorted or not unique")
        ids._set(texts, is_integer, order)
        return ids

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of :meth:`from_arrays`."""
        values = (self._texts.data, self._texts.offsets, self._is_integer, self._order)
        return {f'{name}.{part}': x for part, x in zip(_PARTS, values, strict=True)}

    def joined(self, new: 'RawIds') -> 'RawIds':
        """These ids, followed by new ones with texts that are not known."""
        places = [self._place(new._texts.encoded(row)) for row in new._order.tolist()]
        ids = RawIds.__new__(RawIds)
        ids._set(
            self._texts.joined(new._texts),
            np.concatenate([self._is_integer, new._is_integer]),
            np.insert(self._order, places, new._order + len(self)),
        )
        return ids

    def _set(self, texts: Texts, is_integer: np.ndarray, order: np.ndarray) -> None:
        self._texts, self._is_integer, self._order = texts, is_integer, order
        self._sorted: Any = memoryview(cast(Any, order))
        self._rows: dict[RawId, int] = {}

    @cached_property
    def _heads(self) -> list[bytes]:
        return [self._texts.encoded(row) for row in self._order[::_STEP].tolist()]

    @cached_property
    def _names(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids that were named as objects, followed by ``None``, and which are."""
        is_read = np.zeros(len(self) + 1, dtype=bool)
        is_read[-1] = True
        return np.full(len(self) + 1, None, dtype=object), is_read

    def names(self, rows: np.ndarray) -> np.ndarray:
        """The ids of rows as objects, in the shape of ``rows``; ``None`` for -1."""
        objects, is_read = self._names
        unread = np.unique(rows[~is_read[rows]])
        objects[unread] = [self[row] for row in unread.tolist()]
        is_read[unread] = True  # Other threads may read the same; both are right.
        names: np.ndarray = objects[rows]
        return names

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, row: int) -> RawId: ...
    @overload
    def __getitem__(self, row: slice) -> list[RawId]: ...
    def __getitem__(self, row: int | slice) -> RawId | list[RawId]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        text = self._texts[row]
        return int(text) if self._is_integer[row] else text

    def __iter__(self) -> Iterator[RawId]:
        kinds = self._is_integer.tolist()
        for text, is_integer in zip(self._texts, kinds, strict=True):
            yield int(text) if is_integer else text

    def __contains__(self, raw: object) -> bool:
        return self._find(raw) >= 0

    def __reduce__(self) -> tuple[Any, ...]:
        return RawIds.from_arrays, ('ids', self.arrays('ids'))

    def find(self, ids: RawId | Iterable[RawId]) -> list[int]:
        """The row of each id, -1 where it is unknown; one id gives one row."""
        values, known, find = as_list(ids), self._rows, self._find
        if len(values) > _CACHED:  # Reading all ids is faster then.
            known = {raw: row for row, raw in enumerate(self)}
        get, rows = known.get, []
        for raw in values:
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
        few = len(self) <= _FEW
        rows: dict[int, None] = {}
        for variant in chain(_spellings(text), () if few else self._edits(text)):
            row = self._find(variant)
            if row >= 0:
                rows[row] = None
            if len(rows) == _SHOWN:
                break
        if few:
            known = {str(raw): row for row, raw in enumerate(self)}
            close = get_close_matches(text, known, n=_SHOWN)
            rows |= dict.fromkeys(known[match] for match in close)
        return [self[row] for row in rows][:_SHOWN]

    def typed(self, name: str, ids: Iterable[RawId]) -> list[RawId]:
        """New ids with the type of the known ones: integers if all are, else text.

        Args:
            name: What the message calls them.
            ids: Any ids.

        Raises:
            ValueError: If the known ids are integers and a new one is not.
        """
        if not (len(self) and self.are_integers):
            return [str(raw) for raw in ids]
        typed: list[RawId] = []
        for raw in ids:
            if not _is_integer(str(raw)):
                raise ValueError(
                    f"{name} must be integers, as '{self[0]}' and others are (got "
                    f"'{raw}')"
                )
            typed.append(int(raw))
        return typed

    @property
    def are_integers(self) -> bool:
        """Whether no id is text."""
        return bool(self._is_integer.all())

    def _find(self, raw: object) -> int:
        if not is_id(raw):
            return -1
        if isinstance(raw, int) and raw.bit_length() > _BITS:
            return -1
        is_text = isinstance(raw, str)
        key, row = encode(str(raw)), -1
        place = self._place(key)
        for candidate in self._sorted[place : place + 2]:
            if self._texts.encoded(candidate) != key:
                break
            if row < 0 or self._is_integer[candidate] != is_text:
                row = candidate
        if row >= 0:
            if len(self._rows) >= _CACHED:
                self._rows = {}
            self._rows[raw if isinstance(raw, _PLAIN) else int(raw)] = row
        return row

    def _place(self, key: bytes) -> int:
        """The number of ids whose text is smaller."""
        block = bisect_left(self._heads, key)
        first, last = max(block - 1, 0) * _STEP, min(block * _STEP, len(self))
        return bisect_left(self._sorted, key, first, last, key=self._texts.encoded)

    def _edits(self, text: str) -> Iterator[str]:
        """Texts that differ in one character and begin as known ids do."""
        for place in range(len(text)) if len(text) > 2 else ():
            head, tail = text[:place], text[place:]
            yield head + tail[1:]
            yield head + tail[1:2] + tail[:1] + tail[2:]
            following = list(islice(self._following(head), _CHARACTERS))
            yield from (head + x + tail[1:] for x in following)
            yield from (head + x + tail for x in following)
            if tail[0] not in following:
                return
        yield from (text + x for x in islice(self._following(text), _CHARACTERS))

    def _following(self, head: str) -> Iterator[str]:
        """The characters that follow a beginning in known ids."""
        place = self._place(encode(head))
        while place < len(self):
            text = self._texts[self._sorted[place]]
            if not text.startswith(head):
                return
            if text == head:
                place += 1
                continue
            character = text[len(head)]
            yield character
            # No text contains this byte: it is behind all that begin so.
            place = self._place(encode(head + character) + b'\xff')


def is_id(value: object) -> TypeGuard[RawId]:
    """Whether ``value`` is a string or an integer; a boolean is neither."""
    return isinstance(value, str | int | np.integer) and not isinstance(value, bool)


def as_list(ids: object) -> list[Any]:
    """One id or several, as a list."""
    if is_id(ids):
        return [ids]
    values: Any = ids.tolist() if hasattr(ids, 'tolist') else list(cast(Any, ids))
    return values if isinstance(values, list) else [values]


def _is_permutation(order: np.ndarray) -> bool:
    if not ((order >= 0) & (order < len(order))).all():
        return False
    is_row = np.zeros(len(order), bool)
    is_row[order] = True
    return bool(is_row.all())


def _is_integer(text: str) -> bool:
    """Whether a text is the one that an integer is written as."""
    digits = text.removeprefix('-')
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 4300:
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
