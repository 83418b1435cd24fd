"""LayerGCN: layers refined by their cosine to the ids."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, EpochPruning, WeightDict
from promptmm_pyg.models.base import GraphRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, trained_space


class LayerGCN(GraphRecommender):
    r"""LightGCN whose layers are refined by their similarity to the ids, with a pruned
    graph in training: the model of the `"Layer-refined Graph Convolutional Networks for
    Recommendation" <https://arxiv.org/abs/2207.11088>`_ paper.

    .. math::
        \mathbf{x}^{(l)} = \cos(\mathbf{N} \mathbf{x}^{(l-1)}, \mathbf{x}^{(0)}) \,
        \mathbf{N} \mathbf{x}^{(l-1)}, \qquad \mathbf{x} = \sum_{l=1}^{L}
        \mathbf{x}^{(l)}

    row by row, with id embeddings :math:`\mathbf{x}^{(0)}`, which are not in the sum,
    and :math:`\mathbf{N}` the normalized graph. Equal to the released code at the
    defaults (tested).

    In training, ``prune_ratio`` of the edges are removed, and the subgraph is
    normalized. It is sampled when an epoch starts (``train()`` is called), with torch's
    global generator: in the first epoch an edge between nodes of degree :math:`d_u` and
    :math:`d_i` remains in proportion to :math:`1 / \sqrt{d_u d_i}`, in the second all
    edges are equally likely, and so on in turns. Eval mode uses all edges.

    Args:
        num_nodes_dict: The number of nodes per node type; other than users and items
            are ignored.
        modality_x_dict: Ignored. (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of the tables. (default: ``64``)
        num_layers: The number of layers :math:`L`. (default: ``4``)
        prune_ratio: The ratio of removed edges, in [0, 1); the paper tunes it among
            0, 0.1 and 0.2. (default: ``0.1``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** embeddings :math:`(N_t, D)` per node type

    Raises:
        ValueError: If sizes, rates or edges do not fit.
    """

    printed = ('num_layers', 'prune_ratio')
    search_space = trained_space(
        1e-3,
        num_layers=Choices(4, (2, 3, 4, 6)),
        prune_ratio=Choices(0.1, (0.0, 0.1, 0.2)),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 4,
        prune_ratio: float = 0.1,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        check_positive('num_layers', num_layers)
        self.num_layers = num_layers
        self.prune_ratio = prune_ratio
        self.num_nodes_dict = {
            key: num_nodes_dict[key] for key in (self.user, self.item)
        }
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        self.pruning = EpochPruning(prune_ratio, alternate=True)

    def start_epoch(self, epoch: int) -> None:
        """Chooses how the edges of an epoch are drawn; ``train`` calls it.

        Args:
            epoch: The number of the epoch, from 1.
        """
        self.pruning.epoch = epoch - 1

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> dict[NodeType, Tensor]:
        adj = self.pruning(self.bipartite(edge_index_dict, edge_weight_dict))
        id_dict = self.embeddings()
        user, item = user_ids, item_ids = id_dict[self.user], id_dict[self.item]
        user_sum, item_sum = torch.zeros_like(user), torch.zeros_like(item)
        for _ in range(self.num_layers):
            user, item = adj.to_user @ item, adj.to_item @ user
            user, item = _refined(user, user_ids), _refined(item, item_ids)
            user_sum, item_sum = user_sum + user, item_sum + item
        return {self.user: user_sum, self.item: item_sum}

    def losses(
        self, output: Mapping[NodeType, Tensor], batch: Triplets
    ) -> dict[str, Tensor]:
        """The losses of one batch, as released: ``bpr``, summed over the batch, and
        ``l2``, half the squared norm of the id rows of its examples, summed, too.
        """
        num_examples = batch.user.numel()
        bpr, l2 = self.bpr(output, batch), self.l2(self.embeddings(), batch)
        return {'bpr': num_examples * bpr, 'l2': num_examples * l2}


def _refined(x: Tensor, ids: Tensor) -> Tensor:
    return F.cosine_similarity(x, ids, dim=1).unsqueeze(1) * x
