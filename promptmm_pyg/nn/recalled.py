"""The prompt's share of a reduction layer, in few passes over memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TINY = 1e-12  # Of a norm.


class _AddRecalled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, prompt: Tensor, image: Tensor, gram: Tensor, weight: float
    ) -> Tensor:
        width = image.size(1)
        maps = torch.cat([image, gram], dim=1)
        products = prompt @ maps
        squared = torch.linalg.vecdot(products[:, width:], prompt).unsqueeze_(-1)
        inverse = squared.rsqrt().masked_fill_(squared <= _TINY**2, 0.0)
        ctx.save_for_backward(prompt, maps, products, inverse)
        ctx.weight = weight
        return torch.addcmul(x, products[:, :width], inverse, value=weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        prompt, maps, products, inverse = ctx.saved_tensors
        width = grad.size(1)
        # Of `products`, the gradient; of its right part, half of it.
        d_products = torch.empty_like(products)
        torch.mul(grad, inverse * ctx.weight, out=d_products[:, :width])
        along = torch.linalg.vecdot(d_products[:, :width], products[:, :width])
        d_squared = along.unsqueeze_(-1).mul_(inverse).mul_(inverse).mul_(-0.5)
        torch.mul(prompt, d_squared, out=d_products[:, width:])
        d_maps = prompt.t() @ d_products
        # The gram matrix is its own transpose: the prompt on either side of it gets
        # the same.
        twice = torch.cat([maps[:, :width], 2 * maps[:, width:]], dim=1)
        d_prompt = d_products @ twice.t()
        return grad, d_prompt, d_maps[:, :width], d_maps[:, width:], None


_apply: Any = _AddRecalled.apply


def add_low_rank(
    x: Tensor, prompt: Tensor, recall: Tensor, lin_weight: Tensor, weight: float = 1.0
) -> Tensor:
    r"""Adds what a prompt recalls of features to their reduction.

    That is :math:`\mathbf{X} + \lambda \, \mathrm{norm}(\mathbf{P} \mathbf{Q})
    \mathbf{W}^{\top}`, without the :math:`(N, F)` matrix :math:`\mathbf{P} \mathbf{Q}`:

    .. math::
        \mathbf{x}_i + \lambda \, \frac{(\mathbf{Q} \mathbf{W}^{\top})^{\top}
        \mathbf{p}_i} {\sqrt{\mathbf{p}_i^{\top} \mathbf{Q} \mathbf{Q}^{\top}
        \mathbf{p}_i}}

    where :math:`\mathrm{norm}` scales every row to unit length. Both products share one
    matrix product, forward and backward. A row whose prompt recalls nothing gets no
    addition and sends no gradient. First derivatives only.

    Args:
        x: The features, reduced, ``[N, D]``.
        prompt: The prompts :math:`\mathbf{P}`, ``[N, P]``.
        recall: What they recall, :math:`\mathbf{Q}`, ``[P, F]``.
        lin_weight: The reduction :math:`\mathbf{W}`, ``[D, F]``.
        weight: :math:`\lambda`. (default: ``1.0``)
    """
    image, gram = recall @ lin_weight.t(), recall @ recall.t()
    out: Tensor = _apply(x, prompt, image, gram, weight)
    return out
