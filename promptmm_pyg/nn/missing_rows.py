"""What stands in place of a modality that a node does not have."""

from typing import Literal

import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice, check_positive, check_probability

Missing = Literal['zero', 'token']


class MissingRows(torch.nn.Module):
    r"""Puts zeros or one trained vector in the rows of the nodes that lack a modality.

    While training, every row that is present counts as absent with probability
    ``dropout``, so that a model learns to do without. Rows that stay are not scaled up
    (unlike in :class:`torch.nn.Dropout`): a node has a modality or it does not.

    The token starts at zero, where the two ways are the same.

    Args:
        channels: The width :math:`D` of the rows.
        mask: Boolean :math:`(N)`, ``True`` where the row is present; ``None`` means
            everywhere. (default: ``None``)
        missing: ``'zero'`` or ``'token'``. (default: ``'zero'``)
        dropout: Rate at which rows are taken for absent. (default: ``0.0``)

    Shapes:
        - **inputs:** rows :math:`(N, D)`, and ``n_id``, the places in the mask of those
          that are given *(optional: all)*
        - **output:** rows :math:`(N, D)`

    Raises:
        ValueError: If ``missing`` is unknown or ``dropout`` is not in [0, 1).

    Example:
        >>> rows = MissingRows(2, mask=torch.tensor([True, False]))
        >>> rows(torch.ones(2, 2))
        tensor([[1., 1.],
                [0., 0.]])
    """

    mask: Tensor | None

    def __init__(
        self,
        channels: int,
        mask: Tensor | None = None,
        missing: Missing = 'zero',
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive('channels', channels)
        check_choice('missing', missing, ('zero', 'token'))
        check_probability('dropout', dropout)
        self.missing = missing
        self.dropout = dropout
        # A fact about the data, like the features: not part of the state.
        self.register_buffer('mask', mask, persistent=False)
        self.token: torch.nn.Parameter | None = None
        if missing == 'token':
            self.token = torch.nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        if self.token is not None:
            torch.nn.init.zeros_(self.token)

    def forward(self, x: Tensor, n_id: Tensor | None = None) -> Tensor:
        present = self.mask
        if present is not None and n_id is not None:
            present = present[n_id]
        if self.training and self.dropout > 0:
            kept = torch.rand(x.size(0), device=x.device) >= self.dropout
            present = kept if present is None else present & kept
        if present is None:
            return x
        instead = x.new_zeros(()) if self.token is None else self.token
        return torch.where(present[:, None], x, instead)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(missing='{self.missing}', "
            f'dropout={self.dropout})'
        )
