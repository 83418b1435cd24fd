"""What something costs: its time, how much of it was done, the peak of memory."""

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.speed import interleaved
from promptmm_pyg.loader import Triplets

Step = Callable[[Triplets], None]
Cost = dict[str, Any]


class Costs:
    """By name, in the order of the run: ``seconds`` that were measured, the ``share``
    of the work that was done in them, an ``estimate`` for all of it, and ``peak_mib``,
    the most memory held so far.

    Args:
        title: Stands before what is printed.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.found: dict[str, Cost] = {}

    def add(self, name: str, cost: Cost) -> None:
        """Keeps what was measured and prints it."""
        self.found[name] = {'share': 1.0, **cost, 'peak_mib': peak_mib()}
        print(f'{self.title}: {name} {self.found[name]}', flush=True)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measures a body once."""
        begun = time.perf_counter()
        yield
        self.add(name, {'seconds': time.perf_counter() - begun})

    def repeated(self, name: str, run: Callable[[], object], repeats: int) -> None:
        """The median of several runs, after one that warms up."""
        times = interleaved({name: run}, repeats)[name]
        self.add(name, {'seconds': times['median_ms'] / 1e3, **times})


def epoch(
    batches: Iterable[Triplets],
    number: int,
    step: Step,
    *,
    seconds: float | None = None,
    most: int | None = None,
) -> Cost:
    """What an epoch of ``number`` batches costs; whole, unless it takes longer than
    ``seconds`` or has more steps than ``most``. The rest is estimated from the steps
    taken, and told apart.
    """
    begun = time.perf_counter()
    taken, first = 0, 0.0
    for batch in batches:
        if taken == 0:  # An epoch's triplets are drawn before its first batch.
            first = time.perf_counter() - begun
        step(batch)
        taken += 1
        over = seconds is not None and time.perf_counter() - begun > seconds
        if over or taken == most:
            break
    spent = time.perf_counter() - begun
    return {
        'seconds': spent,
        'share': taken / number,
        'estimate': first + (spent - first) / taken * number,
        'steps': taken,
        'steps_of_epoch': number,
    }


def peak_mib() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
