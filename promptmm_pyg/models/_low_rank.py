"""A constant operator of low rank."""

import torch
from torch import Tensor

from promptmm_pyg.models._score_svd import low_rank
from promptmm_pyg.nn.csr import CSRPair


class LowRank:
    r"""The operator :math:`\mathbf{L} \mathbf{R}^{\top}`, whose entries are never
    written out.

    Args:
        left: :math:`\mathbf{L}`, ``[num_dst, r]``.
        right: :math:`\mathbf{R}`, ``[num_src, r]``.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left = left
        self.right = right

    def t(self) -> 'LowRank':
        """The transpose; shares all memory with this operator."""
        return LowRank(self.right, self.left)

    def __matmul__(self, x: Tensor) -> Tensor:
        return self.left.to(x.dtype) @ (self.right.to(x.dtype).t() @ x)


def truncated_svd(adj: CSRPair, rank: int) -> LowRank:
    """The part of ``adj`` along its largest singular values.

    Args:
        adj: The operator ``[num_dst, num_src]``.
        rank: How many singular values; all, if there are fewer.
    """
    back = adj.t()
    left, right = low_rank(
        lambda x: adj @ x,
        lambda x: back @ x,
        adj.shape,
        min(rank, *adj.shape),
        device=adj.matrices(torch.float)[0].device,
    )
    return LowRank(left, right)
