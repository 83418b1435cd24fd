"""Ridge regression with an intercept, for several penalties."""

from functools import cached_property

import torch
from torch import Tensor

_CHUNK = 8192


class Ridge:
    """Keeps what all penalties share: one matrix, of the smaller side.

    Args:
        x: Inputs ``[N, F]``.
        y: Outputs ``[N, D]``.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.mean_x = x.mean(0, dtype=torch.double)
        self.mean_y = y.mean(0, dtype=torch.double)

    @cached_property
    def _by_rows(self) -> bool:
        return self.x.size(0) < self.x.size(1)

    @cached_property
    def _gram(self) -> tuple[Tensor, Tensor]:
        """The matrix to be regularized, and what is solved for."""
        if self._by_rows:
            x, y = self._centered(self.x, self.y)
            return x @ x.t(), y
        width = self.x.size(1)
        gram = torch.zeros(width, width, dtype=torch.double)
        cross = torch.zeros(width, self.y.size(1), dtype=torch.double)
        chunks = zip(self.x.split(_CHUNK), self.y.split(_CHUNK), strict=True)
        for x_chunk, y_chunk in chunks:  # Doubles of all rows may not fit.
            x, y = self._centered(x_chunk, y_chunk)
            gram += x.t() @ x
            cross += x.t() @ y
        return gram, cross

    def _centered(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.double() - self.mean_x, y.double() - self.mean_y

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Weight ``[F, D]`` and bias ``[D]`` for ``penalty`` in units of the mean
        eigenvalue of the inputs' covariance.
        """
        gram, target = self._gram
        # Inputs that are all equal have no scale, and then no weight either.
        scale = gram.diagonal().mean().item() or 1.0
        matrix = gram.clone()
        matrix.diagonal().add_(penalty * scale)
        weight = torch.cholesky_solve(target, torch.linalg.cholesky(matrix))
        if self._by_rows:
            weight = (self.x.double() - self.mean_x).t() @ weight
        return weight.float(), (self.mean_y - self.mean_x @ weight).float()
