"""CLCRec: content embeddings that are contrasted with id embeddings."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize, rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, GraphCache
from promptmm_pyg.models.base import ContentRecommender, normal_std
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput

_CONTENT = 'content'  # The view of all modalities together.


class CLCRec(ContentRecommender):
    r"""Content embeddings that are trained to predict id embeddings, for items without
    interactions, after the `"Contrastive Learning for Cold-Start Recommendation"
    <https://arxiv.org/abs/2107.05315>`_ paper.

    .. math::
        \mathbf{f}_i = \mathbf{W} \, \mathrm{LeakyReLU} \Big( \sum_m \mathbf{W}_m \,
        \mathrm{norm}(\mathbf{x}_i^m) + \mathbf{b}_m \Big) + \mathbf{b}

    An item with edges is scored by the ids, :math:`\mathbf{e}_u^{\top} \mathbf{e}_i`,
    an item without by its content, :math:`\mathbf{e}_u^{\top} \mathbf{f}_i`.

    :meth:`losses` draws ``num_negatives`` items that have edges, once per batch,
    without those that the user of an example interacted with. Everything else is that
    of the released code, which draws them per example, and its settings for Movielens.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        hidden_channels: The width of the encoder's inner layer. (default: ``256``)
        num_negatives: Items drawn per batch. (default: ``128``)
        temperature: :math:`\tau` of the losses. (default: ``2.0``)
        hybrid_rate: Rate at which, in training, the content of an item replaces its id
            in ``user_item``. (default: ``0.5``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier normal, as published)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair`
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` of width :math:`D`
          with one modality, ``'content'``: :math:`\mathbf{e}_u` and :math:`\mathbf{f}`

    Raises:
        ValueError: If sizes, features, rates or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'user_item': 0.5,
        'content_id': 0.5,
        'l2': 0.1,
    }
    reads_weights = False
    printed = ('temperature', 'hybrid_rate')
    not_copied = ('_interactions',)
    search_space = trained_space(
        0.1,
        temperature=Range(2.0, 0.1, 4.0),
        hybrid_rate=Choices(0.5, (0.3, 0.5, 0.7)),
    )

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        hidden_channels: int = 256,
        num_negatives: int = 128,
        temperature: float = 2.0,
        hybrid_rate: float = 0.5,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        check_positive('hidden_channels', hidden_channels)
        check_positive('num_negatives', num_negatives)
        check_positive('temperature', temperature)
        if not 0 <= hybrid_rate <= 1:
            raise ValueError(f"'hybrid_rate' must be in [0, 1] (got {hybrid_rate})")
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.hybrid_rate = hybrid_rate
        std = normal_std(init_std, self.num_users + self.num_items, embedding_dim)
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, std)
        # The sum of one layer per modality is one layer on their concatenation.
        unit_x_dict = self.unit_features(modality_x_dict)
        self.features = self.project(unit_x_dict, hidden_channels)
        self.lin = torch.nn.Linear(hidden_channels, embedding_dim)
        self._index = GraphCache(_index)
        self._interactions: _Interactions | None = None  # Of the last call.
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        # As of one layer on the concatenation: one bias, one bound.
        lins = list(self.features.lins.values())
        bound = sum(weight.size(1) for weight in self.features.weights) ** -0.5
        for weight in self.features.weights:
            torch.nn.init.uniform_(weight, -bound, bound)
        for lin, limit in zip(lins, [bound, *[0.0] * len(lins)], strict=False):
            assert isinstance(lin.bias, Tensor)
            torch.nn.init.uniform_(lin.bias, -limit, limit)

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: object = None,  # noqa: ARG002
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict).to_item
        self._interactions = self._index(adj)
        id_dict = self.embeddings()
        user_x, item_x = id_dict[self.user], id_dict[self.item]
        hidden = torch.stack(list(self.features().values())).sum(0)
        content = self.lin(F.leaky_relu(hidden))
        warm = adj.row_degree() > 0
        item_x = torch.where(warm.unsqueeze(1), item_x, content)
        return TeacherOutput(
            {self.user: user_x, self.item: item_x},
            {_CONTENT: {self.user: user_x, self.item: content}},
        )

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        r"""The losses of one batch.

        .. math::
            -\log \frac{\exp(\mathbf{a}_b^{\top} \mathbf{p}_b / \tau)}
            {\exp(\mathbf{a}_b^{\top} \mathbf{p}_b / \tau) + \sum_j
            \exp(\mathbf{a}_b^{\top} \mathbf{n}_j / \tau)}

        over the drawn negatives :math:`j` of example :math:`b`:

        * ``user_item``: from the id of a user to its positive, ids or (at
          ``hybrid_rate``, in training) contents, by inner product;
        * ``content_id``: from the id of a positive to its content, by cosine;
        * ``l2``: the mean norm, not squared, of the id rows of users and that of items,
          averaged.

        The negatives of the batch are not used.

        Raises:
            RuntimeError: If the model was never called.
        """
        if self._interactions is None:
            raise RuntimeError("'losses' must follow a call of the model (got none)")
        negative, mask = self._draw(self._interactions, batch)
        id_dict = self.embeddings()
        user = rows(id_dict[self.user], batch.user)
        content = output.modality_x_dict[_CONTENT][self.item]
        ids = [rows(id_dict[self.item], index) for index in (batch.positive, negative)]
        contents = [rows(content, index) for index in (batch.positive, negative)]
        hybrid = [self._hybrid(x, c) for x, c in zip(ids, contents, strict=True)]
        unit = [l2_normalize(x) for x in contents]
        norms = [x.norm(dim=1) for x in ids]
        item_norm = (norms[0].mean() + norms[1].sum()) / (1 + negative.numel())
        return {
            'user_item': self._contrast(user, hybrid, mask),
            'content_id': self._contrast(l2_normalize(ids[0]), unit, mask),
            'l2': (user.norm(dim=1).mean() + item_norm) / 2,
        }

    def _draw(
        self, interactions: '_Interactions', batch: Triplets
    ) -> tuple[Tensor, Tensor]:
        """Items ``[K]``, and which of them are negatives of an example ``[B, K]``."""
        warm, keys = interactions
        if not warm.numel():
            return warm, warm.new_zeros(batch.user.numel(), 0, dtype=torch.bool)
        # On the CPU: the same on every device.
        draw = torch.randint(warm.numel(), (self.num_negatives,))
        negative = warm[draw.to(warm.device)]
        key = batch.user.unsqueeze(1) * self.num_items + negative
        position = torch.searchsorted(keys, key).clamp(max=keys.numel() - 1)
        mask = (keys[position] != key) & (batch.positive.unsqueeze(1) != negative)
        return negative, mask

    def _hybrid(self, x: Tensor, content: Tensor) -> Tensor:
        if not self.training or self.hybrid_rate == 0:
            return x
        replaced = torch.rand(x.size(0), 1, device=x.device) < self.hybrid_rate
        return torch.where(replaced, content, x)

    def _contrast(self, anchor: Tensor, items: list[Tensor], mask: Tensor) -> Tensor:
        positive, negative = items
        own = (anchor * positive).sum(-1, keepdim=True)
        others = (anchor @ negative.t()).masked_fill(~mask, -torch.inf)
        logits = torch.cat([own, others], dim=1) / self.temperature
        return -logits.log_softmax(dim=1)[:, 0].mean()


class _Interactions(NamedTuple):
    """Items that have edges, and the sorted edges as ``user * num_items + item``."""

    warm: Tensor
    keys: Tensor


def _index(adj: CSRPair) -> _Interactions:
    item, user = adj.edges()
    return _Interactions(item.unique(), (user * adj.shape[0] + item).sort().values)
