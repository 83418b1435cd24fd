"""LightGCN with features in the first layer of items."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS, FeatureDict
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._projected_features import ProjectedFeatures
from promptmm_pyg.models.base import GraphRecommender, check_both_ways, features_or_none
from promptmm_pyg.nn import NodeEmbeddings, csr_pair_dict, propagate_blocks
from promptmm_pyg.nn.csr import Adjacency, CSRPair
from promptmm_pyg.nn.propagation import Blocks, check_reached
from promptmm_pyg.targets import TeacherOutput

_ID = 'id'  # The block of id embeddings; modalities carry the prefix below.
_MODALITY = 'modality/'


class LightGCNM(GraphRecommender):
    r"""LightGCN-M, a common multi-modal baseline: the `"LightGCN"
    <https://arxiv.org/abs/2002.02126>`_ paper's model in which an item starts from
    its id *and* its projected features.

    .. math::
        \mathbf{x}_i^{(0)} = \mathbf{e}_i + \frac{1}{|M|} \sum_m (\mathbf{W}_m
        \mathbf{x}_i^m + \mathbf{b}_m), \qquad \mathbf{x}_u^{(0)} = \mathbf{e}_u

    As the propagation is linear, the final embeddings are those of the ids plus the
    mean of what each modality brings; the latter are returned as modality vectors.
    It has no paper of its own, and implementations differ.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, what is ranked for whom.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: The number of propagation layers. (default: ``2``)
        init_std: Standard deviation of the id tables' start. (default: ``0.1``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`, all of width
          :math:`D`

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    reads_features = True
    loss_weights: ClassVar[Mapping[str, float]] = {'bpr': 1.0, 'l2': 1e-3}
    """The default weight of each loss."""

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: FeatureDict | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(num_nodes_dict, edge_type)
        modality_x_dict = features_or_none(modality_x_dict)
        check_positive('num_layers', num_layers)
        self.num_nodes_dict = dict(num_nodes_dict)
        self.num_layers = num_layers
        self.embeddings = NodeEmbeddings(num_nodes_dict, embedding_dim, init_std)
        self.features = ProjectedFeatures(
            num_nodes_dict, self.item, modality_x_dict, embedding_dim
        )

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.embeddings.reset_parameters()
        self.features.reset_parameters()

    def forward(
        self,
        edge_index_dict: dict[EdgeType, Adjacency],
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,
    ) -> TeacherOutput:
        adj_dict = csr_pair_dict(
            edge_index_dict, edge_weight_dict, num_nodes_dict=self.num_nodes_dict
        )
        id_dict = self.embeddings()
        check_both_ways(adj_dict, self.user, self.item)
        check_reached(id_dict, adj_dict)
        blocks: Blocks = {key: {_ID: x} for key, x in id_dict.items()}
        for modality, x in self.features().items():
            blocks[self.item][_MODALITY + modality] = x
        means = self._propagate(blocks, adj_dict)

        x_dict = {key: named[_ID] for key, named in means.items()}
        modality_x_dict: dict[str, dict[NodeType, Tensor]] = {}
        for key, named in means.items():
            parts = {
                name.removeprefix(_MODALITY): x
                for name, x in named.items()
                if name != _ID
            }
            for modality, x in parts.items():
                modality_x_dict.setdefault(modality, {})[key] = x
                x_dict[key] = torch.add(x_dict[key], x, alpha=1 / len(parts))
        return TeacherOutput(x_dict, modality_x_dict)

    def _propagate(self, blocks: Blocks, adj_dict: dict[EdgeType, CSRPair]) -> Blocks:
        """The mean over layers, block by block; absent blocks stand for zeros."""
        sums: Blocks = {key: dict(named) for key, named in blocks.items()}
        for _ in range(self.num_layers):
            blocks = propagate_blocks(blocks, adj_dict)
            for key, named in blocks.items():
                for name, x in named.items():
                    known = sums[key]
                    known[name] = known[name] + x if name in known else x
        return {
            key: {name: x / (self.num_layers + 1) for name, x in named.items()}
            for key, named in sums.items()
        }

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` and ``l2`` of the final embeddings on one batch.

        Args:
            output: What the model returned.
            batch: User, positive and negative items ``[B]``.
        """
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': self.l2(output.x_dict, batch),
        }

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.embeddings}, {self.features}, '
            f'num_layers={self.num_layers})'
        )
