"""Charts as inline SVG; colors come from the page's style, by class."""

import math
from collections.abc import Mapping, Sequence

from promptmm_pyg.report.content import Bar, Curve
from promptmm_pyg.report.text import safe, short

WIDTH = 400  # Narrow, so that letters stay readable on a phone.
NUM_COLORS = 6
PLAIN = NUM_COLORS  # For what is no model.
_BAR = 20


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover ``low`` to ``high``, about ``count`` steps.

    Example:
        >>> nice_ticks(0.0, 0.37)
        [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * x for x in (1, 2, 5, 10) if power * x >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


class _Scale:
    """A straight map from values to places."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.slope = (end - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + self.slope * (value - self.low)


def line_chart(
    curves: Mapping[str, Curve],
    colors: Mapping[str, int],
    y: str,
    about: str,
    *,
    from_zero: bool = True,
) -> str:
    """A line over the epochs for each model, and a ring around the epoch kept.

    Args:
        curves: By name.
        colors: Color by name.
        y: What is measured.
        about: What the chart shows, for those who cannot see it.
        from_zero: Whether the axis reaches down to zero. (default: ``True``)
    """
    height, left, bottom = 270, 52, 226
    epochs = [epoch for curve in curves.values() for epoch in curve.epochs]
    values = [value for curve in curves.values() for value in curve.values]
    first, last = min(epochs), max(epochs)
    x_ticks = [tick for tick in nice_ticks(first, last) if first <= tick <= last]
    x_ticks = [tick for tick in x_ticks if tick % 1 == 0]
    low = min(0.0, *values) if from_zero else min(values)
    y_ticks = nice_ticks(low, max(values))
    to_x = _Scale(first, last, left + 8, WIDTH - 14)
    to_y = _Scale(y_ticks[0], y_ticks[-1], bottom, 14)
    parts = []
    for tick in y_ticks:
        parts.append(_line(left, to_y(tick), WIDTH - 8, to_y(tick), 'grid'))
        parts.append(_text(left - 6, to_y(tick) + 4, f'{tick:g}', 'end'))
    for tick in x_ticks:
        parts.append(_line(to_x(tick), bottom, to_x(tick), bottom + 4, 'axis'))
        parts.append(_text(to_x(tick), bottom + 18, f'{tick:g}', 'middle'))
    parts.append(_line(left, bottom, WIDTH - 8, bottom, 'axis'))
    for name, curve in curves.items():
        parts.append(_curve(curve, colors[name], to_x, to_y))
    parts.append(_text((left + WIDTH) / 2, height - 4, 'epoch', 'middle'))
    parts.append(
        f'<text class="label" text-anchor="middle" '
        f'transform="translate(12 {bottom / 2:.0f}) rotate(-90)">{safe(y)}</text>'
    )
    return _svg(height, parts, about)


def _curve(curve: Curve, color: int, to_x: _Scale, to_y: _Scale) -> str:
    places = [
        (to_x(epoch), to_y(value))
        for epoch, value in zip(curve.epochs, curve.values, strict=True)
    ]
    points = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
    drawn = f'<polyline class="line c{color}" points="{points}"/>'
    if len(places) == 1:  # A line of one point cannot be seen.
        drawn += f'<circle class="dot c{color}" cx="{places[0][0]:.1f}" '
        drawn += f'cy="{places[0][1]:.1f}" r="3"/>'
    if curve.kept is not None:
        x, y = places[curve.epochs.index(curve.kept)]
        drawn += f'<circle class="ring c{color}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    return drawn


def bar_chart(
    groups: Sequence[tuple[str, Mapping[str, Bar]]],
    colors: Mapping[str, int],
    x: str,
    about: str,
    *,
    digits: int = 4,
    signed: bool = False,
) -> str:
    """Bars from zero to the right, or to both sides, group below group, with intervals
    as whiskers and values at the margin.

    Args:
        groups: A heading, which may be empty, and bars by name, for each group.
        colors: Color by name.
        x: What is measured.
        about: What the chart shows, for those who cannot see it.
        digits: Places of the values. (default: ``4``)
        signed: Whether values show their sign. (default: ``False``)
    """
    bars = [bar for _, group in groups for bar in group.values()]
    ends = [end for bar in bars for end in bar if end is not None]
    ticks = nice_ticks(min(0.0, *ends), max(0.0, *ends))
    names = [name for _, group in groups for name in group]
    left = 22 + 7 * min(18, max(len(name) for name in names))
    right = WIDTH - 64
    to_x = _Scale(ticks[0], ticks[-1], left, right)
    parts: list[str] = []
    y = 4.0
    for heading, group in groups:
        if heading:
            parts.append(_text(4, y + 15, short(heading, 48), 'start', 'heading'))
            y += 22
        bottom = y + _BAR * len(group)
        # Not through the headings.
        parts += [_line(to_x(tick), y, to_x(tick), bottom, 'grid') for tick in ticks]
        for name, bar in group.items():
            parts.append(_bar(name, bar, colors[name], y, to_x))
            sign = '+' if signed else ''
            value = f'{bar.value:{sign}.{digits}f}'
            parts.append(_text(WIDTH - 4, y + 14, value, 'end'))
            y += _BAR
        parts.append(_line(to_x(0.0), bottom - _BAR * len(group), to_x(0.0), y, 'axis'))
        y += 6
    parts += [_text(to_x(tick), y + 12, f'{tick:g}', 'middle') for tick in ticks]
    parts.append(_text((left + right) / 2, y + 30, x, 'middle'))
    return _svg(math.ceil(y) + 38, parts, about)


def _bar(name: str, bar: Bar, color: int, y: float, to_x: _Scale) -> str:
    start, end = sorted((to_x(0.0), to_x(bar.value)))
    drawn = (
        f'<g><title>{safe(name)}</title>'
        f'{_text(12, y + 14, short(name, 18), "start")}'
        f'<rect class="bar c{color}" x="{start:.1f}" y="{y + 3:.1f}" '
        f'width="{end - start:.1f}" height="{_BAR - 6}"/>'
    )
    if bar.low is not None and bar.high is not None:
        middle = y + _BAR / 2
        drawn += _line(to_x(bar.low), middle, to_x(bar.high), middle, 'whisker')
        for edge in (to_x(bar.low), to_x(bar.high)):
            drawn += _line(edge, middle - 4, edge, middle + 4, 'whisker')
    return drawn + '</g>'


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    start, end = f'x1="{x1:.1f}" y1="{y1:.1f}"', f'x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{name}" {start} {end}/>'


def _text(x: float, y: float, text: str, anchor: str, name: str = 'label') -> str:
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f'{safe(text)}</text>'
    )


def _svg(height: int, parts: Sequence[str], about: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{safe(about)}">'
        f'{"".join(parts)}</svg>'
    )
