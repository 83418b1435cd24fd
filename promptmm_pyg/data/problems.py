"""Errors of data that are raised at once, or collected to be listed together."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[list[str] | None] = ContextVar('collected', default=None)


@contextmanager
def collect_errors() -> Iterator[list[str]]:
    """Within the block, :func:`data_error` adds to the list it returns.

    Example:
        >>> with collect_errors() as errors:
        ...     data_error("'a' must be positive (got -1)")
        >>> errors
        ["'a' must be positive (got -1)"]
    """
    errors: list[str] = []
    token = _collected.set(errors)
    try:
        yield errors
    finally:
        _collected.reset(token)


def data_error(message: str) -> None:
    """Raises a ``ValueError``; within :func:`collect_errors` the caller continues
    without the data that are wrong.
    """
    errors = _collected.get()
    if errors is None:
        raise ValueError(message)
    errors.append(message)
