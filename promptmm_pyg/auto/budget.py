"""The time of a search, and what is shown of it."""

import sys
import time
from collections.abc import Callable, Sequence

from promptmm_pyg._utils import check_positive
from promptmm_pyg.auto.trials import Trial, best_trials

TUNED, CLOSED_FORMS = 0.1, 0.3
"""Shares of the budget until which closed forms are tuned, and end."""
MIN_RESERVE, MAX_RESERVE = 0.1, 0.4
"""Limits of the share for ensemble, student and test."""


class Budget:
    """What is left of a number of minutes.

    Args:
        minutes: The budget.
        used: Seconds that an interrupted search has used. (default: ``0.0``)
        clock: The time in seconds. (default: :func:`time.time`)

    Raises:
        ValueError: If ``minutes`` is not positive.
    """

    def __init__(
        self, minutes: float, used: float = 0.0, clock: Callable[[], float] = time.time
    ) -> None:
        check_positive('minutes', minutes)
        self.total, self.clock = 60.0 * minutes, clock
        self.started = clock() - used
        self.reserve = MAX_RESERVE / 2 * self.total

    @property
    def used(self) -> float:
        """Seconds so far."""
        return self.clock() - self.started

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.total - self.used

    @property
    def end(self) -> float:
        """When the budget ends, by the clock."""
        return self.started + self.total

    @property
    def tuned_until(self) -> float:
        """Until when the closed forms are tuned."""
        return self.started + TUNED * self.total

    @property
    def closed_forms_end(self) -> float:
        """When the closed forms end."""
        return self.started + CLOSED_FORMS * self.total

    @property
    def search_end(self) -> float:
        """When the training of teachers ends."""
        return self.end - self.reserve

    def set_reserve(self, seconds: float) -> None:
        """Sets the time for ensemble, student and test, within its limits."""
        low, high = MIN_RESERVE * self.total, MAX_RESERVE * self.total
        self.reserve = min(max(seconds, low), high)


def duration(seconds: float) -> str:
    """Minutes and seconds.

    Example:
        >>> duration(83.2), duration(-1)
        ('1:23', '0:00')
    """
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f'{minutes}:{rest:02d}'


class Screen:
    """Lines on stderr, above a line with the time left where stderr is a terminal.

    Args:
        budget: The time.
        quiet: Whether to print nothing.
    """

    def __init__(self, budget: Budget, quiet: bool) -> None:
        self.budget, self.quiet = budget, quiet
        self._is_live = not quiet and sys.stderr.isatty()

    def line(self, text: str) -> None:
        """Prints a line with the time."""
        if not self.quiet:
            self._clear()
            time_text = duration(self.budget.used)
            print(f'{time_text:>6}  {text}', file=sys.stderr, flush=True)

    def status(self, trials: Sequence[Trial], running: Sequence[str]) -> None:
        """Replaces the last line of a terminal."""
        if not self._is_live:
            return
        share = min(1.0, self.budget.used / self.budget.total)
        bar = '#' * int(20 * share)
        names = ', '.join(running) or 'waiting'
        text = f'[{bar:<20}] {duration(self.budget.left)} left  {leaders(trials)}'
        self._clear()
        print(f'{text}  training {names}'[:119], end='', file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._is_live:
            print('\r' + ' ' * 119 + '\r', end='', file=sys.stderr)


def leaders(trials: Sequence[Trial], count: int = 3) -> str:
    """The best models so far."""
    best = list(best_trials(trials).values())[:count]
    return ', '.join(f'{trial.model} {trial.value:.4f}' for trial in best)
