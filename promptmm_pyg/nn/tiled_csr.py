"""A CSR matrix whose product with a dense one stays in the cache.

Every row of ``A @ x`` gathers rows from all over ``x``. Once ``x`` exceeds the cache,
each of them is waited for on its own, and the product takes several times as long as
its bytes need at the bandwidth of the memory. In tiles of columns it reads one part of
``x`` at a time, which stays in the cache, and adds to the result; the result is then
read and written once for every tile.
"""

from typing import cast

import torch
from torch import Tensor

TILE_BYTES = 2**23  # Of `x`; what a laptop's last-level cache holds.


class TiledCSR:
    """A ``torch.sparse_csr`` matrix; multiplied in tiles of its columns, on the CPU and
    where ``x`` has more than ``TILE_BYTES``. Tiles are made when they are first needed
    and kept: 8 bytes for an edge in single precision, and 4 for a row and tile. To make
    them takes as long as a few products.

    Args:
        matrix: Of any size and precision.
        tile: Whether to use tiles at all.
    """

    def __init__(self, matrix: Tensor, tile: bool) -> None:
        self.matrix = matrix
        self.tile = tile
        self._tiles: dict[int, list[Tensor]] = {1: [matrix]}

    def matmul(self, x: Tensor, added_to: Tensor | None = None) -> Tensor:
        """The product with ``x``, ``[num_columns, F]``; added in place to ``added_to``,
        contiguous ``[num_rows, F]``, if that is given.
        """
        if x.device.type != 'cpu' or not _writes_into(x.dtype):
            product = csr_matmul(self.matrix, x)
            return product if added_to is None else added_to.add_(product)
        x = x.contiguous()
        keep = added_to is not None
        out = (
            x.new_empty(self.matrix.size(0), x.size(1))
            if added_to is None
            else added_to
        )
        first = 0
        for tile in self._in_tiles(self._num_tiles(x)):
            last = first + tile.size(1)
            _add_product(out, tile, x[first:last], keep=keep or first > 0)
            first = last
        return out

    def _num_tiles(self, x: Tensor) -> int:
        """A power of two, so that different widths share their tiles."""
        if not self.tile:
            return 1
        fitting = -(-x.numel() * x.element_size() // TILE_BYTES)
        # Reading and writing the result again has to cost less than it saves: at least
        # two edges for every row and tile.
        worth = self.matrix.values().numel() // (2 * max(1, self.matrix.size(0)))
        most = min(worth, self.matrix.size(1))
        num_tiles = 1
        while num_tiles < fitting and 2 * num_tiles <= most:
            num_tiles *= 2
        return num_tiles

    def _in_tiles(self, num_tiles: int) -> list[Tensor]:
        if num_tiles not in self._tiles:
            self._tiles[num_tiles] = column_tiles(self.matrix, num_tiles)
        return self._tiles[num_tiles]


def column_tiles(matrix: Tensor, num_tiles: int) -> list[Tensor]:
    """Cuts a CSR matrix into blocks of columns; together they are the matrix."""
    num_rows, num_columns = matrix.shape
    col, weight = matrix.col_indices(), matrix.values()
    row = torch.repeat_interleave(
        torch.arange(num_rows), matrix.crow_indices().diff().long()
    )
    width = -(-num_columns // num_tiles)
    tiles = []
    for first in range(0, num_columns, width):
        last = min(first + width, num_columns)
        kept = ((col >= first) & (col < last)).nonzero().flatten()
        rowptr = col.new_zeros(num_rows + 1)
        rowptr[1:] = torch.bincount(row[kept], minlength=num_rows).cumsum(0)
        tiles.append(
            torch.sparse_csr_tensor(
                rowptr,
                col[kept] - first,
                weight[kept],
                (num_rows, last - first),
                check_invariants=False,
            )
        )
    return tiles


def csr_matmul(matrix: Tensor, x: Tensor) -> Tensor:
    """The product of a ``torch.sparse_csr`` matrix with a dense one, in one piece."""
    if x.device.type != 'cpu':
        return matrix @ x
    x = x.contiguous()
    if _writes_into(x.dtype):
        out = x.new_empty(matrix.size(0), x.size(1))
        _add_product(out, matrix, x, keep=False)
        return out
    if matrix.values().numel() == 0:
        return x.new_zeros(matrix.size(0), x.size(1))
    return cast(Tensor, torch.sparse.mm(matrix, x, 'sum'))


def _writes_into(dtype: torch.dtype) -> bool:
    return torch.backends.mkl.is_available() and dtype in (torch.float, torch.double)


def _add_product(out: Tensor, matrix: Tensor, x: Tensor, *, keep: bool) -> None:
    """Writing into ``out`` spares ``matrix @ x`` its copy: three times as fast."""
    if matrix.values().numel():
        torch.addmm(out, matrix, x, beta=float(keep), out=out)
    elif not keep:
        out.zero_()
