"""CLCRec: content embeddings that are contrasted with id embeddings."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import cosine_logsumexp, l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import squared_norm
from promptmm_pyg.models._graphs import EdgeDict
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput

_CONTENT = 'content'  # The view of all modalities together.


class CLCRec(ContentRecommender):
    r"""Content embeddings that are trained to predict id embeddings, for items without
    interactions, after the `"Contrastive Learning for Cold-Start Recommendation"
    <https://arxiv.org/abs/2107.05315>`_ paper.

    .. math::
        \mathbf{f}_i = \mathrm{norm} \left( \mathbf{W} \, \mathrm{LeakyReLU} \left(
        \sum_m \mathbf{W}_m \mathbf{x}_i^m + \mathbf{b}_m \right) + \mathbf{b} \right)

    with :math:`\mathbf{u}_u, \mathbf{z}_i` the id embeddings at unit length. An item
    with edges is scored by :math:`\mathbf{u}_u^{\top} \mathbf{z}_i`, an item without
    by :math:`\mathbf{u}_u^{\top} \mathbf{f}_i`.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`. (default: ``64``)
        hidden_channels: The width of the encoder's inner layer. (default: ``256``)
        temperature: :math:`\tau` of the losses. (default: ``0.2``)
        hybrid_rate: Rate at which, in training, the content of an item replaces its id
            in ``user_item``. (default: ``0.5``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as published)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair`
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` of width :math:`D`
          with one modality, ``'content'``: :math:`\mathbf{u}` and :math:`\mathbf{f}`

    Raises:
        ValueError: If sizes, features, rates or edges do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'user_item': 0.5,
        'content_id': 0.5,
        'l2': 1e-3,
    }
    reads_weights = False
    printed = ('temperature', 'hybrid_rate')

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        hidden_channels: int = 256,
        temperature: float = 0.2,
        hybrid_rate: float = 0.5,
        init_std: float | None = None,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        check_positive('hidden_channels', hidden_channels)
        check_positive('temperature', temperature)
        if not 0 <= hybrid_rate <= 1:
            raise ValueError(f"'hybrid_rate' must be in [0, 1] (got {hybrid_rate})")
        self.temperature = temperature
        self.hybrid_rate = hybrid_rate
        self.embeddings = NodeEmbeddings(self.num_nodes_dict, embedding_dim, init_std)
        # The sum of one layer per modality is one layer on their concatenation.
        self.features = self.project(modality_x_dict, hidden_channels)
        self.lin = torch.nn.Linear(hidden_channels, embedding_dim)
        self.reset_parameters()

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: object = None,  # noqa: ARG002
    ) -> TeacherOutput:
        warm = self.bipartite(edge_index_dict).to_item.row_degree() > 0
        id_dict = self.embeddings()
        user_x, item_x = (l2_normalize(id_dict[key]) for key in (self.user, self.item))
        hidden = torch.stack(list(self.features().values())).sum(0)
        content = l2_normalize(self.lin(F.leaky_relu(hidden)))
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

        on cosines, where :math:`j` runs over the negatives of the batch that are not
        the positive of :math:`b`.

        * ``user_item``: from a user to its positive, ids or (at ``hybrid_rate``, in
          training) contents;
        * ``content_id``: from the content of a positive to its id;
        * ``l2``: half the squared norm of the id rows of an example, averaged.
        """
        user, positive, negative = batch
        id_dict = self.embeddings()
        content = output.modality_x_dict[_CONTENT][self.item]
        ids = [id_dict[self.item][index] for index in (positive, negative)]
        unit_ids = [l2_normalize(x) for x in ids]
        contents = [content[index] for index in (positive, negative)]
        hybrid = [self._hybrid(x, c) for x, c in zip(unit_ids, contents, strict=True)]
        mask = positive.unsqueeze(1) != negative.unsqueeze(0)
        return {
            'user_item': self._contrast(output.x_dict[self.user][user], hybrid, mask),
            'content_id': self._contrast(contents[0], unit_ids, mask),
            'l2': squared_norm(id_dict[self.user][user], *ids),
        }

    def _hybrid(self, x: Tensor, content: Tensor) -> Tensor:
        if not self.training or self.hybrid_rate == 0:
            return x
        replaced = torch.rand(x.size(0), 1, device=x.device) < self.hybrid_rate
        return torch.where(replaced, content, x)

    def _contrast(self, anchor: Tensor, items: list[Tensor], mask: Tensor) -> Tensor:
        positive, negative = items
        negatives, _ = cosine_logsumexp(anchor, negative, self.temperature, mask)
        margin = (anchor * positive).sum(-1) / self.temperature - negatives
        return -F.logsigmoid(margin).mean()
