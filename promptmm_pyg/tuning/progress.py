"""The budget of a search, and what is printed meanwhile."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from promptmm_pyg._progress import Progress
from promptmm_pyg.tuning.study import Study, Trial


class Budget:
    """The limits of a search, and how much of them is used."""

    def __init__(self, trials: int | None, minutes: float | None) -> None:
        self.trials, self.minutes = trials, minutes
        self.started = time.monotonic()
        self.end = math.inf if minutes is None else self.started + 60 * minutes

    def is_over(self, seconds: float = 0.0) -> bool:
        """Whether what takes as long would end too late."""
        return time.monotonic() + seconds > self.end

    def percent(self, num_trials: int) -> int:
        """How much is used."""
        parts = [] if self.trials is None else [num_trials / self.trials]
        if self.minutes is not None:
            parts.append((time.monotonic() - self.started) / (60 * self.minutes))
        return min(100, int(100 * max(parts)))

    def left(self, num_trials: int) -> str:
        """What is left, in words."""
        if self.minutes is not None:
            return f'{max(0.0, self.end - time.monotonic()) / 60:.1f} min left'
        assert self.trials is not None
        rest = max(0, self.trials - num_trials)
        seconds = (time.monotonic() - self.started) / max(1, num_trials) * rest
        return f'{rest} trials, about {seconds / 60:.1f} min left'


class Log:
    """A line per trial of all processes, and a bar on a terminal."""

    def __init__(
        self, name: str, study: Study, budget: Budget, monitor: str, *, disable: bool
    ) -> None:
        self.study, self.budget, self.monitor = study, budget, monitor
        self.disable = disable
        is_bar = not disable and sys.stderr.isatty()
        self.bar = Progress(100, name, unit='%', disable=not is_bar)
        self.printed = {x.number for x in study.trials() if x.state != 'running'}

    def __enter__(self) -> None:
        self.bar.__enter__()

    def __exit__(self, *_: Any) -> None:
        self.bar.__exit__(None, None, None)

    def write(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self.disable:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def update(self, current: str = '') -> None:
        """Prints the trials that have ended, and draws the bar."""
        if self.disable:
            return
        trials = self.study.trials()
        ended = [trial for trial in trials if trial.state != 'running']
        for trial in ended:
            if trial.number not in self.printed:
                self.printed.add(trial.number)
                self.write(self._line(trial, len(ended)))
        best = self.study.best
        values = {'trial': current} if current else {}
        if best is not None:
            values['best'] = f'{best.value:.4f}'
        self.bar.update(self.budget.percent(len(ended)) - self.bar.done, values)

    def _line(self, trial: Trial, num_ended: int) -> str:
        monitor, best = self.monitor, self.study.best
        text = f'trial {trial.number + 1}: '
        if trial.value is None:
            text += f'failed ({trial.error})'
        else:
            text += f'{monitor} {trial.value:.4f}'
            if trial.num_epochs != 1:
                text += f' at epoch {trial.best_epoch} of {trial.num_epochs}'
            if trial.state != 'complete':
                text += f', {trial.state}'
        text += f', {trial.seconds:.0f} s; {params_text(trial.params)}'
        if best is not None:
            text += f'; best {best.value:.4f} (trial {best.number + 1})'
        return f'{text}; {self.budget.left(num_ended)}'


def params_text(params: Mapping[str, Any]) -> str:
    """Hyper-parameters on one line.

    Example:
        >>> params_text({'learning_rate': 0.00312345, 'num_layers': 3})
        'learning_rate 0.003123, num_layers 3'
    """
    texts = (
        f'{name} {value:.4g}' if isinstance(value, float) else f'{name} {value}'
        for name, value in params.items()
    )
    return ', '.join(texts) or 'nothing to tune'
