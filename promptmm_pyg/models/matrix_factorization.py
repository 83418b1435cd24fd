"""Matrix factorization: two tables of ids, scored by inner product."""

from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import IdRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.sharded_embeddings import ShardedEmbeddings
from promptmm_pyg.search_space import trained_space


class MatrixFactorization(IdRecommender):
    """Two id tables, scored by inner product; the model of the `"BPR: Bayesian
    Personalized Ranking from Implicit Feedback" <https://arxiv.org/abs/1205.2618>`_
    paper. It needs no graph in training or serving.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Ignored. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width of the tables. (default: ``32``)
        init_std: Standard deviation of a normal start of the tables; ``None`` for
            Xavier uniform. (default: ``0.1``, that of MyMediaLite, the implementation
            of the paper's authors)
        sharded: Whether the rows of the tables are divided among the processes of a
            ``torch.distributed`` group (:class:`~promptmm_pyg.nn.ShardedEmbeddings`).
            (default: ``False``)

    Shapes:
        - **input:** ``n_id_dict``, ids :math:`(n_t)` of the rows to look up per node
          type *(optional)*; edges are ignored
        - **output:** embeddings :math:`(N_t, D)`, or :math:`(n_t, D)`, per node type
    """

    reads_edges = False
    printed = ()
    search_space = trained_space(1e-4)

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 32,
        init_std: float | None = 0.1,
        sharded: bool = False,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        tables = ShardedEmbeddings if sharded else NodeEmbeddings
        self.embeddings = tables(num_nodes_dict, embedding_dim, init_std)

    def forward(
        self,
        edge_index_dict: EdgeDict | None = None,  # noqa: ARG002
        edge_weight_dict: WeightDict = None,  # noqa: ARG002
        n_id_dict: dict[NodeType, Tensor] | None = None,
    ) -> dict[NodeType, Tensor]:
        x_dict: dict[NodeType, Tensor] = self.embeddings(n_id_dict)
        return x_dict
