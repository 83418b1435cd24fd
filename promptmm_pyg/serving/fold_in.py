"""The vector of a user who was not there in training."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive

_CHUNK = 65_536  # Item rows turned into doubles at once.
_BLOCK = 2**22  # Numbers in a block of matrices that are solved at once.


class FoldIn:
    r"""Solves for the vector of a new user from the items they took.

    An inner-product model ranks by :math:`\mathbf{u}^{\top} \mathbf{v}_i`. With the
    item table fixed, the user vector that says 1 of the items taken and 0 of the
    catalogue is that of implicit-feedback ridge regression (`"Collaborative Filtering
    for Implicit Feedback Datasets" <https://doi.org/10.1109/ICDM.2008.22>`_), which
    has a closed form:

    .. math::
        \min_{\mathbf{u}} \sum_{i \in H} w_i (1 - \mathbf{u}^{\top} \mathbf{v}_i)^2
        + \alpha \sum_{i} (\mathbf{u}^{\top} \mathbf{v}_i)^2
        + \alpha \rho \, \bar{\sigma} \, \lVert \mathbf{u} \rVert^2

    .. math::
        \mathbf{u} = \Bigl( \sum_{i \in H} w_i \mathbf{v}_i \mathbf{v}_i^{\top}
        + \alpha \mathbf{V}^{\top} \mathbf{V} + \alpha \rho \, \bar{\sigma} \,
        \mathbf{I} \Bigr)^{-1} \sum_{i \in H} w_i \mathbf{v}_i

    where :math:`\bar{\sigma} = \mathrm{tr}(\mathbf{V}^{\top} \mathbf{V}) / D` makes
    :math:`\rho` a pure number: the scale of the table does not change a score. As
    :math:`\rho \to \infty` the direction becomes that of the plain mean of the items;
    as :math:`\rho \to 0` directions that the whole catalogue shares, such as
    popularity, are divided out. A trained user vector lies near the mean, so the
    default stays near it.

    Args:
        item_x: Item embeddings ``[num_items, D]``.
        unseen_weight: :math:`\alpha`, the weight of an item that was not taken, where
            one that was has 1. (default: ``0.1``)
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
        """What all users share of the matrix to solve with, ``[D, D]``."""
        width = self.item_x.size(1)
        gram = torch.zeros(width, width, dtype=torch.double)
        for chunk in self.item_x.split(_CHUNK):
            x = chunk.cpu().double()
            gram += x.t() @ x
        # A table of zeros has no scale; every user is zero then.
        scale = gram.diagonal().mean().item() or 1.0
        gram.diagonal().add_(self.ridge * scale)
        return self.unseen_weight * gram

    def __call__(
        self, rows: Sequence[Tensor], weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """User vectors ``[B, D]`` on the CPU, at least of single precision.

        Args:
            rows: The item rows of each user, any number of them; one that stands
                twice counts twice.
            weights: A positive weight for each of these rows. (default: 1)
        """
        dtype = torch.promote_types(self.item_x.dtype, torch.float)
        width = self.item_x.size(1)
        size = max(1, _BLOCK // width**2)
        blocks = [torch.empty(0, width, dtype=dtype)]
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            given = None if weights is None else weights[block]
            blocks.append(self._solve(rows[block], given).to(dtype))
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
