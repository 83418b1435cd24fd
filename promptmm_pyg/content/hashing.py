"""Rows of numbers from text without a model."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from promptmm_pyg._utils import check_positive
from promptmm_pyg.content.encoder import Rows

_UInt = np.ndarray[Any, np.dtype[np.uint64]]
_WORD = re.compile(r'\w+')
# Odd constants: multiplication by them loses no bit of 64.
_CHAR = np.uint64(0x9E3779B97F4A7C15)
_NEXT = np.uint64(0xD6E8FEB86659FD93)
_KINDS = (np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB))


class HashingTextEncoder:
    """Rows of length one that count, under signed hashes, the words and the
    runs of letters of a text.

    `"Feature Hashing for Large Scale Multitask Learning"
    <https://arxiv.org/abs/0902.2206>`_: an n-gram :math:`g` that occurs
    :math:`n_g` times adds :math:`s(g) (1 + \\ln n_g)` to entry :math:`h(g)`,
    with :math:`s(g) = \\pm 1`. Inner products of rows are then near the cosine of
    the counts. Words and letters are brought to one length before they are added,
    so that the many letters do not drown the few words.

    Nothing is trained, downloaded or random, and the rows of a text are the same
    in every process. Case and compatibility forms (NFKC) are folded; n-grams of
    letters stay within a word, whose two ends count as letters. A text without a
    word gives a row of zeros.

    Args:
        width: Numbers in a row. (default: ``1024``)
        words: Shortest and longest runs of words. (default: ``(1, 2)``)
        letters: Shortest and longest runs of letters, or ``None`` for none.
            (default: ``(3, 5)``)

    Raises:
        ValueError: If the width is not positive or a range is not rising from one.

    Example:
        >>> rows = HashingTextEncoder().encode(['red shoes', 'Red shoe', 'a lamp'])
        >>> similar, different = rows[1:] @ rows[0]
        >>> bool(similar > 0.5 > different)
        True
    """

    takes: Literal['text'] = 'text'

    def __init__(
        self,
        width: int = 1024,
        *,
        words: tuple[int, int] = (1, 2),
        letters: tuple[int, int] | None = (3, 5),
    ) -> None:
        check_positive('width', width)
        _check_range('words', words)
        if letters is not None:
            _check_range('letters', letters)
        self.width = int(width)
        self.words = words
        self.letters = letters

    @property
    def fingerprint(self) -> str:
        """The settings and the version of the hash; the Unicode tables too, by
        which letters are folded.
        """
        return (
            f'hashing-v1 width={self.width} words={self.words} letters={self.letters} '
            f'unicode={unicodedata.unidata_version}'
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self.width}, words={self.words}, '
            f'letters={self.letters})'
        )

    def encode(self, batch: Sequence[str]) -> Rows:
        """Rows ``[len(batch), width]``, float32."""
        rows = np.zeros((len(batch), self.width), np.float64)
        for row, text in zip(rows, batch, strict=True):
            folded = unicodedata.normalize('NFKC', text).casefold()
            words = _WORD.findall(folded)
            if words:
                self._fill(row, words)
        return rows.astype(np.float32)

    def _fill(self, row: Rows, words: list[str]) -> None:
        padded = f' {" ".join(words)} '
        codes = np.frombuffer(padded.encode('utf-32-le'), '<u4').astype(np.uint64)
        self._add(row, _runs_of_words(codes, self.words), _KINDS[0])
        if self.letters is not None:
            self._add(row, _runs_of_letters(codes, self.letters), _KINDS[1])
        length = float(np.sqrt(row @ row))
        if length > 0:
            row /= length

    def _add(self, row: Rows, runs: Iterator[_UInt], kind: np.uint64) -> None:
        grams, counts = np.unique(np.concatenate([*runs]), return_counts=True)
        if not grams.size:
            return
        hashes = _mix(grams ^ kind)
        sign = 1.0 - 2.0 * (hashes >> np.uint64(63)).astype(np.float64)
        place = (hashes % np.uint64(self.width)).astype(np.int64)
        values = sign * (1.0 + np.log(counts))
        part = np.bincount(place, values, minlength=self.width)
        length = float(np.sqrt(part @ part))
        if length > 0:  # Opposite signs in one place may leave nothing.
            row += part / length


def _check_range(name: str, value: tuple[int, int]) -> None:
    if len(value) != 2 or not 1 <= value[0] <= value[1]:
        raise ValueError(
            f"'{name}' must be a shortest and a longest length from 1 (got {value})"
        )


def _mix(x: _UInt) -> _UInt:
    """A one-to-one map of 64 bits in which each bit in moves every bit out."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _runs_of_words(codes: _UInt, lengths: tuple[int, int]) -> Iterator[_UInt]:
    spaces = np.flatnonzero(codes == ord(' '))
    # Of a run from one space to the next, position by position from its start.
    offset = np.arange(codes.size, dtype=np.int64)
    offset -= np.repeat(spaces, np.diff([*spaces, codes.size]))
    powers = np.cumprod(np.full(int(offset.max()) + 1, _CHAR))
    words = _mix(np.add.reduceat(codes * powers[offset], spaces)[:-1])
    yield from _runs(words, lengths)


def _runs_of_letters(codes: _UInt, lengths: tuple[int, int]) -> Iterator[_UInt]:
    inner = np.cumsum(codes == ord(' '))
    for length, runs in enumerate(_runs(_mix(codes), lengths), lengths[0]):
        # A space may only be at an end: else the run is part of two words.
        first = inner[: runs.size]
        last = inner[length - 2 : length - 2 + runs.size] if length > 1 else first
        whole = first == last
        if length == 1:
            whole = codes != ord(' ')
        yield runs[whole]


def _runs(parts: _UInt, lengths: tuple[int, int]) -> Iterator[_UInt]:
    """Hashes of ``n`` neighbours each, for every length ``n``."""
    for length in range(lengths[0], lengths[1] + 1):
        count = max(parts.size - length + 1, 0)
        runs = np.full(count, length, np.uint64)
        for start in range(length):
            runs = runs * _NEXT + parts[start : start + count]
        yield runs
