"""The table of sparse products beside the bandwidth of the memory."""

from typing import Any


def roofline_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Time taken beside what the bandwidth alone would need; nothing without rows."""
    if not rows:
        return []
    cells = [
        f'| {row["graph"]} | {row["channels"]} | {row["median_ms"]:.2f} | '
        f'{row["alone_ms"]:.2f} | {row["once_ms"]:.2f} | {row["gb_per_s"]:.1f} | '
        f'{row["triad_gb_per_s"]:.1f} ({row["triad_best_gb_per_s"]:.1f}) | '
        f'{row["share"]:.0%} |'
        for row in rows
    ]
    return [
        '',
        'Product and gradient beside the bandwidth of the memory, measured by a triad '
        'in the same turns. *Gathered* counts a row for every edge, as if nothing '
        'stayed in a cache, *once* every row once; a share beyond 100 % means that '
        'rows came from the cache.',
        '',
        '| graph | channels | taken, ms | gathered alone, ms | once alone, ms | GB/s | '
        'triad, GB/s (best) | share |',
        '|---|---|---|---|---|---|---|---|',
        *cells,
    ]
