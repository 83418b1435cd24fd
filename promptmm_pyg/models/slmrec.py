"""SLMRec: one graph convolution per modality, with self-supervision."""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._contrast import contrast, in_parts
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput

_LEVELS = ('image', 'audio', 'text')  # Of the chain, also where one is absent.


class SLMRec(ContentRecommender):
    r"""LightGCN on ids and on every modality, fused by a linear layer, with contrasts
    of modalities, after the `"Self-Supervised Learning for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2022.3187556>`_ paper.

    .. math::
        \mathbf{x}_v = \mathbf{W} [\mathbf{z}_v^{0} \| \mathbf{z}_v^1 \| \dots \|
        \mathbf{z}_v^M] + \mathbf{b}

    where :math:`\mathbf{z}^m` is LightGCN from one table of users, shared by all, and
    for items their ids (:math:`m = 0`) or their projected features, which are scaled to
    unit length before. Users and items have a :math:`\mathbf{W}` each.

    Modalities are predicted from ids along a chain ("fine and coarse"), image before
    audio before text before others:

    .. math::
        \mathbf{c}^1 = \mathbf{G}_1 \mathbf{z}_i^0, \qquad \mathbf{c}^{k+1} =
        \mathbf{G}_{k+1} \mathbf{c}^k, \qquad \mathcal{L}_{\text{alignment}} = \sum_m
        - \log \mathrm{softmax}_j \left( \mathbf{c}_i^{m \top} \mathbf{H}_m
        \mathbf{z}_j^m / \tau \right)_i

    with linear maps to width :math:`D`, and to :math:`D / 2` from text on. A bias of
    :math:`\mathbf{H}` would have no effect.

    Everything is that of the released code with its default task (FAC), except that
    features are constants. That code has no penalty but a weight decay of ``1e-4``, so
    ``l2``, that of the rows of the id tables, has no weight by default. Its
    augmentations of features (FD, FM) are left out.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        num_layers: Layers of LightGCN. (default: ``3``)
        temperature: :math:`\tau` of both contrasts. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, and :math:`\mathbf{z}^m` per modality

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'infonce': 1.0,
        'alignment': 0.1,
        'l2': 0.0,  # The released code has none.
    }
    linear_start = 'xavier_uniform'
    not_copied = ('_ids',)
    search_space = trained_space(
        0.0, num_layers=Choices(3, (1, 2, 3)), alignment=Range(0.1, 0.01, 1.0)
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 3,
        temperature: float = 0.2,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('temperature', temperature)
        self.temperature = temperature
        unit_x_dict = self.unit_features(modality_x_dict)
        self.features = self.project(unit_x_dict, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        width = (len(self.modalities) + 1) * embedding_dim
        self.fusions = torch.nn.ModuleList(
            torch.nn.Linear(width, embedding_dim) for _ in range(2)
        )
        others = [m for m in self.modalities if m not in _LEVELS]
        levels = [*_LEVELS, *others]
        while levels[-1] not in self.modalities:
            levels.pop()
        text = levels.index('text') if 'text' in levels else len(levels)
        widths = [
            embedding_dim if level < text else max(embedding_dim // 2, 1)
            for level in range(len(levels))
        ]
        self.chain = torch.nn.ModuleDict()
        self.heads = torch.nn.ModuleDict()
        pairs = pairwise([embedding_dim, *widths])
        for modality, (in_channels, out_channels) in zip(levels, pairs, strict=True):
            name = f'to_{modality}'
            self.chain[name] = torch.nn.Linear(in_channels, out_channels)
            if modality in self.modalities:
                self.heads[name] = torch.nn.Linear(
                    embedding_dim, out_channels, bias=False
                )
        self._ids: Tensor | None = None  # Of items, after LightGCN.
        self.reset_parameters()

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        id_dict, features = self.embeddings(), list(self.features().values())
        # All views share every sparse product.
        users = id_dict[self.user].repeat(1, len(features) + 1)
        items = torch.cat([id_dict[self.item], *features], dim=1)
        smoothed = adj.smooth(users, items, self.num_layers)
        user_x, item_x = (
            fuse(x) for fuse, x in zip(self.fusions, smoothed, strict=True)
        )
        width = self.embeddings.embedding_dim
        (_, *users_z), (self._ids, *items_z) = (x.split(width, 1) for x in smoothed)
        return self.output(user_x, item_x, users_z, items_z)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch: ``infonce``, from users to their positives among
        those of the batch; ``alignment``, over the positives; ``l2``. Negatives are
        used by ``l2`` only.

        Raises:
            RuntimeError: If the model was never called.
        """
        if self._ids is None:
            raise RuntimeError("'losses' must follow a call of the model (got none)")
        user_x, item_x = output.x_dict[self.user], output.x_dict[self.item]
        user, positive = rows(user_x, batch.user), rows(item_x, batch.positive)
        return {
            'infonce': contrast(user, positive, self.temperature),
            'alignment': self._alignment(
                output, rows(self._ids, batch.positive), batch
            ),
            'l2': self.l2(self.embeddings(), batch),
        }

    def _alignment(self, output: TeacherOutput, own: Tensor, batch: Triplets) -> Tensor:
        losses = []
        for name, lin in self.chain.items():
            own = lin(own)
            if name in self.heads:
                x = output.modality_x_dict[name.removeprefix('to_')][self.item]
                view = self.heads[name](rows(x, batch.positive))
                losses.append(in_parts(self._row_entropy, own, view))
        return torch.stack(losses).sum()

    def _row_entropy(self, anchor: Tensor, positive: Tensor) -> Tensor:
        label = torch.arange(anchor.size(0), device=anchor.device)
        logits = anchor @ positive.t() / self.temperature
        return torch.nn.functional.cross_entropy(logits, label)
