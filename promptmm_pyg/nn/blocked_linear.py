"""Products with large constant features, in blocks of rows."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive

_BLOCK_NUMBERS = 2**22  # Of a block by default: 16 MiB in float32.
_HALF = (torch.float16, torch.bfloat16)


class ChunkedFeatures:
    r"""Constant features :math:`(N, F)` that are read ``block_rows`` rows at a time, in
    the precision and on the device of the other factor of a product.

    The modules of this package accept it in place of a tensor, for features that are on
    disk (:func:`~promptmm_pyg.data.open_features`), in half precision or larger than
    the memory of a GPU. ``Module.to`` and ``copy.deepcopy`` do not move or copy it.

    Args:
        x: Features :math:`(N, F)` of any floating type, in memory or memory-mapped.
        mask: Boolean :math:`(N)`, ``False`` where a row is absent and read as zeros.
            (default: ``None``)
        block_rows: Rows at a time. (default: rows with about four million numbers)
        products: The precision of products. ``torch.bfloat16`` rounds the other factor
            and the result of a block to eight bits, which is more than twice as fast on
            processors with such instructions. Sums over blocks are in float32.
            (default: that of the other factor)

    Raises:
        ValueError: If shapes do not fit or ``x`` requires a gradient.

    Example:
        >>> x = ChunkedFeatures(torch.ones(1000, 2, dtype=torch.float16), block_rows=64)
        >>> cross(torch.ones(1000, 1), x)
        tensor([[1000., 1000.]])
    """

    def __init__(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        block_rows: int | None = None,
        products: torch.dtype | None = None,
    ) -> None:
        if products is not None and not products.is_floating_point:
            raise ValueError(
                f"'products' must be a floating type such as torch.bfloat16 (got "
                f'{products})'
            )
        if x.dim() != 2 or not x.is_floating_point() or x.requires_grad:
            raise ValueError(
                f"'x' must be a constant floating matrix [N, F] (got {x.dtype} "
                f'{list(x.shape)}, requires_grad={x.requires_grad})'
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:1]):
            raise ValueError(
                f"'mask' must be a bool tensor [{x.size(0)}] (got {mask.dtype} "
                f'{list(mask.shape)})'
            )
        if block_rows is None:
            block_rows = max(1, _BLOCK_NUMBERS // max(1, x.size(1)))
        check_positive('block_rows', block_rows)
        self.x = x
        self.mask = None if mask is None else mask.to(x.device)
        self.block_rows = block_rows
        self.products = products

    @property
    def shape(self) -> torch.Size:
        """``(N, F)``."""
        return self.x.shape

    @property
    def device(self) -> torch.device:
        """The device of the features."""
        return self.x.device

    def dim(self) -> int:
        return 2

    def size(self, dim: int) -> int:
        """The number of rows or of columns."""
        return int(self.x.size(dim))

    def detach(self) -> 'ChunkedFeatures':
        """Returns itself: the features are constant."""
        return self

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows ``index``, with zeros in absent rows.

        Raises:
            ValueError: If ``dim`` is not 0.
        """
        if dim != 0:
            raise ValueError(f"'dim' must be 0, the rows (got {dim})")
        index = index.to(self.device)
        rows = self.x.index_select(0, index)
        if self.mask is not None:
            rows.masked_fill_(~self.mask[index, None], 0.0)
        return rows

    def rows(self, index: Tensor) -> 'ChunkedFeatures':
        """The rows ``index``, copied into memory."""
        x = self.index_select(0, index)
        return ChunkedFeatures(x, block_rows=self.block_rows, products=self.products)

    def blocks(
        self, dtype: torch.dtype, device: torch.device
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields the slice of each block of rows, and the block."""
        for start in range(0, self.size(0), self.block_rows):
            rows = slice(start, start + self.block_rows)
            block = self.x[rows]
            if self.mask is not None and not bool(self.mask[rows].all()):
                block = block.masked_fill(~self.mask[rows, None], 0.0)
            yield rows, block.to(device=device, dtype=dtype)

    def whole(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """All rows as one tensor."""
        out = torch.empty(self.shape, dtype=dtype, device=device)
        for rows, block in self.blocks(dtype, device):
            out[rows] = block
        return out

    def present(self) -> Tensor:
        """Boolean ``[N]``: which rows are not zero."""
        present = self.x.new_zeros(self.size(0), dtype=torch.bool)
        for rows, block in self.blocks(self.x.dtype, self.device):
            present[rows] = (block != 0).any(dim=1)
        return present

    def __deepcopy__(self, memo: dict[int, Any]) -> 'ChunkedFeatures':
        return self

    def __repr__(self) -> str:
        products = '' if self.products is None else f', products={self.products}'
        return (
            f'{self.__class__.__name__}({list(self.shape)}, {self.x.dtype}, '
            f'block_rows={self.block_rows}{products})'
        )


def in_blocks(
    x: Tensor | ChunkedFeatures, mask: Tensor | None = None
) -> ChunkedFeatures | None:
    """``x`` as :class:`ChunkedFeatures` if it is that already or in half precision."""
    if isinstance(x, Tensor):
        return ChunkedFeatures(x.detach(), mask) if x.dtype in _HALF else None
    return x if mask is None else ChunkedFeatures(x.x, mask, x.block_rows, x.products)


def project(
    x: Tensor | ChunkedFeatures, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    r"""Returns :math:`\mathbf{X} \mathbf{W}^{\top} + \mathbf{b}`, in blocks of rows for
    :class:`ChunkedFeatures`, which get no gradient.

    Args:
        x: Features ``[N, F]``.
        weight: :math:`\mathbf{W}` ``[D, F]``.
        bias: :math:`\mathbf{b}` ``[D]``. (default: ``None``)
    """
    if isinstance(x, Tensor):
        return F.linear(x, weight, bias)
    out: Tensor = _project(weight, x)
    return out if bias is None else out + bias


def cross(left: Tensor, x: Tensor | ChunkedFeatures) -> Tensor:
    r"""Returns :math:`\mathbf{L}^{\top} \mathbf{X}` ``[P, F]``, in blocks of rows for
    :class:`ChunkedFeatures`, which get no gradient.

    Args:
        left: :math:`\mathbf{L}` ``[N, P]``.
        x: Features ``[N, F]``.
    """
    if isinstance(x, Tensor):
        return left.t() @ x
    out: Tensor = _cross(left, x)
    return out


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: ChunkedFeatures) -> Tensor:
        ctx.x = x
        out = weight.new_empty(x.size(0), weight.size(0))
        factor = weight.t().to(x.products or weight.dtype)
        for rows, block in x.blocks(factor.dtype, weight.device):
            if x.products is None:
                torch.mm(block, factor, out=out[rows])
            else:
                out[rows] = block @ factor
        return out

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        # Through `apply` again, so that second derivatives exist.
        return _cross(grad[0], ctx.x), None


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, x: ChunkedFeatures) -> Tensor:
        ctx.x = x
        # Sums over many rows lose too much in half precision.
        dtype = torch.float32 if left.dtype in _HALF else left.dtype
        out = left.new_zeros(left.size(1), x.size(1), dtype=dtype)
        for rows, block in x.blocks(x.products or dtype, left.device):
            factor = left[rows].t().to(block.dtype)
            if x.products is None:
                out.addmm_(factor, block)
            else:
                out += factor @ block
        return out.to(left.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return _project(grad[0], ctx.x), None


_project: Any = _Project.apply
_cross: Any = _Cross.apply


class BlockedLinear(torch.nn.Linear):
    r"""A :class:`torch.nn.Linear` on constant features that are read in blocks of rows,
    in the forward and for the gradient of the weight: features may be on disk or in
    half precision, with a weight in ``float32``. The state is that of
    :class:`torch.nn.Linear`.

    Args:
        in_features: The number of raw features :math:`F`.
        out_features: The width :math:`D`.
        bias: Whether there is a bias. (default: ``True``)
        block_rows: Rows at a time. (default: as in :class:`ChunkedFeatures`)

    Shapes:
        - **input:** features :math:`(N, F)`, or :class:`ChunkedFeatures`
        - **output:** :math:`(N, D)`, in the precision of the weight

    Raises:
        ValueError: If shapes do not fit or the features require a gradient.

    Example:
        >>> layer = BlockedLinear(8, 2, block_rows=100)
        >>> layer(torch.ones(1000, 8, dtype=torch.float16)).shape
        torch.Size([1000, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        block_rows: int | None = None,
    ) -> None:
        check_positive('in_features', in_features)
        check_positive('out_features', out_features)
        if block_rows is not None:
            check_positive('block_rows', block_rows)
        super().__init__(in_features, out_features, bias)
        self.block_rows = block_rows

    def forward(self, x: Tensor | ChunkedFeatures) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.in_features:
            raise ValueError(
                f"'x' must have shape [N, {self.in_features}] (got {list(x.shape)})"
            )
        if isinstance(x, Tensor):
            x = ChunkedFeatures(x, block_rows=self.block_rows)
        return project(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, block_rows={self.block_rows}'
