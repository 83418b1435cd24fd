"""Strings in one buffer, which loads without reading them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast, overload

import numpy as np

_CHUNK = 2**22  # Bytes that are checked at once.
_PAIRS = 2**16  # Pairs of texts that are compared at once.
_WORDS = 16  # Words of 8 bytes; pairs with a longer common start are compared singly.


class Texts(Sequence[str]):
    """An immutable sequence of strings in one buffer: 20 bytes per id instead of 150,
    memory-mapped, and pickled as two arrays.

    Args:
        data: UTF-8 bytes of all strings.
        offsets: Where each string begins in ``data``, and where the last one ends,
            ``[N + 1]``.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self.data, self.offsets = data, offsets
        # Many times as fast as single entries of arrays.
        self._data: Any = memoryview(cast(Any, data))
        self._offsets: Any = memoryview(cast(Any, offsets))

    @classmethod
    def pack(cls, strings: Iterable[str]) -> 'Texts':
        """Copies strings into a buffer."""
        encoded = [encode(text) for text in strings]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(x) for x in encoded], out=offsets[1:])
        return cls(np.frombuffer(bytearray().join(encoded), dtype=np.uint8), offsets)

    @classmethod
    def checked(
        cls, data: np.ndarray, offsets: np.ndarray, verify: bool = True
    ) -> 'Texts':
        """Arrays of a file; without ``verify`` only their types and ends are checked.

        Raises:
            ValueError: If they are not the buffer of strings.
        """
        valid = (
            data.dtype == np.uint8
            and offsets.dtype == np.int64
            and (data.ndim, offsets.ndim) == (1, 1)
            and len(offsets) > 0
            and (offsets[0], offsets[-1]) == (0, len(data))
            and (not verify or bool((offsets[1:] >= offsets[:-1]).all()))
        )
        if not valid:
            raise ValueError('offsets of texts are invalid')
        if verify:
            cls._check_characters(data, offsets)
        return cls(data, offsets)

    @staticmethod
    def _check_characters(data: np.ndarray, offsets: np.ndarray) -> None:
        starts = offsets[:-1][offsets[:-1] < len(data)]
        # No string may start within a character.
        if len(data) and (np.take(data, starts) & 0xC0 == 0x80).any():
            raise ValueError('a text begins within a character')
        start = 0
        while start < len(data):
            last = int(np.searchsorted(offsets, start + _CHUNK, side='right')) - 1
            if offsets[last] <= start:  # A text is longer than a chunk.
                last = int(np.searchsorted(offsets, start, side='right'))
            end = int(offsets[last])
            part = data[start:end]
            if part.max() >= 0x80:
                part.tobytes().decode('utf-8', 'surrogatepass')
            start = end

    def encoded(self, row: int) -> bytes:
        """One string as bytes."""
        return bytes(self._data[self._offsets[row] : self._offsets[row + 1]])

    def compare_next(self, rows: np.ndarray) -> np.ndarray:
        """The signs of the comparison of each of these texts with the next, without a
        loop over them: -1 if it is less, 0 if both are equal, 1 if it is greater.
        """
        padded = np.concatenate([self.data, np.zeros(8, np.uint8)])
        words = np.ndarray(len(padded) - 7, '>u8', padded, strides=(1,))
        signs = np.zeros(max(len(rows) - 1, 0), np.int8)
        for first in range(0, len(signs), _PAIRS):
            chunk = rows[first : first + _PAIRS + 1]
            self._compare(words, chunk, signs[first : first + _PAIRS])
        return signs

    def _compare(self, words: np.ndarray, rows: np.ndarray, signs: np.ndarray) -> None:
        start = self.offsets[rows]
        size = self.offsets[rows + 1] - start
        pairs = np.arange(len(signs))
        for position in range(0, 8 * _WORDS, 8):
            # Bytes behind the end of a text count as zeros, and the shorter is less.
            behind = 8 * (8 - np.clip(size - position, 0, 8)).astype(np.uint64)
            word = words[np.minimum(start + position, len(words) - 1)].astype(np.uint64)
            word = word >> behind << behind
            left, right = word[pairs], word[pairs + 1]
            is_equal = left == right
            signs[pairs] = np.where(left < right, -1, 1)
            is_longer = np.maximum(size[pairs], size[pairs + 1]) > position + 8
            ended = pairs[is_equal & ~is_longer]
            signs[ended] = np.sign(size[ended] - size[ended + 1])
            pairs = pairs[is_equal & is_longer]
            if not len(pairs):
                return
        for pair in pairs.tolist():
            a, b = (self.encoded(row) for row in rows[pair : pair + 2].tolist())
            signs[pair] = (a > b) - (a < b)

    def joined(self, other: 'Texts') -> 'Texts':
        """The strings of both."""
        return Texts(
            np.concatenate([self.data, other.data]),
            np.concatenate([self.offsets, other.offsets[1:] + len(self.data)]),
        )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f'row {row} of {len(self)}')
        return decode(self.encoded(row % len(self)))

    def __iter__(self) -> Iterator[str]:
        offsets = iter(self._offsets)
        start = next(offsets)
        for end in offsets:
            yield decode(bytes(self._data[start:end]))
            start = end

    def __reduce__(self) -> tuple[type['Texts'], tuple[np.ndarray, np.ndarray]]:
        return Texts, (self.data, self.offsets)


def encode(text: str) -> bytes:
    """UTF-8 of any string of Python, half of a surrogate pair included."""
    return text.encode('utf-8', 'surrogatepass')


def decode(content: bytes) -> str:
    """The string of :func:`encode`."""
    return content.decode('utf-8', 'surrogatepass')
