"""SLMRec: one graph convolution per modality, with self-supervision."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_choice, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import Bipartite, EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender, contrast
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.dropout import dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput

_Pair = tuple[Tensor, Tensor]  # Of users and of items.


class SLMRec(ContentRecommender):
    r"""LightGCN on ids and on every modality, fused by a linear layer, with
    self-supervision of features, after the `"Self-Supervised Learning for Multimedia
    Recommendation" <https://doi.org/10.1109/TMM.2022.3187556>`_ paper.

    .. math::
        \mathbf{x}_v = \mathbf{W} [\mathbf{z}_v^{0} \| \mathbf{z}_v^1 \| \dots \|
        \mathbf{z}_v^M] + \mathbf{b}

    where :math:`\mathbf{z}^m` is LightGCN from one table of users, shared by all, and
    for items their ids (:math:`m = 0`) or their projected features. Users and items
    have a :math:`\mathbf{W}` each.

    Two further losses are computed in :meth:`losses`:

    * ``augmentation``: InfoNCE between the embeddings and those from augmented
      features. ``'drop'`` is dropout of single values, ``'mask'`` of rows of a
      modality, without scaling;
    * ``alignment``: InfoNCE between :math:`\mathbf{z}_v^0` and each
      :math:`\mathbf{z}_v^m`, both after a linear head, averaged over modalities.

    In the paper, the first loss is between two augmentations. ``l2`` is that of the
    rows of the id tables.

    :meth:`losses` uses the operators of the last call, the attribute ``adj``, which is
    not part of the state.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        augmentation: ``'drop'`` or ``'mask'``. (default: ``'drop'``)
        augmentation_ratio: The ratio of dropped values or masked rows, in [0, 1).
            (default: ``0.2``)
        temperature: Of both contrasts. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, and :math:`\mathbf{z}^m` per modality

    Raises:
        ValueError: If sizes, rates, features or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-4,
        'augmentation': 0.1,
        'alignment': 0.1,
    }
    printed = ('num_layers', 'augmentation')
    l2_tables = ('embeddings',)
    not_copied = ('adj',)

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        augmentation: Literal['drop', 'mask'] = 'drop',
        augmentation_ratio: float = 0.2,
        temperature: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_choice('augmentation', augmentation, ('drop', 'mask'))
        check_probability('augmentation_ratio', augmentation_ratio)
        check_positive('temperature', temperature)
        self.augmentation = augmentation
        self.augmentation_ratio = augmentation_ratio
        self.temperature = temperature
        self.features = self.project(modality_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        num_views = len(self.modalities) + 1
        self.fusions = torch.nn.ModuleList(
            torch.nn.Linear(num_views * embedding_dim, embedding_dim) for _ in range(2)
        )
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(embedding_dim, embedding_dim) for _ in range(num_views)
        )
        self.adj: Bipartite[CSRPair] | None = None
        self.reset_parameters()

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        self.adj = self.bipartite(edge_index_dict, edge_weight_dict)
        smoothed = self._smoothed(self.adj, list(self.features().values()))
        user_x, item_x = (
            fuse(x) for fuse, x in zip(self.fusions, smoothed, strict=True)
        )
        width = self.embeddings.embedding_dim
        users, items = (x.split(width, dim=1)[1:] for x in smoothed)
        return self.output(user_x, item_x, users, items)

    def _smoothed(self, adj: Bipartite[CSRPair], features: list[Tensor]) -> _Pair:
        """All views concatenated, ids first; they share every sparse product."""
        id_dict = self.embeddings()
        users = id_dict[self.user].repeat(1, len(features) + 1)
        items = torch.cat([id_dict[self.item], *features], dim=1)
        return adj.smooth(users, items, self.num_layers)

    def _augment(self, x: Tensor) -> Tensor:
        if self.augmentation == 'drop':
            return dropout(x, self.augmentation_ratio)
        rows = torch.rand(x.size(0), 1, device=x.device) >= self.augmentation_ratio
        return x * rows

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch: ``bpr``, ``l2``, and ``augmentation`` and
        ``alignment``, each the mean over the distinct users of the batch plus that over
        its distinct positives.

        Raises:
            RuntimeError: If the model was never called.
        """
        if self.adj is None:
            raise RuntimeError("'losses' must follow a call of the model (got none)")
        augmented = [self._augment(x) for x in self.features().values()]
        smoothed = self._smoothed(self.adj, augmented)
        width = self.embeddings.embedding_dim
        augmentation, alignment = [], []
        for fuse, x, (key, nodes) in zip(
            self.fusions, smoothed, self.distinct_nodes(batch), strict=True
        ):
            pair = output.x_dict[key][nodes], fuse(x[nodes])
            augmentation.append(contrast(*pair, self.temperature))
            views = [x_dict[key][nodes] for x_dict in output.modality_x_dict.values()]
            alignment.append(self._align(x[:, :width][nodes], views))
        return {
            **super().losses(output, batch),
            'augmentation': torch.stack(augmentation).sum(),
            'alignment': torch.stack(alignment).sum(),
        }

    def _align(self, ids: Tensor, views: list[Tensor]) -> Tensor:
        id_head, *heads = self.heads
        anchor = id_head(ids)
        losses = [
            contrast(anchor, head(view), self.temperature)
            for head, view in zip(heads, views, strict=True)
        ]
        return torch.stack(losses).mean()
