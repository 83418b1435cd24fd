"""An epoch of LightGCN under BPR: this library's, PyG's and RecBole's, on the same
triplets; and matrix factorization beside implicit and cornac.

All LightGCNs compute the same loss of the same tables: the mean of BPR over a batch and

    REG / B * sum over the batch of |user|^2 + |positive|^2 + |negative|^2

on the tables before propagation, as
``torch_geometric.nn.LightGCN.recommendation_loss`` with ``node_id``. Batches are drawn
once, before any turn, so that no epoch includes sampling; all use the same fused Adam.
PyG's normalizes its edges in every forward; a second row has the weights computed once.
(LensKit's LightGCN is PyG's, called with ``edge_index``.)

``propagate_every`` is another training, with fewer and larger steps; its row is the
time of one pass over the same triplets.
"""

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor

from benchmarks.speed import Graph, Runs
from promptmm_pyg.functional import rows
from promptmm_pyg.loader import TripletLoader, Triplets
from promptmm_pyg.losses import bpr_loss, squared_norm, weighted_sum
from promptmm_pyg.models import LightGCN, MatrixFactorization
from promptmm_pyg.nn import csr_pair_dict
from promptmm_pyg.training.loop import amortized

REG = 1e-4
_LEARNING_RATE = 1e-3


def symmetric_weights(graph: Graph) -> Tensor:
    """The inverse root of the product of both degrees, per interaction."""
    user, item = graph.edge_index
    degrees = [torch.bincount(side)[side].double() for side in (user, item)]
    return (degrees[0] * degrees[1]).rsqrt()


def draw_batches(graph: Graph, batch_size: int) -> list[Triplets]:
    """The triplets of one epoch."""
    loader = TripletLoader(*_parts(graph), batch_size=batch_size)
    return list(loader)


def _parts(graph: Graph) -> tuple[Tensor, int, int]:
    return graph.edge_index, graph.num_users, graph.num_items


