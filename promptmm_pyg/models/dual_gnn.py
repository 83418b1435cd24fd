"""DualGNN: graphs of modalities, and a graph of similar users."""

import math
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize, rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, EdgePattern, GraphCache, WeightDict
from promptmm_pyg.models.base import ContentRecommender, linears, normal_std
from promptmm_pyg.models.closed_form import Interactions
from promptmm_pyg.models.item_knn import top_entries
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput

_BLOCK = 1024  # Users whose common items are counted at a time.


class DualGNN(ContentRecommender):
    r"""One graph network per modality, and a graph of users with common items: the
    model of the `"DualGNN: Dual Graph Neural Network for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2021.3138298>`_ paper.

    There are no ids of items. With free preferences :math:`\mathbf{p}^m` of users and
    features through two linear layers with a leaky ReLU between them, the vectors of a
    modality are

    .. math::
        \mathbf{h}^m = \sum_{l=0}^{L} \mathbf{N}^l \, \mathrm{norm}
        [\mathbf{p}^m ;\, \mathrm{MLP}_m(\mathbf{x}^m)], \qquad \mathbf{x}_i = \sum_m
        \mathbf{h}_i^m

    and those of users are mixed by weights of their own, :math:`\mathbf{z}_u = w_{u1}
    \sum_m \mathbf{h}_u^m + \sum_{m > 1} w_{um} \mathbf{h}_u^m`, and smoothed over the
    graph of users,

    .. math::
        \mathbf{x}_u = \mathbf{z}_u + \sum_{v} a_{uv} \mathbf{z}_v, \qquad a_{u \cdot} =
        \mathrm{softmax}(\text{common items}),

    over the ``num_user_neighbors`` users with most items in common. In training, users
    with fewer such neighbors get repeats of them up to that number, drawn uniformly
    when an epoch starts (``train()`` is called) with torch's global generator: a
    neighbor with :math:`r` repeats has :math:`r` times its weight. Eval mode has no
    repeats, where the released code keeps the last ones, so that its scores depend on
    the draw.

    This follows the released code in MMRec, to which it is equal on the same repeats
    (tested). The paper mixes :math:`\sum_m w_{um} \mathbf{h}_u^m`; the code adds the
    other modalities to the first before.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Item features ``{modality: {item: [N, F_m]}}``.
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The width :math:`D`; hidden layers have :math:`4 D` channels.
            (default: ``64``)
        num_layers: Layers :math:`L` of each modality's graph. (default: ``2``)
        num_user_neighbors: Neighbors of a user. (default: ``40``)

    Shapes:
        - **inputs:** edges and weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput` with embeddings
          :math:`(N_t, D)`, and :math:`\mathbf{h}^m` per modality

    Raises:
        ValueError: If sizes, features or edges do not fit.
    """

    mixes_items: ClassVar[bool] = True
    """Whether there are weights of items; only ``l2`` reads them, as released."""
    printed = ('num_layers', 'num_user_neighbors')
    search_space = trained_space(1e-3, num_layers=Choices(2, (1, 2, 3)))

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_user_neighbors: int = 40,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, num_layers)
        check_positive('embedding_dim', embedding_dim)
        self.num_user_neighbors = num_user_neighbors
        self.user_graph = UserGraph(num_user_neighbors)
        self.features = self.project(modality_x_dict, 4 * embedding_dim)
        num = len(self.modalities)
        self.lins = linears(num, 4 * embedding_dim, embedding_dim)
        std = normal_std(None, self.num_users, embedding_dim)  # As released.
        self.preferences = self.user_tables(embedding_dim, std)
        self.user_mix = torch.nn.Parameter(torch.empty(self.num_users, num))
        if self.mixes_items:
            self.item_mix = torch.nn.Parameter(torch.empty(self.num_items, num))
        self.reset_parameters()

    @property
    def mixes(self) -> list[Tensor]:
        """The weights of modalities, of users and of items."""
        return [self.user_mix, self.item_mix] if self.mixes_items else [self.user_mix]

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for mix in self.mixes:
            with torch.no_grad():
                draws = torch.nn.init.xavier_normal_(torch.empty_like(mix)[..., None])
                mix.copy_(draws.squeeze(-1).softmax(dim=1))

    def forward(
        self, edge_index_dict: EdgeDict, edge_weight_dict: WeightDict = None
    ) -> TeacherOutput:
        adj = self.bipartite(edge_index_dict, edge_weight_dict)
        projected = zip(self.lins, self.features().values(), strict=True)
        items = [lin(F.leaky_relu(x)) for lin, x in projected]
        users = list(self.preferences().values())
        user_x, item_x = (
            torch.cat([l2_normalize(x) for x in parts], dim=1)
            for parts in (users, items)
        )
        user_sum, item_sum = adj.smooth(user_x, item_x, self.num_layers)
        num = len(self.modalities)
        users, items = (
            list(((self.num_layers + 1) * x).chunk(num, dim=1))
            for x in (user_sum, item_sum)
        )
        user_x = self.mix_users(users)
        user_x = user_x + self.user_graph(adj.to_user) @ user_x
        return self.output(user_x, self.mix_modalities(items), users, items)

    def mix_users(self, users: list[Tensor]) -> Tensor:
        """The modalities of users, mixed by their weights."""
        first, *others = self.user_mix.split(1, dim=1)
        total: Tensor = first * torch.stack(users).sum(dim=0)
        for weight, x in zip(others, users[1:], strict=True):
            total = total + weight * x
        return total

    def mix_modalities(self, items: list[Tensor]) -> Tensor:
        """The embeddings of items."""
        return torch.stack(items).sum(dim=0)

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch, as released: ``bpr`` with the logarithm to base 2,
        and ``l2``, the sum over modalities of the mean square of the preferences of the
        batch's users, plus the mean square of all weights of modalities.
        """
        squares = [
            rows(x, batch.user).square().mean() for x in self.preferences().values()
        ]
        squares += [mix.square().mean() for mix in self.mixes]
        bpr = self.bpr(output.x_dict, batch) / math.log(2)
        return {'bpr': bpr, 'l2': torch.stack(squares).sum()}


class _Neighbors(NamedTuple):
    pattern: EdgePattern
    common: Tensor  # Common items of each edge, [E].
    degree: Tensor  # Neighbors of each user, [num_users].


class UserGraph(torch.nn.Module):
    """The users with most items in common, see :class:`DualGNN`.

    Args:
        num_neighbors: Neighbors of a user.

    Shapes:
        - **input:** the operator from items to users
        - **output:** the operator ``(num_users, num_users)``
    """

    def __init__(self, num_neighbors: int) -> None:
        super().__init__()
        check_positive('num_user_neighbors', num_neighbors)
        self.num_neighbors = num_neighbors
        self._neighbors = GraphCache(self._search)
        self._last: tuple[CSRPair, CSRPair] | None = None  # Graph, operator.

    def train(self, mode: bool = True) -> Self:
        """Like :meth:`torch.nn.Module.train`; the next call draws new repeats."""
        self._last = None
        return super().train(mode)

    def forward(self, to_user: CSRPair) -> CSRPair:
        if self._last is None or self._last[0] is not to_user:
            neighbors = self._neighbors(to_user)
            repeats = self._repeats(neighbors) if self.training else None
            self._last = to_user, self.operator(neighbors, repeats)
        return self._last[1]

    def _search(self, to_user: CSRPair) -> _Neighbors:
        num_users, num_items = to_user.shape
        user, item = to_user.edges()
        interactions = Interactions(torch.stack([item, user]), num_items, num_users)
        parts = []
        for start, block in interactions.cooccurrence(_BLOCK):
            rows_, others = block.indices()
            entries = rows_ + start, others, block.values()
            parts.append(top_entries(*entries, self.num_neighbors))
        target, source, common = (torch.cat(part) for part in zip(*parts, strict=True))
        order = (target * num_users + source).argsort()
        target, source = target[order], source[order]
        pattern = EdgePattern(torch.stack([source, target]), (num_users, num_users))
        degree = torch.bincount(target, minlength=num_users)
        return _Neighbors(pattern, common[order], degree)

    def _repeats(self, neighbors: _Neighbors) -> Tensor:
        """How often each edge is drawn beyond once, ``[E]``."""
        degree = neighbors.degree
        missing = torch.where(degree > 0, self.num_neighbors - degree, 0)
        user = missing.clamp_min(0).nonzero().squeeze(1)
        user = user.repeat_interleave(missing[user])
        first = degree.cumsum(0) - degree
        draw = torch.rand(user.numel(), device=user.device) * degree[user]
        edge = first[user] + draw.long().clamp_max(degree[user] - 1)
        return torch.bincount(edge, minlength=neighbors.common.numel())

    @staticmethod
    def operator(neighbors: _Neighbors, repeats: Tensor | None = None) -> CSRPair:
        """The softmax over each user's neighbors.

        Args:
            neighbors: The edges.
            repeats: Further times that an edge counts, ``[E]``. (default: none)
        """
        target, common = neighbors.pattern.target, neighbors.common
        largest = common.new_zeros(neighbors.degree.numel())
        largest.scatter_reduce_(0, target, common, 'amax')
        weight = (common - largest[target]).exp()
        if repeats is not None:
            weight = weight * (1 + repeats)
        total = torch.zeros_like(largest).index_add(0, target, weight)
        return neighbors.pattern.pair(weight / total[target])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_last': None}
