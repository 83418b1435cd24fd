"""Subgraphs in which busy nodes keep fewer of their edges."""

import torch
from torch import Tensor

from promptmm_pyg.nn.csr import CSRPair


class EdgeSampler:
    r"""Draws a fixed share of the edges of an operator without replacement, an edge
    between nodes of degree :math:`d_u` and :math:`d_i` in proportion to
    :math:`1 / \sqrt{d_u d_i}`, and normalizes what is left symmetrically.

    Draws are those of the Efraimidis-Spirakis scheme: the edges with the smallest
    :math:`E_e / p_e`, :math:`E_e` exponential. The order of both matrices is known
    once, so a draw sorts nothing. Randomness is the global generator's, like that of
    dropout. The weights of the operator itself do not matter.

    Args:
        adj: The operator, one entry an edge.
    """

    def __init__(self, adj: CSRPair) -> None:
        matrix = adj.matrices(torch.float)[0]
        self.size = adj.shape
        col = matrix.col_indices().long()
        counts = matrix.crow_indices().diff().long()
        ids = torch.arange(self.size[0], device=col.device)
        self._row, self._col = ids.repeat_interleave(counts), col
        self._transposed = (col * self.size[0] + self._row).argsort()
        row_degree, col_degree = self._degrees(self._row, self._col)
        # In double: two keys that tie would both stay.
        product = row_degree.double()[self._row] * col_degree.double()[self._col]
        self._root = product.sqrt()

    def sample(self, keep_ratio: float) -> CSRPair:
        """The operator of one subgraph.

        Args:
            keep_ratio: The share of edges that stay, in (0, 1]; at least one does.
        """
        num_edges = self._row.numel()
        num_kept = max(1, round(keep_ratio * num_edges))
        keep = torch.ones_like(self._row, dtype=torch.bool)
        if num_kept < num_edges:
            key = torch.empty_like(self._root).exponential_() * self._root
            keep = key <= key.kthvalue(num_kept).values
        row_degree, col_degree = self._degrees(self._row[keep], self._col[keep])
        scale = row_degree.float()[self._row] * col_degree.float()[self._col]
        weight = scale.rsqrt()
        other = self._transposed
        return CSRPair(
            _csr(self._row, self._col, weight, keep, self.size),
            _csr(
                self._col[other],
                self._row[other],
                weight[other],
                keep[other],
                self.size[::-1],
            ),
            reused=False,
        )

    def _degrees(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.bincount(row, minlength=self.size[0]),
            torch.bincount(col, minlength=self.size[1]),
        )


def _csr(
    row: Tensor, col: Tensor, weight: Tensor, keep: Tensor, size: tuple[int, int]
) -> Tensor:
    ptr = row.new_zeros(size[0] + 1)
    torch.cumsum(torch.bincount(row[keep], minlength=size[0]), dim=0, out=ptr[1:])
    small = max(*size, row.numel()) < 2**31
    dtype = torch.int32 if small else torch.int64
    return torch.sparse_csr_tensor(
        ptr.to(dtype),
        col[keep].to(dtype),
        weight[keep],
        size,
        check_invariants=False,
    )
