"""Argument checks, shared by every subpackage."""

import platform
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor


def check_positive(name: str, value: float) -> None:
    """Raises unless ``value > 0`` (NaN is not positive)."""
    if not value > 0:
        raise ValueError(f"'{name}' must be positive (got {value})")


def check_non_negative(name: str, value: float) -> None:
    """Raises unless ``value >= 0`` (NaN is not)."""
    if not value >= 0:
        raise ValueError(f"'{name}' must be zero or more (got {value})")


def check_probability(name: str, value: float) -> None:
    """Raises unless ``0 <= value < 1``, the range of a dropout rate."""
    if not 0 <= value < 1:
        raise ValueError(f"'{name}' must be in [0, 1) (got {value})")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        options = ', '.join(repr(c) for c in choices)
        raise ValueError(f"'{name}' must be one of {options} (got {value!r})")


def check_flag(name: str, value: object) -> None:
    """Raises unless ``value`` is a bool."""
    if not isinstance(value, bool):
        got = type(value).__name__
        raise TypeError(f"'{name}' must be True or False (got a {got})")


def check_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raises unless both tensors have one shape."""
    if a.size() != b.size():
        raise ValueError(
            f"'{name_a}' and '{name_b}' must have the same shape "
            f'(got {list(a.size())} and {list(b.size())})'
        )


def check_ids(name: str, index: Tensor, bound: int, what: str = 'ids') -> None:
    """Raises unless ``index`` holds integers in ``[0, bound)``."""
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"'{name}' must contain integers (got {index.dtype}). Convert them "
            f"with '.long()'"
        )
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < bound:
        raise ValueError(
            f"'{name}' requires {what} in [0, {bound}) (got {int(index.min())} to "
            f'{int(index.max())})'
        )


def checked_edges(
    edge_index: Tensor, size: tuple[int, int], name: str = 'edge_index'
) -> Tensor:
    """Edges as 64-bit ids, which products of ids need.

    Args:
        edge_index: Source and destination of each edge, ``[2, E]``.
        size: ``(num_src, num_dst)``.
        name: What a message calls them. (default: ``'edge_index'``)

    Raises:
        ValueError: Unless they are ``[2, E]`` integers within ``size``.
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"'{name}' must have shape [2, E] (got {list(edge_index.shape)})"
        )
    for end, index, bound in zip(('source', 'target'), edge_index, size, strict=True):
        check_ids(name, index, bound, f'{end} ids')
    return edge_index.long()


def check_finite_features(name: str, blocks: Iterable[Tensor]) -> None:
    """Raises if features, given some rows at a time, hold NaN or infinities."""
    bad = num = 0
    for x in blocks:
        bad += x.numel() - int(x.isfinite().sum())
        num += x.numel()
    if bad:
        raise ValueError(
            f"'{name}' requires finite features (got {bad} of {num} values that are "
            f'not). '
            f'Call the rows absent with a mask, or fill them'
        )


def versions(*packages: str) -> dict[str, str]:
    """The versions of installed packages and of Python."""
    found = {name: str(import_module(name).__version__) for name in packages}
    return {**found, 'python': platform.python_version()}


def check_folder(name: str, folder: Path) -> None:
    """Raises if there is no such folder.

    Args:
        name: The name of the argument, for the message.
        folder: Its value.
    """
    if not folder.exists():
        raise FileNotFoundError(f"'{name}' must exist (got '{folder}')")
    if not folder.is_dir():
        raise NotADirectoryError(f"'{name}' must be a folder (got the file '{folder}')")


def counted(number: int, word: str) -> str:
    """A number with its word: ``'1 error'``, ``'2 errors'``."""
    return f'{number} {word}' + 's' * (number != 1)


def missing_extra(caller: str, package: str, extra: str) -> ImportError:
    """The error to raise where a package of an extra is not installed.

    Args:
        caller: The name of the function or class.
        package: The package that it requires.
        extra: The extra of this package that installs it.
    """
    return ImportError(
        f"'{caller}' requires '{package}'. Install it with {how_to_install(extra)}"
    )


def how_to_install(extra: str) -> str:
    """The command that installs an extra, as it is in messages."""
    return f'\'pip install ".[{extra}]"\' in the folder of promptmm_pyg'
