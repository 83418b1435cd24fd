"""LightGCN on heterogeneous graphs."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import IdRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.layerwise import BLOCK, sum_of_hops
from promptmm_pyg.nn.propagation import HeteroPropagation, check_reached
from promptmm_pyg.nn.sharded_embeddings import ShardedEmbeddings
from promptmm_pyg.search_space import Choices, trained_space


class LightGCN(IdRecommender):
    """The model of the `"LightGCN: Simplifying and Powering Graph Convolution Network
    for Recommendation" <https://arxiv.org/abs/2002.02126>`_ paper, for heterogeneous
    graphs. Equal to :class:`torch_geometric.nn.LightGCN` on a bipartite graph with
    symmetric weights (tested). Its output is a table per node type, so serving needs no
    graph. As in the paper, ``l2`` is that of the rows of the tables before propagation.

    With ``n_id_dict`` the edges are those of a subgraph, in positions of the ids, as
    returned by a neighbor loader, and only these rows are looked up. A row equals that
    of the whole graph if the subgraph has all nodes within ``num_hops``.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Ignored. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width of the tables. (default: ``32``)
        num_layers: The number of propagation layers. (default: ``3``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as in the paper)
        sharded: Whether the rows of the tables are divided among the processes of a
            ``torch.distributed`` group (:class:`~promptmm_pyg.nn.ShardedEmbeddings`).
            (default: ``False``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type, ids :math:`(n_t)` per node
          type *(optional)*
        - **output:** embeddings :math:`(N_t, D)`, or :math:`(n_t, D)`, per node type
    """

    loss_weights: ClassVar[Mapping[str, float]] = {'bpr': 1.0, 'l2': 1e-4}
    not_copied = ('_ids',)
    _ids: dict[NodeType, Tensor] | None
    """The rows of the tables that the last call looked up."""
    search_space = trained_space(1e-4, num_layers=Choices(3, (2, 3, 4, 6)))

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 32,
        num_layers: int = 3,
        init_std: float | None = None,
        sharded: bool = False,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        tables = ShardedEmbeddings if sharded else NodeEmbeddings
        self.embeddings = tables(num_nodes_dict, embedding_dim, init_std)
        self.propagation = HeteroPropagation(num_layers)
        self.num_layers = num_layers
        self._ids = None

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
        n_id_dict: dict[NodeType, Tensor] | None = None,
    ) -> dict[NodeType, Tensor]:
        self._ids = id_dict = self.embeddings(n_id_dict)
        sizes = {key: x.size(0) for key, x in id_dict.items()}
        adj_dict = self.operators(edge_index_dict, edge_weight_dict, sizes)
        x_dict: dict[NodeType, Tensor] = self.propagation(id_dict, adj_dict)
        return x_dict

    def losses(
        self, output: Mapping[NodeType, Tensor], batch: Triplets
    ) -> dict[str, Tensor]:
        """The losses of one batch: ``bpr``, and ``l2``, half the squared norm of the
        rows of the tables of an example, averaged over the batch.

        Args:
            output: The output of the last call.
            batch: User, positive and negative items ``[B]``.
        """
        ids = self.embeddings() if self._ids is None else self._ids
        return {'bpr': self.bpr(output, batch), 'l2': self.l2(ids, batch)}

    @property
    def num_hops(self) -> int:
        """The number of hops on which a node's row depends."""
        return self.num_layers

    def inference(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
        *,
        block_size: int = BLOCK,
    ) -> dict[NodeType, Tensor]:
        """Like :meth:`forward` on the whole graph, without gradients, layer by layer
        and ``block_size`` rows at a time.

        Args:
            edge_index_dict: Edges per type; operators may be on another device.
            edge_weight_dict: Weights per edge type. (default: ``None``)
            block_size: Rows at a time. (default: ``65536``)

        Raises:
            ValueError: If ``block_size`` is not positive or no edge type points to a
                node type.
        """
        with torch.no_grad():
            x_dict = self.embeddings()
            adj_dict = self.operators(edge_index_dict, edge_weight_dict)
            check_reached(x_dict, adj_dict)
            sums = sum_of_hops(x_dict, adj_dict, self.num_hops, block_size=block_size)
            return {key: x.div_(self.num_hops + 1) for key, x in sums.items()}
