"""Exact top-20 of many users, seen items left out, beside a loop and beside implicit.

implicit (``pip install implicit``) takes part where it is installed: it ranks the same
tables, with as many threads as torch.
"""

from importlib import import_module

import torch
from torch import Tensor

from benchmarks.speed_graphs import Graph, Runs
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


def _implicit_run(
    graph: Graph, user_x: Tensor, item_x: Tensor, num_ranked: int
) -> Runs:
    try:
        als = import_module('implicit.cpu.als')
        from scipy.sparse import csr_matrix
    except ImportError:
        return {}
    model = als.AlternatingLeastSquares(
        factors=user_x.size(1), num_threads=torch.get_num_threads()
    )
    model.user_factors, model.item_factors = user_x.numpy(), item_x.numpy()
    row, col = graph.edge_index.numpy()
    ones = torch.ones(graph.num_edges).numpy()
    shape = (graph.num_users, graph.num_items)
    seen = csr_matrix((ones, (row, col)), shape=shape)[:num_ranked]
    users = torch.arange(num_ranked).numpy()
    return {
        'implicit recommend': lambda: torch.from_numpy(
            model.recommend(users, seen, N=K)[0]
        )
    }
