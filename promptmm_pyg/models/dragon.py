"""DRAGON: DualGNN with concatenated modalities and a graph of similar items."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models.dual_gnn import DualGNN
from promptmm_pyg.nn._features import Features
from promptmm_pyg.search_space import Choices, trained_space


class DRAGON(DualGNN):
    r"""Graphs of modalities, of users and of items: the model of the `"Enhancing Dyadic
    Relations with Homogeneous Graphs for Multimodal Recommendation"
    <https://arxiv.org/abs/2301.12097>`_ paper.

    With the vectors :math:`\mathbf{h}^m` of the modalities and the graph of users
    :math:`\mathbf{a}` of :class:`~promptmm_pyg.models.DualGNN`,

    .. math::
        \mathbf{z}_u = \Vert_m w_{um} \mathbf{h}_u^m, \quad
        \mathbf{x}_u = \mathbf{z}_u + \sum_v a_{uv} \mathbf{z}_v, \qquad
        \mathbf{z}_i = \Vert_m \mathbf{h}_i^m, \quad
        \mathbf{x}_i = \mathbf{z}_i + (\mathbf{S}^K \mathbf{z})_i

    where :math:`\Vert` concatenates the modalities and :math:`\mathbf{S}` is the frozen
    item graph of :class:`~promptmm_pyg.models.FREEDOM`. Equal to the released code in
    MMRec at the defaults, on the same repeats of users (tested). Its parameters without
    influence on scores or losses are left out.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D` of a modality; embeddings have
            :math:`|M| D` channels. (default: ``64``)
        num_layers: Layers of each modality's graph. (default: ``2``)
        num_item_layers: Layers :math:`K` of the item graph. (default: ``1``)
        num_neighbors: Neighbors of an item and modality, itself included.
            (default: ``10``)
        modality_weights: The weight of each modality in the item graph.
            (default: as in FREEDOM)
        num_user_neighbors: Neighbors of a user. (default: ``40``)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, |M| D)`, and :math:`\mathbf{h}^m` per modality, :math:`(N_t, D)`

    Raises:
        ValueError: If sizes, features, weights or edges do not fit.
    """

    mixes_items = False
    search_space = trained_space(
        1e-3, num_layers=Choices(2, (1, 2, 3)), num_neighbors=Choices(10, (5, 10, 20))
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        num_neighbors: int = 10,
        modality_weights: Mapping[str, float] | None = None,
        num_user_neighbors: int = 40,
    ) -> None:
        super().__init__(
            num_nodes_dict,
            modality_x_dict,
            edge_type=edge_type,
            embedding_dim=embedding_dim,
            num_layers=num_layers,
            num_user_neighbors=num_user_neighbors,
        )
        self.graph = self.item_graph(
            modality_x_dict, num_neighbors, num_item_layers, modality_weights
        )

    def mix_users(self, users: list[Tensor]) -> Tensor:
        """The modalities of users, concatenated with their weights."""
        weights = self.user_mix.split(1, dim=1)
        parts = zip(weights, users, strict=True)
        return torch.cat([weight * x for weight, x in parts], dim=1)

    def mix_modalities(self, items: list[Tensor]) -> Tensor:
        """The embeddings of items, with those of similar items."""
        x = torch.cat(items, dim=1)
        smoothed: Tensor = self.graph(x)
        return x + smoothed
