"""Columns of names and signed numbers."""

import math
from collections.abc import Sequence
from typing import Any


def decimals(size: float) -> int:
    """How many places show three digits of a number of this size; four at least.

    Example:
        >>> decimals(1.5), decimals(0.0002)
        (4, 6)
    """
    if not math.isfinite(size) or size <= 0:
        return 4
    return min(12, max(4, 2 - math.floor(math.log10(size))))


def columns(head: Sequence[str], rows: Sequence[Sequence[Any]], places: int) -> str:
    """Names to the left, numbers with their sign to the right.

    Args:
        head: A name a column.
        rows: A name and numbers each.
        places: Digits after the point.

    Example:
        >>> print(columns(['part', 'score'], [['id', 0.5]], 2))
        part  score
        id    +0.50
    """
    cells = [list(head)]
    for name, *numbers in rows:
        # Adding zero turns a rounded '-0.00' into '+0.00'.
        rounded = [round(number, places) + 0.0 for number in numbers]
        cells.append([str(name), *(f'{number:+.{places}f}' for number in rounded)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return '\n'.join(
        '  '.join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in cells
    )
