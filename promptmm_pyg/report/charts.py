"""The geometry of charts, which the template draws as inline SVG; colors come from
the style of the page, by class.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from promptmm_pyg.report.content import Bar, Curve

WIDTH = 400  # Narrow, so that letters stay readable on a phone.
NUM_COLORS = 7
NEUTRAL = NUM_COLORS
_BAR = 20


class Shape(NamedTuple):
    """An SVG element."""

    tag: str
    attributes: dict[str, Any]
    text: str = ''
    children: tuple['Shape', ...] = ()


class Chart(NamedTuple):
    """A picture; ``label`` is its text for screen readers."""

    height: int
    shapes: list[Shape]
    label: str
    width: int = WIDTH


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``count + 1``.

    Example:
        >>> nice_ticks(0.0, 0.37)
        [0.0, 0.1, 0.2, 0.3]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * x for x in (1, 2, 5, 10) if power * x >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(tick * step, 12) for tick in range(first, last + 1)]


def shorten(text: str, length: int) -> str:
    """Text of at most ``length`` characters.

    Example:
        >>> shorten('a long name', 7)
        'a long…'
    """
    return text if len(text) <= length else f'{text[: length - 1]}…'


class _Scale:
    """A linear map from the range of ``values`` to positions, with round ticks; a range
    of one value is extended.
    """

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        numbers = list(values)
        self.low, high = min(numbers), max(numbers)
        high = high if high > self.low else self.low + (abs(self.low) or 1.0)
        self.start, self.slope = start, (end - start) / (high - self.low)
        self.ticks = nice_ticks(self.low, high)

    def __call__(self, value: float) -> float:
        return self.start + self.slope * (value - self.low)


def line_chart(
    curves: Mapping[str, Curve],
    colors: Mapping[str, int],
    y: str,
    label: str,
    *,
    x: str = 'epoch',
) -> Chart:
    """A line per model over the epochs, with a ring at the best epoch; ``x`` and ``y``
    name the axes, which fit the values.
    """
    height, left, bottom = 270, 52, 226
    to_x = _Scale((n for c in curves.values() for n in c.epochs), left + 8, WIDTH - 14)
    to_y = _Scale((v for c in curves.values() for v in c.values), bottom - 8, 14)
    shapes = []
    for tick in to_y.ticks:
        shapes.append(_line(left, to_y(tick), WIDTH - 8, to_y(tick), 'grid'))
        shapes.append(_text(left - 6, to_y(tick) + 4, f'{tick:g}', 'end'))
    for tick in to_x.ticks:
        if tick % 1 == 0:
            shapes.append(_line(to_x(tick), bottom, to_x(tick), bottom + 4, 'axis'))
            shapes.append(_text(to_x(tick), bottom + 18, f'{tick:g}', 'middle'))
    shapes.append(_line(left, bottom, WIDTH - 8, bottom, 'axis'))
    for name, curve in curves.items():
        points = [
            (to_x(epoch), to_y(value))
            for epoch, value in zip(curve.epochs, curve.values, strict=True)
        ]
        color = f'c{colors[name]}'
        path = ' '.join('{:.1f},{:.1f}'.format(*point) for point in points)
        shapes.append(Shape('polyline', {'class': f'line {color}', 'points': path}))
        if len(points) == 1:  # A line through one point is invisible.
            shapes.append(_circle(points[0], 3, f'dot {color}'))
        if curve.best is not None:
            best = points[curve.epochs.index(curve.best)]
            shapes.append(_circle(best, 5, f'ring {color}'))
    shapes.append(_text((left + WIDTH) / 2, height - 4, x, 'middle'))
    rotated = {
        'class': 'label',
        'text-anchor': 'middle',
        'transform': f'translate(12 {bottom / 2:.0f}) rotate(-90)',
    }
    return Chart(height, [*shapes, Shape('text', rotated, y)], label)


def bar_chart(
    groups: Sequence[tuple[str, Mapping[str, Bar]]],
    colors: Mapping[str, int],
    x: str,
    label: str,
    *,
    digits: int = 4,
    signed: bool = False,
) -> Chart:
    """Horizontal bars from zero, group below group, with intervals as whiskers and
    values at the margin. A group is a heading, which may be empty, and bars by name;
    ``x`` names the horizontal axis.
    """
    bars = [bar for _, group in groups for bar in group.values()]
    ends = [end for bar in bars for end in bar if end is not None]
    names = [name for _, group in groups for name in group]
    left = 28 + 7 * min(18, max(len(name) for name in names))
    right = WIDTH - 68
    to_x = _Scale([0.0, *ends], left, right)
    ticks = to_x.ticks
    shapes: list[Shape] = []
    y = 4.0
    for heading, group in groups:
        if heading:
            shapes.append(_text(4, y + 15, shorten(heading, 48), 'start', 'heading'))
            y += 22
        top, bottom = y, y + _BAR * len(group)
        shapes += [_line(to_x(tick), top, to_x(tick), bottom, 'grid') for tick in ticks]
        for name, bar in group.items():
            shapes.append(_bar(name, bar, colors[name], y, to_x))
            value = f'{bar.value:{"+" if signed else ""}.{digits}f}'
            shapes.append(_text(WIDTH - 4, y + 14, value, 'end'))
            y += _BAR
        shapes.append(_line(to_x(0.0), top, to_x(0.0), y, 'axis'))
        y += 6
    shapes += [_text(to_x(tick), y + 12, f'{tick:g}', 'middle') for tick in ticks]
    shapes.append(_text((left + right) / 2, y + 30, x, 'middle'))
    return Chart(math.ceil(y) + 38, shapes, label)


def _bar(name: str, bar: Bar, color: int, y: float, to_x: _Scale) -> Shape:
    start, end = sorted((to_x(0.0), to_x(bar.value)))
    box = {'x': start, 'y': y + 3, 'width': end - start, 'height': float(_BAR - 6)}
    parts = [
        Shape('title', {}, name),
        _text(12, y + 14, shorten(name, 18), 'start'),
        Shape('rect', {'class': f'bar c{color}', **_rounded(box)}),
    ]
    if bar.low is not None and bar.high is not None:
        middle = y + _BAR / 2
        parts.append(_line(to_x(bar.low), middle, to_x(bar.high), middle, 'whisker'))
        ends = to_x(bar.low), to_x(bar.high)
        parts += [_line(x, middle - 4, x, middle + 4, 'whisker') for x in ends]
    return Shape('g', {}, children=tuple(parts))


def _rounded(numbers: Mapping[str, float]) -> dict[str, str]:
    return {key: f'{value:.1f}' for key, value in numbers.items()}


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Shape:
    ends = _rounded({'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2})
    return Shape('line', {'class': style, **ends})


def _circle(center: tuple[float, float], radius: int, style: str) -> Shape:
    position = _rounded({'cx': center[0], 'cy': center[1]})
    return Shape('circle', {'class': style, **position, 'r': radius})


def _text(x: float, y: float, text: str, anchor: str, style: str = 'label') -> Shape:
    position = _rounded({'x': x, 'y': y})
    return Shape('text', {'class': style, **position, 'text-anchor': anchor}, text)
