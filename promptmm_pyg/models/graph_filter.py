"""GraphFilter: a low-pass filter of the interactions, without training."""

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.models.closed_form import ClosedForm, Interactions, Product
from promptmm_pyg.nn._features import Features, as_tensor, check_rows
from promptmm_pyg.targets import TeacherOutput


class _Fitted(NamedTuple):
    interactions: Interactions
    item_scale: Tensor  # 1 / sqrt(degree), [num_items, 1].
    popularity: Tensor  # degree ** beta, [num_items, 1].


class GraphFilter(ClosedForm[_Fitted]):
    r"""A graph filter of each user's items, plus the similarity of their content.

    The layers of LightGCN applied to the interactions, as in the `"How Powerful is
    Graph Convolution for Recommendation?" <https://arxiv.org/abs/2108.07567>`_ paper.
    In place of its ideal low-pass filter there is a power :math:`K`, and popularity has
    an exponent.

    .. math::
        \mathbf{S} = \mathbf{D}_i^{-1/2} \mathbf{A}^{\top} \mathbf{D}_u^{-1}
        \mathbf{A} \mathbf{D}_i^{-1/2}, \qquad
        \mathbf{C} = \mathbf{A} \mathbf{S}^K \mathbf{D}_i^{\beta}

    The content score is the cosine between an item and the mean of a user's items,

    .. math::
        \mathbf{M}^m = \mathrm{norm}(\mathbf{A} \hat{\mathbf{X}}^m)
        \hat{\mathbf{X}}^{m \top}, \quad \hat{\mathbf{X}}^m = \mathrm{norm}
        (\mathbf{X}^m), \qquad
        \mathrm{score}_{ui} = \frac{C_{ui}}{\sigma_u(\mathbf{C})} + w \sum_m
        \frac{M^m_{ui}}{\sigma_u(\mathbf{M}^m)}

    where :math:`\sigma_u` is the standard deviation of a user's scores over all items
    (all-zero scores stay zero). No matrix of users by items or items by items is
    formed.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Centered features ``{modality: {item: [num_items, F_m]}}``
            (:class:`~promptmm_pyg.transforms.StandardizeModalities`).
            (default: ``None``)
        edge_type: ``(user, relation, item)``, the interactions.
            (default: ``INTERACTS``)
        embedding_dim: The default width of :meth:`as_output`. (default: ``64``)
        num_layers: The power :math:`K`. (default: ``4``)
        popularity: The exponent :math:`\beta`. (default: ``0.5``)
        modality_weight: :math:`w`. (default: ``0.1``)

    Raises:
        ValueError: If a size, a weight or features do not fit.

    Example:
        >>> model = GraphFilter({'user': 2, 'item': 3}, num_layers=1)
        >>> model = model.fit(torch.tensor([[0, 1, 1], [0, 0, 1]]))
        >>> model.scores(torch.tensor([0])).argmax()
        tensor(0)
    """

    reads_features = True

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        embedding_dim: int = 64,
        num_layers: int = 4,
        popularity: float = 0.5,
        modality_weight: float = 0.1,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, embedding_dim)
        modality_x_dict = modality_x_dict or {}
        check_positive('num_layers', num_layers)
        check_non_negative('popularity', popularity)
        check_non_negative('modality_weight', modality_weight)
        check_rows(num_nodes_dict, modality_x_dict, {})
        self.num_layers = num_layers
        self.popularity = popularity
        self.modality_weight = modality_weight
        self._x_dict = {
            modality: l2_normalize(as_tensor(x_dict[self.item]).detach().float())
            for modality, x_dict in modality_x_dict.items()
            if self.item in x_dict and modality_weight > 0
        }

    def fit(self, edge_index: Tensor) -> Self:
        interactions = Interactions(edge_index, self.num_users, self.num_items)
        degree = interactions.item_degree.float().unsqueeze(1)
        scale = degree.clamp(min=1).rsqrt()
        # Items without interactions have score zero, whatever their weight.
        weight = degree.clamp(min=1) ** self.popularity
        self._fitted = _Fitted(interactions, scale, weight)
        return self

    def scores(self, users: Tensor) -> Tensor:
        fitted = self._state()
        history = fitted.interactions.history_operator(users)
        identity = torch.eye(users.numel(), device=fitted.item_scale.device)
        filtered = fitted.popularity * self._filter(history.t() @ identity)
        out = _standardized(filtered.t())
        for x in self._x_dict.values():
            content = l2_normalize(history @ x) @ x.t()
            out = out + self.modality_weight * _standardized(content)
        return out

    def as_output(self, width: int | None = None, seed: int = 0) -> TeacherOutput:
        """Embeddings for distillation and serving: the truncated SVD of the filter,
        concatenated with one part per modality, of the width of its features, which is
        also in :attr:`~promptmm_pyg.targets.TeacherOutput.modality_x_dict`.

        Args:
            width: The width of the truncated SVD. (default: ``embedding_dim``)
            seed: Seed of the decomposition. (default: ``0``)

        Raises:
            RuntimeError: If the model is not fitted.
            ValueError: If ``width`` exceeds the number of users or items.
        """
        operator = self._state().interactions.operator
        user_x, item_x = self._low_rank(width, seed)
        user_parts = [_standardized_users(user_x, item_x)]
        item_parts = [item_x]
        modality_x_dict = {}
        for modality, x in self._x_dict.items():
            profile = l2_normalize(operator @ x)
            modality_x_dict[modality] = {self.user: profile, self.item: x}
            user_parts.append(self.modality_weight * _standardized_users(profile, x))
            item_parts.append(x)
        x_dict = {
            self.user: torch.cat(user_parts, dim=1),
            self.item: torch.cat(item_parts, dim=1),
        }
        return TeacherOutput(x_dict, modality_x_dict)

    def _products(self) -> tuple[Product, Product, torch.device]:
        fitted = self._state()
        operator = fitted.interactions.operator
        return (
            lambda x: operator @ self._filter(fitted.popularity * x),
            lambda x: fitted.popularity * self._filter(operator.t() @ x),
            fitted.item_scale.device,
        )

    def _filter(self, x: Tensor) -> Tensor:
        r""":math:`\mathbf{S}^K \mathbf{x}`, for item vectors ``[num_items, B]``."""
        fitted = self._state()
        operator = fitted.interactions.operator
        degree = fitted.interactions.user_degree.clamp(min=1).float().unsqueeze(1)
        for _ in range(self.num_layers):
            mean = (operator @ (fitted.item_scale * x)) / degree
            x = fitted.item_scale * (operator.t() @ mean)
        return x

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}(num_layers={self.num_layers}, '
            f'popularity={self.popularity}, modality_weight={self.modality_weight}, '
            f'modalities={list(self._x_dict)})'
        )


def _standardized(scores: Tensor) -> Tensor:
    """Rows divided by their standard deviation; constant rows become zero."""
    deviation = scores.std(dim=1, correction=0, keepdim=True)
    return torch.where(deviation > 0, scores / deviation, 0.0)


def _standardized_users(user_x: Tensor, item_x: Tensor) -> Tensor:
    """User rows divided by the standard deviation of their scores, from the covariance
    of the items.
    """
    centered = item_x - item_x.mean(dim=0)
    covariance = centered.t() @ centered / item_x.size(0)
    variance = ((user_x @ covariance) * user_x).sum(dim=1, keepdim=True)
    return torch.where(variance > 0, user_x * variance.clamp(min=1e-30).rsqrt(), 0.0)
