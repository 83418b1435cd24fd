"""A recommender at work: example lists and latency."""

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM
from promptmm_pyg.evaluation.metrics import positives
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.report.content import Example, Item, Latency
from promptmm_pyg.serving import Recommender

Key = TypeVar('Key', bound=Hashable)
SIZES = (1, 1024)
"""Users per call."""


def examples(
    recommender: Recommender, val: HeteroData | None, *, k: int = 5, shown: int = 8
) -> list[Example]:
    """The most active, the median and the least active user with a history, and the
    best ``k`` items for each. The quality of the lists is not considered.

    Args:
        recommender: The served student.
        val: The validation graph. Lists leave out its training interactions only, and
            its positives are marked. (default: none, lists as they are served)
        k: Number of recommended items. (default: ``5``)
        shown: Number of shown items of the history, at most. (default: ``8``)
    """
    seen = recommender.seen
    if val is not None:
        sizes = (recommender.num_users, recommender.num_items)
        seen = SeenItems.from_edge_index(val[INTERACTS].edge_index, *sizes)
    counts = seen.num_seen
    order = counts.argsort(descending=True, stable=True).tolist()
    order = [row for row in order if counts[row] > 0]
    if not order:
        return []
    last = len(order) - 1
    positions = {0: 'most active', len(order) // 2: 'median', last: 'least active'}
    result = []
    for position, why in positions.items():
        row = order[position]
        history = seen.pairs(torch.tensor([row]))[1].tolist()
        raw_ids = [recommender.item_ids[item] for item in history]
        user = recommender.user_ids[row]
        lists = recommender.recommend(
            user, min(k, recommender.num_items), exclude_seen=False, deny=raw_ids
        )
        held_out = _held_out(val, row)
        scored = zip(lists.ids.tolist(), lists.scores.tolist(), strict=True)
        items = [
            Item(str(raw), recommender.titles.get(raw), score, raw in held_out)
            for raw, score in scored
            if raw is not None
        ]
        first = [Item(str(raw), recommender.titles.get(raw)) for raw in raw_ids[:shown]]
        result.append(Example(str(user), why, first, len(history), items))
    return result


def _held_out(val: HeteroData | None, row: int) -> set[Any]:
    if val is None:
        return set()
    user, item = positives(val)
    raw_ids = val[ITEM].raw_id
    return {raw_ids[index] for index in item[user == row].tolist()}


def interleaved(
    calls: Mapping[Key, Callable[[], object]],
    *,
    repeats: int = 25,
    budget: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Seconds of each call, by name. The calls take turns, so that other load on the
    machine affects all of them alike.

    Args:
        calls: The timed functions. Each is called once before the first round.
        repeats: Maximum number of rounds. (default: ``25``)
        budget: No round starts after this many seconds, once there are three rounds.
            (default: ``5.0``)
        clock: Returns the time in seconds. (default: :func:`time.perf_counter`)
    """
    for call in calls.values():
        call()
    seconds: dict[Key, list[float]] = {name: [] for name in calls}
    started = clock()
    for finished in range(repeats):
        if finished >= 3 and clock() - started > budget:
            break
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def latencies(
    recommenders: Mapping[str, Recommender], k: int, *, budget: float = 5.0
) -> list[Latency]:
    """The median time of top-``k`` lists for one user and for 1,024 users, drawn with
    replacement, by name of the model; ``budget`` is in seconds.
    """
    calls = {}
    for name, recommender in recommenders.items():
        generator = random.Random(0)  # The same rows for each model.
        for size in SIZES:
            ids = [generator.choice(recommender.user_ids) for _ in range(size)]
            calls[name, size] = lambda r=recommender, u=ids: r.recommend(u, k)
    result = []
    for (name, size), seconds in interleaved(calls, budget=budget).items():
        low, median, high = (1e3 * x for x in statistics.quantiles(seconds, n=4))
        result.append(Latency(name, size, median, low, high, len(seconds)))
    return result
