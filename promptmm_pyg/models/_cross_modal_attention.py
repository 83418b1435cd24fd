"""Attention of a node's modalities to each other."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive


class CrossModalAttention(torch.nn.Module):
    r"""Gives every modality vector of a node the others that go with it.

    .. math::
        \bar{\mathbf{f}}^m = \big\Vert_{h} \sum_{m'} \beta^h_{m m'} \,
        \mathbf{f}^{m', h}, \qquad
        \beta^h_{m m'} = \mathrm{softmax}_{m'} \left( \frac{(\mathbf{W}^Q_h
        \mathbf{f}^m)^{\top} \mathbf{W}^K_h \mathbf{f}^{m'}}{\sqrt{D / H}} \right)

    Head :math:`h` mixes its own :math:`D / H` channels :math:`\mathbf{f}^{m', h}` as
    they are. Nodes do not see each other.

    Args:
        channels: The width :math:`D`.
        num_heads: The number of heads :math:`H`; divides ``channels``.

    Shapes:
        - **input:** vectors :math:`(M, N, D)`
        - **output:** vectors :math:`(M, N, D)`

    Raises:
        ValueError: If sizes do not fit.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        check_positive('num_heads', num_heads)
        if channels % num_heads:
            raise ValueError(
                f"'num_heads' must divide the width {channels} (got {num_heads})"
            )
        self.num_heads = num_heads
        self.query = torch.nn.Linear(channels, channels, bias=False)
        self.key = torch.nn.Linear(channels, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        torch.nn.init.xavier_uniform_(self.query.weight)
        torch.nn.init.xavier_uniform_(self.key.weight)

    def forward(self, x: Tensor) -> Tensor:
        num_views, num_nodes, channels = x.shape
        # [M, N, H, D / H]; `reshape` with -1 fails on no rows.
        size = (num_views, num_nodes, self.num_heads, channels // self.num_heads)
        query, key = self.query(x).view(size), self.key(x).view(size)
        logits = torch.einsum('mnhd,knhd->mknh', query, key)
        share = (logits / size[-1] ** 0.5).softmax(dim=1)
        mixed = torch.einsum('mknh,knhd->mnhd', share, x.view(size))
        return mixed.reshape(x.shape)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(num_heads={self.num_heads})'