class Ours:
    """This library's LightGCN; the operator is computed once."""

    def __init__(self, graph: Graph, width: int, num_layers: int) -> None:
        num_nodes = {'user': graph.num_users, 'item': graph.num_items}
        self.model = LightGCN(num_nodes, embedding_dim=width, num_layers=num_layers)
        edge_types = ('user', 'has', 'item'), ('item', 'rev_has', 'user')
        edges = graph.edge_index, graph.edge_index.flip([0])
        weight = symmetric_weights(graph)
        self.adj = csr_pair_dict(
            dict(zip(edge_types, edges, strict=True)),
            dict.fromkeys(edge_types, weight),
            num_nodes_dict=num_nodes,
        )
        self.weights = {'bpr': 1.0, 'l2': 2 * REG}

    def output(self) -> dict[str, dict[str, Tensor]]:
        """The tables before and after propagation."""
        return {'start': self.model.embeddings(), 'final': self.model(self.adj)}

    @staticmethod
    def losses(output: Any, batch: Triplets) -> dict[str, Tensor]:
        def rows_of(x: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            return (
                rows(x['user'], batch.user),
                rows(x['item'], batch.positive),
                rows(x['item'], batch.negative),
            )

        user, positive, negative = rows_of(output['final'])
        return {
            'bpr': bpr_loss((user * positive).sum(-1), (user * negative).sum(-1)),
            'l2': squared_norm(*rows_of(output['start'])),
        }

    def loss(self, batch: Triplets) -> Tensor:
        return weighted_sum(self.losses(self.output(), batch), self.weights)

    def shared_loss(self, batch_size: int) -> Callable[[Triplets], Tensor]:
        """The loss of several batches of this size from one propagation."""
        step = amortized(
            self.output, self.losses, self.weights, self.model.parameters(), batch_size
        )

        def loss(batch: Triplets) -> Tensor:
            out = step(batch, None)
            return out.backward + (out.loss - out.backward).detach()

        return loss


class PyG:
    """PyG's LightGCN; items follow users among its nodes.

    Args:
        graph: Interactions.
        width: Width of the table.
        num_layers: Number of propagations.
        adjacency: ``'edge_index'``, ``'weights'`` (computed once) or ``'sparse'``
            (torch_sparse, built once).
    """

    def __init__(
        self, graph: Graph, width: int, num_layers: int, adjacency: str = 'edge_index'
    ) -> None:
        num_nodes = graph.num_users + graph.num_items
        self.num_users = graph.num_users
        self.model = torch_geometric.nn.LightGCN(
            num_nodes,
            embedding_dim=width,
            num_layers=num_layers,
            normalize=adjacency == 'edge_index',
        )
        user, item = graph.edge_index[0], graph.edge_index[1] + graph.num_users
        self.edges: Any = torch.stack(
            [torch.cat([user, item]), torch.cat([item, user])]
        )
        self.weight: Tensor | None = None
        if adjacency != 'edge_index':
            self.weight = symmetric_weights(graph).repeat(2).float()
        if adjacency == 'sparse':
            from torch_sparse import SparseTensor

            size = (num_nodes, num_nodes)
            self.edges = SparseTensor.from_edge_index(self.edges, self.weight, size).t()
            self.edges.fill_cache_()
            self.weight = None

    def loss(self, batch: Triplets) -> Tensor:
        user, positive, negative = (
            batch.user,
            batch.positive + self.num_users,
            batch.negative + self.num_users,
        )
        pairs = torch.stack([user.repeat(2), torch.cat([positive, negative])])
        ranks = self.model(self.edges, pairs, self.weight)
        loss: Tensor = self.model.recommendation_loss(
            *ranks.chunk(2), torch.cat([user, positive, negative]), REG
        )
        return loss


def epoch_run(
    model: torch.nn.Module, loss: Callable[[Triplets], Tensor], batches: list[Triplets]
) -> Callable[[], float]:
    """Every batch once, one step of fused Adam each; returns the mean loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE, fused=True)

    def run() -> float:
        total = 0.0
        for batch in batches:
            value = loss(batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += float(value.detach())
        return total / len(batches)

    return run


def lightgcn_runs(
    graph: Graph,
    width: int = 64,
    num_layers: int = 3,
    batch_size: int = 2048,
    propagate_every: int = 8,
) -> Runs:
    """One epoch per turn; every model has tables of its own."""
    batches = draw_batches(graph, batch_size)
    large = draw_batches(graph, batch_size * propagate_every)
    ours, shared = (Ours(graph, width, num_layers) for _ in range(2))
    runs: Runs = {
        'CSR pair (ours)': epoch_run(ours.model, ours.loss, batches),
        f'ours with propagate_every={propagate_every}': epoch_run(
            shared.model, shared.shared_loss(batch_size), large
        ),
    }
    weight = symmetric_weights(graph)
    others: dict[str, Callable[[], PyG | RecBole]] = {
        'PyG, edge_index': lambda: PyG(graph, width, num_layers),
        'PyG, edge_index and weights made once': lambda: PyG(
            graph, width, num_layers, 'weights'
        ),
        'PyG, torch_sparse': lambda: PyG(graph, width, num_layers, 'sparse'),
        'RecBole': lambda: RecBole(graph, weight, width, num_layers, REG),
    }
    for name, make in others.items():
        try:
            other = make()
        except ImportError:
            continue
        runs[name] = epoch_run(other.model, other.loss, batches)
    return runs


_USER, _ITEM, _NEGATIVE = 'user', 'item', 'negative_'


class RecBole:
    """RecBole's LightGCN.

    Args:
        graph: Interactions.
        weight: The weight of each, ``[E]``. RecBole computes the same adjacency by a
            method that SciPy has removed.
        width: Width of the tables.
        num_layers: Number of propagations.
        reg: Factor of the sum of squares of a batch's rows, divided by its length.

    Raises:
        ImportError: If RecBole or one of its requirements is not installed.
    """

    def __init__(
        self, graph: Graph, weight: Tensor, width: int, num_layers: int, reg: float
    ) -> None:
        from scipy.sparse import coo_matrix

        lightgcn = import_module('recbole.model.general_recommender.lightgcn')
        num_users, num_items, edge_index = graph
        size = num_users + num_items
        user, item = edge_index[0], edge_index[1] + num_users
        both = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
        adjacency = torch.sparse_coo_tensor(
            both, weight.repeat(2).float(), (size, size)
        ).coalesce()

        class Model(lightgcn.LightGCN):  # type: ignore[name-defined]
            def get_norm_adj_mat(self) -> Tensor:
                return adjacency

        row, column = edge_index.numpy()
        seen = coo_matrix((torch.ones(graph.num_edges).numpy(), (row, column)))
        data = SimpleNamespace(
            num={_USER: num_users, _ITEM: num_items}.get,
            inter_matrix=lambda form: seen,  # noqa: ARG005
        )
        config = {
            'USER_ID_FIELD': _USER,
            'ITEM_ID_FIELD': _ITEM,
            'NEG_PREFIX': _NEGATIVE,
            'device': 'cpu',
            'embedding_size': width,
            'n_layers': num_layers,
            'reg_weight': 2 * reg,  # RecBole halves the sum.
            'require_pow': True,
        }
        self.model: Any = Model(config, data)

    def loss(self, batch: Triplets) -> Tensor:
        """BPR and the penalty."""
        named = (_USER, _ITEM, _NEGATIVE + _ITEM)
        loss: Tensor = self.model.calculate_loss(dict(zip(named, batch, strict=True)))
        return loss.squeeze()


Tables = tuple[Tensor, Tensor]


def peer_runs(graph: Graph, width: int = 64, epochs: int = 5) -> Runs:
    """Factorization; every run returns the tables of users and items."""
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
            # One of the factors is the bias of items.
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
        # Not `cornac.models`, whose other models require more packages.
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
