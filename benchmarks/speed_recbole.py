"""RecBole's LightGCN, as a rival on the same triplets.

``pip install --no-deps recbole colorlog colorama tensorboard tabulate texttable``;
whole, it asks for an old numpy. Its propagation, loss and penalty are called as they
are. Its data sets are not: a model asks them for two numbers and a matrix.
"""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed_graphs import Graph
from promptmm_pyg.loader import Triplets

_USER, _ITEM, _NEGATIVE = 'user', 'item', 'negative_'


class RecBole:
    """RecBole's LightGCN.

    Args:
        graph: Interactions.
        weight: The weight of each, ``[E]``. Its own adjacency, the same one, is
            written by a method that SciPy has dropped.
        width: Of the tables.
        num_layers: How often it propagates.
        reg: Factor of the sum of squares of a batch's rows, divided by its length.

    Raises:
        ImportError: If RecBole, or what it imports, is not installed.
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
            'reg_weight': 2 * reg,  # It takes half of the sum.
            'require_pow': True,
        }
        self.model: Any = Model(config, data)

    def loss(self, batch: Triplets) -> Tensor:
        """BPR and the penalty."""
        named = (_USER, _ITEM, _NEGATIVE + _ITEM)
        loss: Tensor = self.model.calculate_loss(dict(zip(named, batch, strict=True)))
        return loss.squeeze()
