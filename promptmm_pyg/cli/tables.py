"""Tables and intervals as text."""

import math
from collections.abc import Sequence

from promptmm_pyg.evaluation import Interval


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns wide enough for what they hold: text to the left, numbers to the
    right with four places.

    Example:
        >>> print(table(['model', 'Recall@20'], [['student', 0.25]]))
        model    Recall@20
        student     0.2500
    """
    cells = [list(head), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    right = [
        all(isinstance(row[column], int | float | None) for row in rows)
        for column in range(len(head))
    ]
    lines = []
    for row in cells:
        aligned = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append('  '.join(aligned).rstrip())
    return '\n'.join(lines)


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '-'
    return f'{value:.4f}' if isinstance(value, float) else str(value)


def interval_text(interval: Interval) -> str:
    """A difference with its interval, and whether it can be told from none."""
    verdict = 'clear' if interval.significant else 'not clear: zero is inside'
    return (
        f'{interval.difference:+.4f}  [{interval.low:+.4f}, {interval.high:+.4f}]  '
        f'{verdict}'
    )
