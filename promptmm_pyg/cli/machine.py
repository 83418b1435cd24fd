"""What the machine has: cores, memory, and how much of it was used."""

import math
import os
import sys
from pathlib import Path

GIB = 1 << 30


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(
    meminfo: Path = Path('/proc/meminfo'), group: Path = Path('/sys/fs/cgroup')
) -> int | None:
    """Bytes that can still be used, with the limit of a container; ``None`` where the
    system does not tell.

    Args:
        meminfo: Linux' file on memory.
        group: Folder of the control group, which limits containers.
    """
    free = []
    try:
        lines = meminfo.read_text(encoding='utf-8').splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith('MemAvailable'))
        free.append(1024 * int(kib))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        limit, used = (
            int((group / f'memory.{name}').read_text(encoding='utf-8'))
            for name in ('max', 'current')
        )
        free.append(max(0, limit - used))
    except (OSError, ValueError):  # 'max' is no number: there is no limit.
        pass
    return min(free, default=None)


def peak_memory() -> int | None:
    """The most bytes that this process has held at once; ``None`` on Windows."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == 'darwin' else 1024 * most


def bytes_text(count: float) -> str:
    """A number of bytes for people.

    Example:
        >>> bytes_text(3 * 1024 * 1024), bytes_text(12)
        ('3.0 MiB', '12 bytes')
    """
    units = ('bytes', 'KiB', 'MiB', 'GiB')
    power = min(len(units) - 1, max(0, math.floor(math.log(max(count, 1), 1024))))
    number = count / 1024**power
    return f'{number:.0f} bytes' if power == 0 else f'{number:.1f} {units[power]}'


def seconds_text(seconds: float) -> str:
    """A time for people, to two or three digits.

    Example:
        >>> seconds_text(0.0123), seconds_text(95), seconds_text(7500)
        ('0.012 s', '1 min 35 s', '2 h 5 min')
    """
    if seconds < 10:
        return f'{seconds:.2g} s'
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60} s'
    minutes = round(seconds / 60)
    return f'{minutes // 60} h {minutes % 60} min'
