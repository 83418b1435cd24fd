"""What a safetensors file says it holds, checked before it is read."""

import json
import math
import struct
from typing import Any, BinaryIO

_MAX_HEADER = 2**20
_SIZES = dict.fromkeys(('F64', 'I64'), 8)
_SIZES |= dict.fromkeys(('F32', 'I32'), 4)
_SIZES |= dict.fromkeys(('F16', 'BF16', 'I16'), 2)
_SIZES |= dict.fromkeys(('I8', 'U8', 'BOOL'), 1)


def check_header(file: BinaryIO, size: int) -> None:
    """Raises unless the header is sound and its tensors fill the file exactly.

    Args:
        file: A file at its beginning; it is left behind the header.
        size: How many bytes there are in all.

    Raises:
        ValueError: If anything does not fit.
    """
    start = file.read(8)
    if len(start) < 8:
        raise ValueError(f'it is {size} bytes short, no safetensors file')
    (length,) = struct.unpack('<Q', start)
    if length > min(_MAX_HEADER, size - 8):
        raise ValueError(
            f'its header claims {length} bytes, more than the {_MAX_HEADER} allowed or '
            f'the {size} there are'
        )
    ranges = sorted(_ranges(parse(file.read(length))))
    end = 0
    for first, last in ranges:
        if first != end:
            raise ValueError('its tensors overlap or leave gaps')
        end = last
    if 8 + length + end != size:
        raise ValueError(
            f'its header describes {8 + length + end} bytes and there are {size}'
        )


def parse(content: bytes) -> Any:
    """The object that JSON of any depth and origin stands for.

    Raises:
        ValueError: If it is not JSON or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError('it is nested too deeply') from error


def _ranges(header: Any) -> list[tuple[int, int]]:
    if not isinstance(header, dict):
        raise ValueError('its header is no JSON object')
    return [
        _range(name, entry) for name, entry in header.items() if name != '__metadata__'
    ]


def _range(name: str, entry: Any) -> tuple[int, int]:
    try:
        shape, (first, last) = entry['shape'], entry['data_offsets']
        width = _SIZES[entry['dtype']]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'its header does not describe {name!r} ({error!r})'
        ) from error
    numbers = [*shape, first, last] if isinstance(shape, list) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f'its header gives {name!r} no sound shape')
    if math.prod(shape) * width != last - first:
        raise ValueError(f'its header gives {name!r} another size than its shape')
    return first, last
