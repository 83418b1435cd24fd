"""How long recommending takes, measured now."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from promptmm_pyg.report.content import Latency
from promptmm_pyg.serving import Recommender

Key = TypeVar('Key')
SIZES = (1, 1024)


def interleaved(
    calls: Mapping[Key, Callable[[], object]],
    *,
    repeats: int = 25,
    budget: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Seconds of every call, by name: the calls take turns, so that whatever else the
    machine does falls on all of them alike.

    Args:
        calls: What to time. Each is called once before, unmeasured.
        repeats: Rounds, at most. (default: ``25``)
        budget: Seconds after which no round is begun, once there are three.
            (default: ``5.0``)
        clock: Tells the time in seconds. (default: :func:`time.perf_counter`)
    """
    for call in calls.values():
        call()
    seconds: dict[Key, list[float]] = {name: [] for name in calls}
    begun = clock()
    for done in range(repeats):
        if done >= 3 and clock() - begun > budget:
            break
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def latencies(
    recommenders: Mapping[str, Recommender], k: int, *, budget: float = 5.0
) -> list[Latency]:
    """The median time of top-``k`` lists for one user and for 1,024 at once; where
    there are fewer users, they are repeated.

    Args:
        recommenders: By name of the model.
        k: Items a list.
        budget: Seconds that all may take together, about. (default: ``5.0``)
    """
    calls = {}
    for name, recommender in recommenders.items():
        draw = random.Random(0)  # The same rows for each.
        for size in SIZES:
            ids = [draw.choice(recommender.user_ids) for _ in range(size)]
            calls[name, size] = lambda r=recommender, u=ids: r.recommend(u, k)
    found = []
    for (name, size), seconds in interleaved(calls, budget=budget).items():
        low, middle, high = (1e3 * x for x in statistics.quantiles(seconds, n=4))
        found.append(Latency(name, size, middle, low, high, len(seconds)))
    return found
