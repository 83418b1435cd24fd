"""Progress of long work: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm

SECONDS = 10.0
"""Between two lines."""


class Progress:
    """The progress of a loop, on stderr.

    Args:
        total: The number of steps.
        name: What is done. (default: no name)
        unit: What a step is. (default: ``'step'``)
        initial: Steps that were done before. (default: ``0``)
        disable: Whether to print nothing. (default: ``False``)
    """

    def __init__(
        self,
        total: int,
        name: str = '',
        *,
        unit: str = 'step',
        initial: int = 0,
        disable: bool = False,
    ) -> None:
        self.total, self.name, self.unit = total, name, unit
        self.done, self._initial = initial, initial
        self._disable = disable
        self._started = self._printed = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if not disable and sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=name or None,
                unit=unit,
                dynamic_ncols=True,
            )

    def update(self, steps: int = 1, values: Mapping[str, str] | None = None) -> None:
        """Counts steps; ``values`` are shown beside them."""
        self.done += steps
        if self._bar is not None:
            if values:
                self._bar.set_postfix(values, refresh=False)
            self._bar.update(steps)
        elif not self._disable and time.monotonic() - self._printed >= SECONDS:
            self._printed = time.monotonic()
            print(self._line(values or {}), file=sys.stderr, flush=True)

    def _line(self, values: Mapping[str, str]) -> str:
        seconds = time.monotonic() - self._started
        steps = max(self.done - self._initial, 1)
        rest = seconds / steps * max(self.total - self.done, 0)
        parts = [f'{self.done:,} of {self.total:,} {self.unit}s']
        parts += [f'{key} {value}' for key, value in values.items()]
        parts.append(f'{seconds:.0f} s, at most {rest:.0f} s left')
        return f'{self.name}: ' * bool(self.name) + ', '.join(parts)

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
