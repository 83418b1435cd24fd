"""Matrix factorization under BPR: this library's beside implicit's and cornac's.

``pip install implicit`` and ``pip install cornac``; each takes part where it is
installed, with as many threads as torch. All train the same interactions for the same
number of epochs at the same width, from a new model to its tables in every turn.

They do not do the same work. The two libraries take one triplet at a time, in compiled
loops whose threads write to the tables without locks; this one takes batches under
Adam, which touches every row in every step. An epoch is as many triplets as there are
interactions for each of them, but implicit draws negatives by popularity. Read the
times as what one pass costs, not as what a model of equal quality costs.
"""

from importlib import import_module

import torch
from torch import Tensor

from benchmarks.speed_graphs import Graph, Runs
from promptmm_pyg.functional import rows
from promptmm_pyg.loader import TripletLoader
from promptmm_pyg.losses import bpr_loss, squared_norm
from promptmm_pyg.models import MatrixFactorization

Tables = tuple[Tensor, Tensor]


def peer_runs(graph: Graph, width: int = 64, epochs: int = 5) -> Runs:
    """Every run returns the tables of users and items."""
    return {
        'MatrixFactorization (ours)': lambda: fit_ours(graph, width, epochs),
        **_implicit_run(graph, width, epochs),
        **_cornac_run(graph, width, epochs),
    }


def fit_ours(graph: Graph, width: int, epochs: int) -> Tables:
    """Batches of 2048, Adam, a penalty on the rows of the batch."""
    num_users, num_items, edge_index = graph
    model = MatrixFactorization(
        {'user': num_users, 'item': num_items}, embedding_dim=width
    )
    loader = TripletLoader(edge_index, num_users, num_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for batch in loader:
            x_dict = model()
            user = rows(x_dict['user'], batch.user)
            positive, negative = (
                rows(x_dict['item'], index)
                for index in (batch.positive, batch.negative)
            )
            loss = bpr_loss((user * positive).sum(-1), (user * negative).sum(-1))
            loss = loss + 1e-4 * squared_norm(user, positive, negative)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    tables = model()
    return tables['user'].detach(), tables['item'].detach()


def _implicit_run(graph: Graph, width: int, epochs: int) -> Runs:
    try:
        bpr = import_module('implicit.cpu.bpr')
        from scipy.sparse import csr_matrix
    except ImportError:
        return {}
    row, col = graph.edge_index.numpy()
    ones = torch.ones(graph.num_edges).numpy()
    seen = csr_matrix((ones, (row, col)), shape=(graph.num_users, graph.num_items))

    def fit() -> Tables:
        model = bpr.BayesianPersonalizedRanking(
            # One of its factors is the bias of items.
            factors=width,
            iterations=epochs,
            num_threads=torch.get_num_threads(),
            random_state=0,
        )
        model.fit(seen, show_progress=False)
        return torch.from_numpy(model.user_factors), torch.from_numpy(
            model.item_factors
        )

    return {'implicit BPR': fit}


def _cornac_run(graph: Graph, width: int, epochs: int) -> Runs:
    try:
        # Of `cornac.models` alone: other models of cornac need more packages.
        cornac_bpr = import_module('cornac.models.bpr')
        data = import_module('cornac.data')
    except ImportError:
        return {}
    user, item = graph.edge_index.numpy()
    train = data.Dataset(
        graph.num_users,
        graph.num_items,
        {row: row for row in range(graph.num_users)},
        {row: row for row in range(graph.num_items)},
        (user, item, torch.ones(graph.num_edges).numpy()),
        seed=0,
    )

    def fit() -> Tables:
        model = cornac_bpr.BPR(
            k=width,
            max_iter=epochs,
            learning_rate=0.01,
            use_bias=False,
            num_threads=torch.get_num_threads(),
            seed=0,
        )
        model.fit(train)
        return torch.from_numpy(model.u_factors), torch.from_numpy(model.i_factors)

    return {'cornac BPR': fit}
