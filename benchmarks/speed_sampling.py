"""Exact negatives, one for every interaction, beside a loop in Python."""

import random

import torch

from benchmarks.speed_graphs import Graph, Runs, Times
from promptmm_pyg.loader import ExactNegativeSampler, TripletLoader


def seen_sets(graph: Graph) -> list[set[int]]:
    """The items of each user."""
    seen: list[set[int]] = [set() for _ in range(graph.num_users)]
    for user, item in graph.edge_index.t().tolist():
        seen[user].add(item)
    return seen


def negatives_by_loop(
    seen: list[set[int]], users: list[int], num_items: int, seed: int = 0
) -> list[int]:
    """One item for each of ``users``, drawn again while it is one they have seen."""
    draw, out = random.Random(seed).random, []
    for user in users:
        item = int(draw() * num_items)
        while item in seen[user]:
            item = int(draw() * num_items)
        out.append(item)
    return out


def sampling_runs(graph: Graph) -> Runs:
    """As many triplets as there are interactions; what is prepared once is not timed.

    A whole epoch of the loader draws, shuffles and cuts into batches.
    """
    users = graph.edge_index[0]
    shuffled = users[torch.randperm(users.numel())]
    sampler = ExactNegativeSampler(graph.edge_index, graph.num_users, graph.num_items)
    loader = TripletLoader(graph.edge_index, graph.num_users, graph.num_items)
    seen, listed = seen_sets(graph), users.tolist()
    return {
        'exact sampler (ours)': lambda: sampler.sample(users),
        'exact sampler, users in random order': lambda: sampler.sample(shuffled),
        'an epoch of TripletLoader': lambda: list(loader),
        'Python loop': lambda: negatives_by_loop(seen, listed, graph.num_items),
    }


def with_rate(times: Times, count: int) -> Times:
    """``times`` with how many of ``count`` things a second the median makes."""
    return {
        name: {**value, 'per_second': 1e3 * count / value['median_ms']}
        for name, value in times.items()
    }
