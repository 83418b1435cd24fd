"""Limits of files and arguments.

Beyond a limit an error is raised before memory is allocated. The guide ``limits`` of
the documentation has a table of them.
"""

import os
from pathlib import Path

MIB = 2**20

SETTINGS_BYTES = 64 * MIB
"""Bytes of a file of settings, of a run or of benchmark results (JSON)."""
TOML_BYTES = MIB
"""Bytes of a TOML file; its parser is slower than linear."""
DEPTH = 100
"""Nesting of JSON and TOML."""
NODES_PER_ROW, FREE_NODES = 100, 100_000
"""Numbered users or items per row of data, above a number that is always allowed."""
ID_LENGTH = 2**16
"""Characters of an id."""
ROWS_PER_BYTE, FREE_ROWS = 100, 10**7
"""Rows per byte of a Parquet file, above a number that is always allowed: no table of
distinct interactions has so many."""
TEXT_PER_BYTE, FREE_TEXT = 100, 256 * MIB
"""Bytes of text per byte of a compressed table, likewise: no table compresses so well.
"""
CONTENT_BYTES = 64 * MIB
"""Bytes of a text or a picture to encode."""
PIXELS = 2**26
"""Pixels of a picture to encode."""
PARSED_PER_BYTE = 8
"""Bytes of memory per byte of a JSON file or a list of ids, at most."""
WIDTH = 2**16
"""Columns of embeddings, features and prompts."""
LAYERS = 64
"""Layers of a model."""
PROCESSES = 1024
"""Processes of a benchmark."""


def check_memory(
    name: str, needed: int, fix: str, available: int | None = None
) -> None:
    """Raises if more memory is needed than this process can still use.

    Args:
        name: The file or argument in quotes, for the message.
        needed: Bytes.
        fix: The end of the message.
        available: Bytes that can be used. (default: measured)

    Example:
        >>> check_memory("'a.npy'", 3 * MIB, 'Split it', available=MIB)
        Traceback (most recent call last):
        ValueError: 'a.npy' must fit into 1 MiB of free memory (got 3 MiB). Split it
    """
    if needed < 16 * MIB and available is None:
        return
    free = available_memory() if available is None else available
    if needed > free:
        raise ValueError(
            f'{name} must fit into {free // MIB} MiB of free memory (got '
            f'{needed // MIB} MiB). {fix}'
        )


def available_memory(group: Path = Path('/sys/fs/cgroup')) -> int:
    """Bytes that can still be used, within the limit of a container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (
            int((group / f'memory.{name}').read_text(encoding='utf-8'))
            for name in ('max', 'current')
        )
    except (OSError, ValueError):  # The text 'max' means that there is no limit.
        return free
    return min(free, max(0, limit - used))


def total_memory(group: Path = Path('/sys/fs/cgroup')) -> int:
    """Bytes of the machine, within the limit of a container."""
    import psutil

    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int((group / 'memory.max').read_text(encoding='utf-8')))
    except (OSError, ValueError):  # The text 'max' means that there is no limit.
        return total


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # psutil has it on some systems only.
        return len(os.sched_getaffinity(0))
    import psutil

    return psutil.cpu_count() or 1
