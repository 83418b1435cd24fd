"""Values as text that is safe inside HTML."""

import html
import math
import re

# HTML has no place for them, and UTF-8 none for lone surrogates.
_UNFIT = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')


def safe(value: object) -> str:
    """Text in which nothing is markup, neither inside an element nor in a quoted
    attribute.

    Example:
        >>> safe('<script>"x" & y')
        '&lt;script&gt;&quot;x&quot; &amp; y'
    """
    return html.escape(_UNFIT.sub('\ufffd', str(value)), quote=True)


def short(value: object, length: int) -> str:
    """Text of at most ``length`` characters, not yet safe.

    Example:
        >>> short('a long name', 7)
        'a long…'
    """
    text = str(value)
    return text if len(text) <= length else f'{text[: length - 1]}…'


def number(value: float | None, digits: int = 4) -> str:
    """A number with fixed places, or a dash.

    Example:
        >>> number(0.25), number(None), number(float('nan'))
        ('0.2500', '–', '–')
    """
    if value is None or not math.isfinite(value):
        return '–'
    return f'{value:.{digits}f}'


def size(count: int | None) -> str:
    """A number of bytes, or a dash.

    Example:
        >>> size(12), size(3 << 20), size(None)
        ('12 B', '3.0 MiB', '–')
    """
    if count is None:
        return '–'
    value, unit = float(count), 'B'
    for larger in ('KiB', 'MiB', 'GiB', 'TiB'):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f'{count} B' if unit == 'B' else f'{value:.1f} {unit}'
