"""Ways to damage a file, each drawn from a random number generator."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

_NUMBERS = (
    *('-1', '1e309', 'NaN', 'Infinity', '1000000000000', '99999999999999999999999'),
    *('2147483648', '9223372036854775808', '0', '""', 'null', 'true', '[]', '{}'),
    *('1' * 5000, '"x"', '-9223372036854775809', '1e12', '0.5'),
)
_WORDS = (
    *(
        b'\x00',
        b'\xff\xfe',
        b'\xef\xbb\xbf',
        b'\x1b[31m',
        b'"',
        b"'",
        b'\n',
        b'\r',
        b'\t',
    ),
    *(
        b',',
        b'{"a":' * 2000,
        b'[' * 100_000,
        b'a' * 20_000,
        b'{}',
        b'[]',
        b'null',
        b'-',
    ),
    *(b'\xed\xa0\x80', b'\\ud800', b'=cmd()', b'../../x', b'#', b'\xe2\x80\xae'),
    *(b'a.' * 3000 + b'a=1\n', b'[[', b']]', b'NaN', b'1e999', b'9' * 30),
)


def _digits(content: bytes) -> list[tuple[int, int]]:
    runs, start = [], None
    for place, byte in enumerate(content + b'x'):
        if 48 <= byte <= 57:
            start = place if start is None else start
        elif start is not None:
            runs.append((start, place))
            start = None
    return runs


def _flip(content: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 1, 3, 20))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _printable(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(len(content))] = draw.randrange(32, 127)


def _header(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(min(len(content), 400))] = draw.randrange(256)


def _end(content: bytearray, draw: random.Random) -> None:
    content[-1 - draw.randrange(min(len(content), 400))] = draw.randrange(256)


def _truncate(content: bytearray, draw: random.Random) -> None:
    del content[draw.randrange(len(content)) :]


def _extend(content: bytearray, draw: random.Random) -> None:
    content += draw.randbytes(draw.choice((1, 8, 1000)))


def _fill(content: bytearray, draw: random.Random) -> None:
    start, size = draw.randrange(len(content)), draw.choice((1, 4, 8, 64, 4096))
    size = min(size, len(content) - start)
    fill = draw.choice((b'\0' * size, b'\xff' * size, draw.randbytes(size)))
    content[start : start + size] = fill


def _delete(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(content))
    del content[start : start + draw.choice((1, 2, 8, 100))]


def _repeat(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(content))
    part = bytes(content[start : start + draw.choice((1, 8, 100, 4096))])
    content[start:start] = part * draw.choice((1, 2, 50))


def _insert(content: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(content))
    content[start:start] = draw.choice(_WORDS)


def _number(content: bytearray, draw: random.Random) -> None:
    runs = _digits(bytes(content))
    if runs:
        start, end = draw.choice(runs)
        content[start:end] = draw.choice(_NUMBERS).encode()


def _length(content: bytearray, draw: random.Random) -> None:
    """A huge little-endian integer, as lengths of binary formats are."""
    start = draw.randrange(len(content))
    size = draw.choice((4, 8))
    value = draw.choice((2**31 - 1, 2**31, 10**9, 2**26))
    content[start : start + size] = value.to_bytes(size, 'little')


def _garbage(content: bytearray, draw: random.Random) -> None:
    content[:] = draw.randbytes(draw.choice((1, 100, 10_000)))


def _empty(content: bytearray, draw: random.Random) -> None:
    content.clear()


def _zeros(content: bytearray, draw: random.Random) -> None:
    content[:] = bytes(len(content))


CONTENT: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip, _flip, _printable, _header, _end, _truncate, _extend, _fill),
    *(_delete, _repeat, _insert, _insert, _number, _number, _number, _length),
    *(_garbage, _empty, _zeros),
)


def _as_folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _as_pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _as_loop(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _as_device(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to('/dev/zero')


def _missing(path: Path, draw: random.Random) -> None:
    path.unlink()


def _swap(path: Path, draw: random.Random) -> None:
    """The content of another file of the folder, or of the same kind."""
    files = [x for x in path.parent.rglob('*') if x.is_file() and x != path]
    if files:
        shutil.copyfile(draw.choice(files), path)


PLACES = (_as_folder, _as_pipe, _as_loop, _as_device, _missing, _swap, _swap)


def damage(path: Path, draw: random.Random, others: list[bytes] = ()) -> str:  # type: ignore[assignment]
    """Damages a file in one or two ways; returns which."""
    if draw.random() < 0.06:
        change = draw.choice(PLACES)
        change(path, draw)
        return change.__name__
    content = bytearray(path.read_bytes())
    if others and draw.random() < 0.02:
        path.write_bytes(draw.choice(others))
        return 'other kind'
    names = []
    for _ in range(draw.choice((1, 1, 1, 2))):
        if content:
            mutate = draw.choice(CONTENT)
            mutate(content, draw)
            names.append(mutate.__name__)
    path.write_bytes(content)
    return '+'.join(names)
