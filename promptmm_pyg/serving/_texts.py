"""Strings in one buffer, which loads without reading them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast, overload

import numpy as np

_CHUNK = 2**22  # Bytes that are checked at once.


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
    def checked(cls, data: np.ndarray, offsets: np.ndarray) -> 'Texts':
        """Arrays of a file.

        Raises:
            ValueError: If they are not the buffer of strings.
        """
        valid = (
            data.dtype == np.uint8
            and offsets.dtype == np.int64
            and (data.ndim, offsets.ndim) == (1, 1)
            and len(offsets) > 0
            and (offsets[0], offsets[-1]) == (0, len(data))
            and bool((offsets[1:] >= offsets[:-1]).all())
        )
        if not valid:
            raise ValueError('offsets of texts are invalid')
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
        return cls(data, offsets)

    def encoded(self, row: int) -> bytes:
        """One string as bytes."""
        return bytes(self._data[self._offsets[row] : self._offsets[row + 1]])

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
