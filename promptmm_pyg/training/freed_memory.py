"""Memory that tensors have freed, kept for the next ones."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # Of <malloc.h>.
_MOST = 2**31 - 1


def tune_allocator() -> bool:
    """Lets this process keep the memory that its tensors have freed.

    The C library of Linux gives a block of more than 32 MiB back to the system as soon
    as it is freed, so on a large graph every table, gradient and product of every step
    is paid for in page faults again. Kept, the same memory serves the next step. Call
    it once, before training. What the process needed at its peak stays its own to the
    end, and a little more, as free memory comes in pieces.

    Returns:
        Whether it is so now; ``False`` where the C library is another than glibc, whose
        ``mallopt`` this sets.
    """
    if not sys.platform.startswith('linux'):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, 'gnu_get_libc_version'):
        return False
    return all(
        library.mallopt(option, value) == 1
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST))
    )
