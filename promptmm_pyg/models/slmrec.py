"""One graph convolution per modality, taught by its own changed copies."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_choice, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import Bipartite, EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender, contrast
from promptmm_pyg.nn._feature_checks import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.dropout import dropout
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput

_Sides = tuple[Tensor, Tensor]  # Users and items.


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

    * ``augmentation``: a node's vector finds the one it gets when projected features
      are changed at random, among those of the batch. ``'drop'`` zeroes single values
      and scales the others, ``'mask'`` whole rows of a modality;
    * ``alignment``: :math:`\mathbf{z}_v^0` finds each :math:`\mathbf{z}_v^m`, both
      through a linear head, averaged over modalities.

    Our form of the paper's tasks: the first contrasts with the vectors that are ranked,
    not with a second change, and BPR does the ranking.

    :meth:`losses` uses the operators of the last call, the plain attribute ``adj``,
    which
    is neither saved nor copied.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``2``)
        augmentation: ``'drop'`` or ``'mask'``. (default: ``'drop'``)
        augmentation_ratio: How much is dropped or masked, in [0, 1). (default: ``0.2``)
        temperature: Of both contrasts. (default: ``0.2``)
        init_std: Standard deviation of the tables' start. (default: ``0.1``)

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
        init_std: float = 0.1,
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
        _, *views = self._views(smoothed)
        return self.output(
            self.fusions[0](smoothed[0]),
            self.fusions[1](smoothed[1]),
            dict(zip(self.modalities, views, strict=True)),
        )

    def _smoothed(self, adj: Bipartite[CSRPair], features: list[Tensor]) -> _Sides:
        """All views side by side, ids first; they share every sparse product."""
        id_dict = self.embeddings()
        users = id_dict[self.user].repeat(1, len(features) + 1)
        items = torch.cat([id_dict[self.item], *features], dim=1)
        return adj.smooth(users, items, self.num_layers)

    def _views(self, smoothed: _Sides) -> list[_Sides]:
        width = self.embeddings.embedding_dim
        users, items = (x.split(width, dim=1) for x in smoothed)
        return list(zip(users, items, strict=True))

    def _changed(self, x: Tensor) -> Tensor:
        if self.augmentation == 'drop':
            return dropout(x, self.augmentation_ratio)
        rows = torch.rand(x.size(0), 1, device=x.device) >= self.augmentation_ratio
        return x * rows

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses on one batch: ``bpr``, ``l2``, half the squared norm of the id
        rows of an example, averaged over the batch, ``augmentation`` and ``alignment``,
        each the mean over the distinct users of the batch plus that over its distinct
        positives.

        Args:
            output: The output of the last call.
            batch: User, positive and negative items ``[B]``.

        Raises:
            RuntimeError: If the model was never called.
        """
        if self.adj is None:
            raise RuntimeError(
                "'losses' requires the operators of the last call (got none). Call the "
                'model first'
            )
        id_dict = self.embeddings()
        changed = [self._changed(x) for x in self.features().values()]
        smoothed = self._smoothed(self.adj, changed)
        ids, *_ = self._views(smoothed)
        augmentation, alignment = [], []
        for s, (key, nodes) in enumerate(self.distinct_nodes(batch)):
            fused = self.fusions[s](smoothed[s][nodes])
            augmentation.append(
                contrast(output.x_dict[key][nodes], fused, self.temperature)
            )
            views = [x_dict[key][nodes] for x_dict in output.modality_x_dict.values()]
            alignment.append(self._align(ids[s][nodes], views))
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': self.l2(id_dict, batch),
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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, 'adj': None}  # Operators cannot be copied.
