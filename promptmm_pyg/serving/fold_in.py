"""Vectors of users who were not in the training data, from their interactions."""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._ids import RawId, RawIds, Unknown, is_id

_CHUNK = 65_536  # Item rows converted to double precision at once.
_BLOCK = 2**22  # Numbers in a batch of matrices that are solved at once.
_HINT = "Pass unknown='ignore' to leave such items out"

History = Sequence[RawId] | np.ndarray


class FoldIn:
    r"""Solves for the vector of a new user, given the items they interacted with.

    An inner-product model ranks by :math:`\mathbf{u}^{\top} \mathbf{v}_i`. With fixed
    item embeddings, the user vector with target 1 for the history :math:`H` and 0 for
    the catalogue is that of implicit-feedback ridge regression (`"Collaborative
    Filtering for Implicit Feedback Datasets"
    <https://doi.org/10.1109/ICDM.2008.22>`_), which has a closed form:

    .. math::
        \min_{\mathbf{u}} \sum_{i \in H} w_i (1 - \mathbf{u}^{\top} \mathbf{v}_i)^2
        + \alpha \sum_{i} (\mathbf{u}^{\top} \mathbf{v}_i)^2
        + \alpha \rho \, \bar{\sigma} \, \lVert \mathbf{u} \rVert^2

    .. math::
        \mathbf{u} = \Bigl( \sum_{i \in H} w_i \mathbf{v}_i \mathbf{v}_i^{\top}
        + \alpha \mathbf{V}^{\top} \mathbf{V} + \alpha \rho \, \bar{\sigma} \,
        \mathbf{I} \Bigr)^{-1} \sum_{i \in H} w_i \mathbf{v}_i

    where :math:`\bar{\sigma} = \mathrm{tr}(\mathbf{V}^{\top} \mathbf{V}) / D` makes
    :math:`\rho` independent of the embeddings' scale. As :math:`\rho \to \infty` the
    direction becomes that of the mean of the items; as :math:`\rho \to 0` directions
    that the whole catalogue shares, such as popularity, are divided out. A trained
    user vector is close to the mean, and so is the default.

    Args:
        item_x: Item embeddings ``[num_items, D]``.
        unseen_weight: :math:`\alpha`, the weight of an item without interaction,
            relative to one with. (default: ``0.1``)
        ridge: :math:`\rho`. (default: ``10.0``)

    Raises:
        ValueError: If a weight is not positive.

    Example:
        >>> fold_in = FoldIn(torch.eye(2), unseen_weight=1.0, ridge=2.0)
        >>> fold_in([torch.tensor([1])])  # 1 / (1 + 1 + 2)
        tensor([[0.0000, 0.2500]])
    """

    def __init__(
        self, item_x: Tensor, *, unseen_weight: float = 0.1, ridge: float = 10.0
    ) -> None:
        check_positive('unseen_weight', unseen_weight)
        check_positive('ridge', ridge)
        self.item_x = item_x
        self.unseen_weight = unseen_weight
        self.ridge = ridge

    @cached_property
    def _catalogue(self) -> Tensor:
        """The part of the matrix that all users share, ``[D, D]``."""
        width = self.item_x.size(1)
        gram = torch.zeros(width, width, dtype=torch.double)
        for chunk in self.item_x.split(_CHUNK):
            x = chunk.cpu().double()
            gram += x.t() @ x
        # Embeddings of zeros have no scale, and every user is zero then.
        scale = gram.diagonal().mean().item() or 1.0
        gram.diagonal().add_(self.ridge * scale)
        return self.unseen_weight * gram

    def __call__(
        self, rows: Sequence[Tensor], weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """User vectors ``[B, D]`` on the CPU, in single precision or better.

        Args:
            rows: The item rows of each user; repeats count repeatedly.
            weights: A positive weight for each of these rows. (default: 1)
        """
        dtype = torch.promote_types(self.item_x.dtype, torch.float)
        width = self.item_x.size(1)
        size = max(1, _BLOCK // width**2)
        blocks = [torch.empty(0, width, dtype=dtype)]
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            block_weights = None if weights is None else weights[block]
            blocks.append(self._solve(rows[block], block_weights).to(dtype))
        return torch.cat(blocks)

    def _solve(
        self, rows: Sequence[Tensor], weights: Sequence[Tensor] | None
    ) -> Tensor:
        matrix = self._catalogue.repeat(len(rows), 1, 1)
        target = self._catalogue.new_zeros(len(rows), self.item_x.size(1), 1)
        for number, row in enumerate(rows):
            x = self.item_x[row.to(self.item_x.device)].cpu().double()
            weighted = x if weights is None else x * weights[number].double()[:, None]
            matrix[number] += weighted.t() @ x
            target[number, :, 0] = weighted.sum(0)
        return torch.cholesky_solve(target, torch.linalg.cholesky(matrix)).squeeze(-1)


class Histories(NamedTuple):
    """The item rows of each user, and their weights."""

    rows: list[Tensor]
    weights: list[Tensor] | None
    scalar: bool
    """Whether the input was one history, not a sequence of them."""

    def seen(self, num_items: int) -> SeenItems:
        """The histories as seen items."""
        user = torch.repeat_interleave(torch.tensor([row.numel() for row in self.rows]))
        item = torch.cat([torch.empty(0, dtype=torch.long), *self.rows])
        edges = torch.stack([user, item])
        return SeenItems.from_edge_index(edges, len(self.rows), num_items)


def read_histories(
    items: RawIds,
    histories: object,
    weights: object = None,
    unknown: Unknown = 'raise',
) -> Histories:
    """Reads one history or several.

    Args:
        items: The catalogue.
        histories: One id, ids, or sequences of ids.
        weights: As many positive numbers. (default: none)
        unknown: Whether ids that are not in the catalogue raise or are ignored.

    Raises:
        ValueError: If a history is empty, an id is unknown, or weights do not match.
    """
    check_choice('unknown', unknown, ('raise', 'ignore'))
    nested, scalar = _nested(histories)
    values = _weights_of(weights, nested, scalar=scalar)
    rows, row_weights = [], []
    for number, history in enumerate(nested):
        name = 'histories' if scalar else f'histories[{number}]'
        places = list(range(len(history)))
        if unknown == 'ignore':
            places = [place for place in places if history[place] in items]
        if not places:
            what = 'known item' if len(history) else 'item'
            raise ValueError(
                f"'{name}' must contain at least one {what} (got {len(history)} "
                f'items). For a user without any, recommend popular items'
            )
        ids = [history[place] for place in places]
        rows.append(torch.tensor(items.rows(name, ids, _HINT)))
        if values is not None:
            row_weights.append(torch.tensor([values[number][p] for p in places]))
    return Histories(rows, None if values is None else row_weights, scalar)


def _nested(histories: object) -> tuple[list[list[Any]], bool]:
    """A list of histories, and whether it was a single history."""
    if is_id(histories):
        return [[histories]], True
    if not isinstance(histories, Iterable):
        raise TypeError(
            "'histories' must be a sequence of item ids, or of such sequences "
            f"(got '{type(histories).__name__}')"
        )
    outer = [x.tolist() if isinstance(x, Tensor) else x for x in histories]
    flat = [not isinstance(x, Iterable) or is_id(x) for x in outer]
    if all(flat):  # An empty sequence is one empty history.
        return [outer], True
    if any(flat):
        raise ValueError(
            "'histories' must contain ids or sequences of ids, not both "
            f'(got {outer[flat.index(True)]!r} beside a sequence)'
        )
    return [list(history) for history in outer], False


def _weights_of(
    weights: object, histories: list[list[Any]], *, scalar: bool
) -> list[list[float]] | None:
    if weights is None:
        return None
    outer: Any = [weights] if scalar else weights
    values: list[list[float]] = [
        np.array(list(row) if isinstance(row, Iterable) else [row], float).tolist()
        for row in outer
    ]
    sizes, expected = [len(row) for row in values], [len(row) for row in histories]
    if sizes != expected:
        raise ValueError(
            f"'weights' must contain one number for each item of 'histories' (got "
            f'{sizes[:5]} for {expected[:5]})'
        )
    for weight in (weight for row in values for weight in row):
        if not 0 < weight < math.inf:
            raise ValueError(
                f"'weights' must contain positive finite numbers (got {weight})"
            )
    return values
