"""Argument checks shared by every subpackage; imports :mod:`torch` only."""

from collections.abc import Iterable

from torch import Tensor


def check_positive(name: str, value: float) -> None:
    """Raises unless ``value > 0`` (NaN is not positive)."""
    if not value > 0:
        raise ValueError(f"'{name}' needs to be positive (got {value})")


def check_non_negative(name: str, value: float) -> None:
    """Raises unless ``value >= 0`` (NaN is not)."""
    if not value >= 0:
        raise ValueError(f"'{name}' needs to be zero or more (got {value})")


def check_probability(name: str, value: float) -> None:
    """Raises unless ``0 <= value < 1``, the range of a dropout rate."""
    if not 0 <= value < 1:
        raise ValueError(f"'{name}' needs to lie in [0, 1) (got {value})")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        options = ', '.join(repr(c) for c in choices)
        raise ValueError(f"'{name}' needs to be one of {options} (got {value!r})")


def check_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raises unless both tensors have one shape."""
    if a.size() != b.size():
        raise ValueError(
            f"'{name_a}' and '{name_b}' need to have the same shape "
            f'(got {list(a.size())} and {list(b.size())})'
        )
