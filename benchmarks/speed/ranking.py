"""Exact top-20 of many users, seen items left out, and the metrics of an evaluation,
beside a loop and beside implicit.

implicit (``pip install implicit``) takes part where it is installed: it ranks the same
tables, with as many threads as torch.
"""

import math
import random
from importlib import import_module

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.speed.graphs import Graph, Runs, Times
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import ExactNegativeSampler, TripletLoader
from promptmm_pyg.ranking import SeenItems, rank_items

K = 20


def ranking_runs(graph: Graph, user_x: Tensor, item_x: Tensor, num_ranked: int) -> Runs:
    """The first ``num_ranked`` users; every run returns item ids ``[B, K]``."""
    num_users, num_items, edge_index = graph
    seen = SeenItems.from_edge_index(edge_index, num_users, num_items)
    users = torch.arange(num_ranked)

    def loop() -> Tensor:
        found = []
        for user in users.tolist():
            scores = item_x @ user_x[user]
            scores[seen.col[seen.rowptr[user] : seen.rowptr[user + 1]]] = -torch.inf
            found.append(scores.sort(descending=True).indices[:K])
        return torch.stack(found)

    return {
        'blocked top-K (ours)': lambda: (
            rank_items((user_x, item_x), users, K, seen=seen).item_index
        ),
        'one user at a time': loop,
        **_implicit_run(graph, user_x, item_x, num_ranked),
    }


def evaluation_runs(
    graph: Graph, user_x: Tensor, item_x: Tensor, num_ranked: int
) -> Runs:
    """Recall@20 and NDCG@20 of the first users, one held-out item each; every run
    returns both means. Ours computes its four other metrics as well.
    """
    users = torch.arange(num_ranked)
    positives = torch.randint(
        graph.num_items, (num_ranked,), generator=torch.Generator().manual_seed(0)
    )
    data = HeteroData()
    data[USER].num_nodes, data[ITEM].num_nodes = graph.num_users, graph.num_items
    data[INTERACTS].edge_index = graph.edge_index
    data[INTERACTS].edge_label_index = torch.stack([users, positives])

    def ours() -> tuple[float, float]:
        found = evaluate({USER: user_x, ITEM: item_x}, data, ks=(K,)).metrics
        return found[f'Recall@{K}'], found[f'NDCG@{K}']

    def loop() -> tuple[float, float]:
        seen: dict[int, list[int]] = {user: [] for user in range(graph.num_users)}
        for user, item in graph.edge_index.t().tolist():
            seen[user].append(item)
        recall = ndcg = 0.0
        for user, positive in zip(users.tolist(), positives.tolist(), strict=True):
            scores = item_x @ user_x[user]
            scores[seen[user]] = -torch.inf
            for rank, item in enumerate(scores.sort(descending=True).indices[:K]):
                if int(item) == positive:
                    recall += 1.0
                    ndcg += 1.0 / math.log2(rank + 2)
        return recall / num_ranked, ndcg / num_ranked

    return {'evaluate (ours)': ours, 'one user at a time': loop}


def _implicit_run(
    graph: Graph, user_x: Tensor, item_x: Tensor, num_ranked: int
) -> Runs:
    try:
        als = import_module('implicit.cpu.als')
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits
    except ImportError:
        return {}
    with threadpool_limits(1, 'blas'):  # As its authors want it: threads are its own.
        model = als.AlternatingLeastSquares(
            factors=user_x.size(1), num_threads=torch.get_num_threads()
        )
    model.user_factors, model.item_factors = user_x.numpy(), item_x.numpy()
    row, col = graph.edge_index.numpy()
    ones = torch.ones(graph.num_edges).numpy()
    shape = (graph.num_users, graph.num_items)
    seen = csr_matrix((ones, (row, col)), shape=shape)[:num_ranked]
    users = torch.arange(num_ranked).numpy()

    def recommend() -> Tensor:
        with threadpool_limits(1, 'blas'):
            return torch.from_numpy(model.recommend(users, seen, N=K)[0])

    return {'implicit recommend': recommend}


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
