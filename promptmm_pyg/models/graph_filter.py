"""GraphFilter: a low-pass filter of the interactions, without training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.models.closed_form import (
    ClosedForm,
    Interactions,
    Product,
    low_rank,
)
from promptmm_pyg.nn._features import Features, as_tensor, check_rows
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.search_space import Choices, Range, SearchSpace
from promptmm_pyg.targets import TeacherOutput

_BLOCK = 1024  # Items at a time.


class _Fitted(NamedTuple):
    interactions: Interactions
    item_scale: Tensor  # 1 / sqrt(degree), [num_items, 1].
    popularity: Tensor  # degree ** beta, [num_items, 1].
    polynomial: Tensor | None = None  # Sum of all filters, [num_items, num_items].


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

    With ``polynomial``, this is MM-GF of the `"Training-free Adjustable Polynomial
    Graph Filtering for Ultra-fast Multimodal Recommendation"
    <https://arxiv.org/abs/2503.04406>`_ paper, a sum of polynomial filters of
    similarity graphs of items, by interactions and by each modality:

    .. math::
        \mathrm{score} = \mathbf{A} \Big( f(\mathbf{P}) + \sum_m a_m
        f(\mathbf{P}_m) \Big), \quad \mathbf{P} = (\mathbf{Z}^{\top}
        \mathbf{Z})^{\circ s}, \quad \mathbf{P}_m = (\mathbf{Z}_m
        \mathbf{Z}_m^{\top})^{\circ s}, \quad \mathbf{Z} = \mathbf{D}_u^{-\alpha}
        \mathbf{A} \mathbf{D}_i^{\alpha - 1}

    with the elementwise power :math:`\circ s` and :math:`f(\mathbf{P}) = \lambda
    \sum_k c_k (\mathbf{P} / \lambda)^k`. :math:`\mathbf{Z}_m` are features that are
    normalized by their row and column sums in the same way, after robust scaling: the
    median of each column is subtracted, and the result is divided by the range between
    its quartiles; then the minimum of all entries is subtracted. MM-GF has dense
    matrices of items by items, as :class:`~promptmm_pyg.models.EASE` has.

    The graphs, their scaling, :math:`\alpha` and :math:`s` follow the released code,
    whose filter on Amazon Baby is ``(1.0,)`` with scales ``{'text': 600.0, 'image':
    0.1}``. Of the paper's control of frequency bounds we had no formula: that
    :math:`\lambda` is the largest eigenvalue, so that all frequencies are in [0, 1], is
    our reading, and of no effect on ``(1.0,)``. So is the default of :math:`a_m`, for
    data on which it is not tuned.

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
        modality_weight: :math:`w`; of MM-GF, the ratio of the mean standard deviation
            of a user's scores by one modality to that by interactions.
            (default: ``0.1``)
        polynomial: The coefficients :math:`c_1, c_2, \ldots` of MM-GF, such as
            ``(1.0,)`` or ``(2.0, -1.0)``. (default: none, the filter above)
        modality_scales: :math:`a_m` of MM-GF per modality; the others have
            ``modality_weight``. (default: ``None``)
        degree_exponent: :math:`\alpha` of MM-GF, in [0, 1]. (default: ``0.89``)
        similarity_exponent: :math:`s` of MM-GF. (default: ``0.67``)

    Raises:
        ValueError: If a size, a weight or features do not fit.

    Example:
        >>> model = GraphFilter({'user': 2, 'item': 3}, num_layers=1)
        >>> model = model.fit(torch.tensor([[0, 1, 1], [0, 0, 1]]))
        >>> model.scores(torch.tensor([0])).argmax()
        tensor(0)
    """

    reads_features = True
    search_space = SearchSpace(
        {
            'num_layers': Choices(4, (2, 3, 4, 6, 8)),
            'popularity': Choices(0.5, (0.25, 0.5, 0.75, 1.0)),
            'modality_weight': Range(0.1, 0.01, 1.0),
        }
    )

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
        polynomial: Sequence[float] | None = None,
        modality_scales: Mapping[str, float] | None = None,
        degree_exponent: float = 0.89,
        similarity_exponent: float = 0.67,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type, embedding_dim)
        modality_x_dict = modality_x_dict or {}
        check_positive('num_layers', num_layers)
        check_non_negative('popularity', popularity)
        check_non_negative('modality_weight', modality_weight)
        check_rows(num_nodes_dict, modality_x_dict, {})
        if not 0 <= degree_exponent <= 1:
            raise ValueError(
                f"'degree_exponent' must be in [0, 1] (got {degree_exponent})"
            )
        check_positive('similarity_exponent', similarity_exponent)
        if polynomial is not None and not polynomial:
            raise ValueError("'polynomial' must have a coefficient (got none)")
        unknown = sorted(set(modality_scales or {}) - set(modality_x_dict))
        if unknown:
            raise ValueError(
                f"'modality_scales' must have modalities of {sorted(modality_x_dict)} "
                f'(got {unknown})'
            )
        self.num_layers = num_layers
        self.popularity = popularity
        self.modality_weight = modality_weight
        self.polynomial = None if polynomial is None else tuple(polynomial)
        self.modality_scales = dict(modality_scales or {})
        self.degree_exponent = degree_exponent
        self.similarity_exponent = similarity_exponent
        self._x_dict = {
            modality: as_tensor(x_dict[self.item]).detach().float()
            for modality, x_dict in modality_x_dict.items()
            if self.item in x_dict
            and (modality_weight > 0 or modality in self.modality_scales)
        }
        if polynomial is None:
            self._x_dict = {m: l2_normalize(x) for m, x in self._x_dict.items()}

    def fit(self, edge_index: Tensor) -> Self:
        interactions = Interactions(edge_index, self.num_users, self.num_items)
        degree = interactions.item_degree.float().unsqueeze(1)
        scale = degree.clamp(min=1).rsqrt()
        # Items without interactions have score zero, whatever their weight.
        weight = degree.clamp(min=1) ** self.popularity
        self._fitted = _Fitted(interactions, scale, weight)
        if self.polynomial is not None:
            self._fitted = self._fitted._replace(polynomial=self._sum_of_filters())
        return self

    def scores(self, users: Tensor) -> Tensor:
        fitted = self._state()
        history = fitted.interactions.history_operator(users)
        if fitted.polynomial is not None:
            return history @ fitted.polynomial
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
        also in :attr:`~promptmm_pyg.targets.TeacherOutput.modality_x_dict`. For MM-GF,
        the truncated SVD of all scores, and one of the scores of each modality.

        Args:
            width: The width of the truncated SVD. (default: ``embedding_dim``)
            seed: Seed of the decomposition. (default: ``0``)

        Raises:
            RuntimeError: If the model is not fitted.
            ValueError: If ``width`` exceeds the number of users or items.
        """
        operator = self._state().interactions.operator
        user_x, item_x = self._low_rank(width, seed)
        if self.polynomial is not None:
            x_dict = {self.user: user_x, self.item: item_x}
            return TeacherOutput(x_dict, self._modality_tables(user_x.size(1), seed))
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
        if fitted.polynomial is not None:
            return _products_of(operator, fitted.polynomial)
        return (
            lambda x: operator @ self._filter(fitted.popularity * x),
            lambda x: fitted.popularity * self._filter(operator.t() @ x),
            fitted.item_scale.device,
        )

    def _sum_of_filters(self) -> Tensor:
        """The filters of MM-GF, scaled and summed, ``[num_items, num_items]``."""
        interactions = self._state().interactions
        total = self._apply(self._interaction_similarity())
        deviation = _mean_deviation(interactions, total)
        for modality, x in self._x_dict.items():
            similarity = self._apply(self._content_similarity(x))
            scale = self.modality_scales.get(modality)
            if scale is None:
                own = _mean_deviation(interactions, similarity)
                scale = self.modality_weight * deviation / own if own > 0 else 0.0
            total.add_(similarity, alpha=scale)
        return total

    def _apply(self, similarity: Tensor) -> Tensor:
        r""":math:`\lambda f(\mathbf{P} / \lambda)`, after Horner."""
        assert self.polynomial is not None
        *others, last = self.polynomial
        bound = _largest_eigenvalue(similarity) if others else 1.0
        out = last * similarity
        for coefficient in reversed(others):
            out = (similarity @ out) / bound + coefficient * similarity
        return out

    def _interaction_similarity(self) -> Tensor:
        interactions = self._state().interactions
        alpha, operator = self.degree_exponent, interactions.operator
        users, items = (
            degree.clamp(min=1).float().unsqueeze(1)
            for degree in (interactions.user_degree, interactions.item_degree)
        )
        columns = []
        for block in torch.eye(self.num_items, device=items.device).split(_BLOCK):
            walks = operator @ (items ** (alpha - 1) * block.t())
            walks = operator.t() @ (users ** (-2 * alpha) * walks)
            columns.append(items ** (alpha - 1) * walks)
        return torch.cat(columns, dim=1) ** self.similarity_exponent

    def _content_similarity(self, x: Tensor) -> Tensor:
        scaled = _robust(x)
        alpha = self.degree_exponent
        row, column = scaled.sum(1, keepdim=True), scaled.sum(0, keepdim=True)
        row = torch.where(row > 0, row**-alpha, 0.0)
        column = torch.where(column > 0, column ** (alpha - 1), 0.0)
        z = row * scaled * column
        return (z @ z.t()) ** self.similarity_exponent

    def _modality_tables(
        self, width: int, seed: int
    ) -> dict[str, dict[NodeType, Tensor]]:
        operator, tables = self._state().interactions.operator, {}
        shape = self.num_users, self.num_items
        for modality, x in self._x_dict.items():
            similarity = self._apply(self._content_similarity(x))
            product, transposed, device = _products_of(operator, similarity)
            user_x, item_x = low_rank(
                product, transposed, shape, width, seed=seed, device=device
            )
            tables[modality] = {self.user: user_x, self.item: item_x}
        return tables

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
        names = ['num_layers', 'popularity', 'modality_weight']
        if self.polynomial is not None:
            names = ['polynomial', 'modality_weight', 'modality_scales']
        parts = [f'{name}={getattr(self, name)}' for name in names]
        parts.append(f'modalities={list(self._x_dict)}')
        return f'{self.__class__.__name__}({", ".join(parts)})'


def _products_of(
    operator: CSRPair, similarity: Tensor
) -> tuple[Product, Product, torch.device]:
    return (
        lambda x: operator @ (similarity @ x),
        lambda x: similarity.t() @ (operator.t() @ x),
        similarity.device,
    )


def _mean_deviation(interactions: Interactions, similarity: Tensor) -> float:
    """The mean over users of the standard deviation of their scores."""
    users = torch.arange(interactions.num_users, device=similarity.device)
    deviations = [
        (interactions.history_operator(block) @ similarity).std(dim=1, correction=0)
        for block in users.split(_BLOCK)
    ]
    return float(torch.cat(deviations).mean())


def _largest_eigenvalue(matrix: Tensor, num_steps: int = 30) -> float:
    """That of a symmetric matrix without negative entries, by power iteration; one for
    a matrix of zeros.
    """
    x = matrix.new_ones(matrix.size(0))
    for _ in range(num_steps):
        x = x / x.norm().clamp_min(1e-30)
        x = matrix @ x
    value = float(x.norm())
    return value if value > 0 else 1.0


def _robust(x: Tensor) -> Tensor:
    """Columns on the scale of their quartiles, with a minimum of zero in all."""
    # Sorted, as torch.quantile is limited to 2 ** 24 entries.
    columns = x.sort(dim=0).values
    low, median, high = (_quantile(columns, q) for q in (0.25, 0.5, 0.75))
    scaled = (x - median) / torch.where(high > low, high - low, 1.0)
    out: Tensor = scaled - scaled.min()
    return out


def _quantile(sorted_x: Tensor, q: float) -> Tensor:
    """The interpolated quantile of sorted columns."""
    position = q * (sorted_x.size(0) - 1)
    low = int(position)
    high = min(low + 1, sorted_x.size(0) - 1)
    return torch.lerp(sorted_x[low], sorted_x[high], position - low)


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
