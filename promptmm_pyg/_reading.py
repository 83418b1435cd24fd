"""Files that are read: regular, of limited size, and as they were written."""

import hashlib
import json
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from promptmm_pyg.limits import DEPTH, PARSED_PER_BYTE, SETTINGS_BYTES, check_memory

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar('T')
CHECKSUM = 'sha256'
# What parsers of damaged files raise.
DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def check_file(path: Path, max_bytes: int | None = None) -> int:
    """The size of a regular file.

    Args:
        path: The file.
        max_bytes: Its largest size. (default: any)

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is a folder, a device or a pipe, or larger.
    """
    try:
        str(path).encode()  # PyArrow and safetensors open no other names.
        status = path.stat()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{path}' must be a file (got none)") from error
    except ValueError as error:  # Also a NUL in the name.
        raise ValueError(
            f'{str(path)!r} must be the name of a file in UTF-8 ({error}). Rename it'
        ) from error
    if not stat.S_ISREG(status.st_mode):
        kind = 'a folder' if stat.S_ISDIR(status.st_mode) else 'a device or pipe'
        raise ValueError(f"'{path}' must be a file (got {kind})")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(
            f"'{path}' must have at most {max_bytes} bytes (got {status.st_size}). Is "
            f'it the right file?'
        )
    return status.st_size


def check_parsed_size(path: Path) -> None:
    """Raises if a file is missing, or larger than what fits into memory once parsed."""
    needed = PARSED_PER_BYTE * check_file(path)
    check_memory(f"'{path}'", needed, 'Use a machine with more memory')


def read_json(path: Path, max_bytes: int = SETTINGS_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, too large or nested too deeply.
    """
    return _parse(path, max_bytes, 'JSON', json.loads)


def read_toml(path: Path, max_bytes: int) -> dict[str, Any]:
    """The content of a TOML file; errors as in :func:`read_json`."""
    table: dict[str, Any] = _parse(path, max_bytes, 'TOML', _parse_toml)
    return table


def _parse_toml(text: str) -> dict[str, Any]:
    # The time of the parser is quadratic in the parts of a dotted key.
    for line in text.split('\n'):
        dots = line.count('.')
        if dots > DEPTH and not line.lstrip().startswith('#'):
            dots -= len(re.findall(r'\d\.\d', line))
            if dots > DEPTH:
                raise ValueError(f'a line with {dots} dots besides those of numbers')
    return tomllib.loads(text)


def _parse(path: Path, max_bytes: int, kind: str, parse: Callable[[str], T]) -> T:
    check_file(path, max_bytes)
    try:
        value = parse(path.read_bytes().decode('utf-8-sig'))
    except DAMAGE as error:
        what = ' '.join(f'{error}'.split())[:200] or type(error).__name__
        raise ValueError(
            f"'{path}' must be {kind} (got {what}). If it is damaged, restore it"
        ) from error
    level: list[Any] = [value]
    for _ in range(DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
    if level:
        raise ValueError(
            f"'{path}' must have at most {DEPTH} levels of nesting (got more). Restore "
            f'the file'
        )
    return value


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def checksum(tensors: 'Mapping[str, Tensor]', metadata: Mapping[str, str]) -> str:
    """The SHA-256 of tensors and metadata."""
    import torch

    digest = hashlib.sha256()
    about = {key: value for key, value in metadata.items() if key != CHECKSUM}
    digest.update(json.dumps(about, sort_keys=True).encode())
    for key, x in sorted(tensors.items()):
        digest.update(json.dumps([key, str(x.dtype), list(x.shape)]).encode())
        flat = x.detach().cpu().contiguous().as_strided((x.numel(),), (1,))
        content = flat.view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def read_tensors(
    path: str | Path,
    kind: str | None,
    what: str,
    parse: 'Callable[[dict[str, str], dict[str, Tensor]], T]',
) -> T:
    """Reads a safetensors file of this package and compares its checksum.

    Args:
        path: The file.
        kind: The value that the metadata must have as ``format``.
        what: The file in words, for errors.
        parse: Returns the content from the metadata and the memory-mapped tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, damaged or of another format.
        PermissionError: If it may not be read.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"'path' must be {what} (got {str(path)!r})")
    with path.open('rb'):  # safetensors reports a file without permission as missing.
        pass
    try:
        with safe_open(path, framework='pt') as file:
            metadata = dict(file.metadata() or {})
            if metadata.get('format') != kind:
                raise ValueError(f'of format {metadata.get("format")!r}')
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.get(CHECKSUM) != checksum(tensors, metadata):
            raise ValueError('its checksum is not that of its content')
        return parse(metadata, tensors)
    except (*DAMAGE, SafetensorError, RuntimeError, OSError) as error:
        problem = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        raise ValueError(
            f"'path' must be {what} (got {str(path)!r}, truncated or no safetensors "
            f'file of this kind: {problem}). Delete it and save it again'
        ) from error
