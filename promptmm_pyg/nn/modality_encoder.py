"""Encoders of modality features."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from promptmm_pyg._utils import (
    check_choice,
    check_non_negative,
    check_positive,
    check_probability,
)
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, cross, in_blocks, project
from promptmm_pyg.nn.dropout import Dropout


class PromptedModalityEncoder(torch.nn.Module):
    r"""Projects the features of one modality plus their recall by a prompt, the layer
    :math:`R(\cdot)` of the `"PromptMM: Multi-Modal Knowledge Distillation for
    Recommendation with Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_ paper.

    .. math::
        \mathbf{H} = \left( \mathbf{X} + \lambda \, \mathrm{norm} \left(
        \mathbf{P} \mathbf{Q} \right) \right) \mathbf{W}^{\top} + \mathbf{b},
        \qquad \mathbf{Q} = \mathbf{P}^{\top} \mathbf{X}

    where :math:`\mathrm{norm}` scales every row to unit length. It is computed as

    .. math::
        \mathbf{h}_i = \mathbf{W} \mathbf{x}_i + \mathbf{b} + \lambda \,
        \frac{(\mathbf{Q} \mathbf{W}^{\top})^{\top} \mathbf{p}_i}
        {\sqrt{\mathbf{p}_i^{\top} \mathbf{Q} \mathbf{Q}^{\top} \mathbf{p}_i}}

    without the :math:`(N, F)` matrix :math:`\mathbf{P} \mathbf{Q}`: with
    :math:`\mathbf{Q}` given, the prompt costs :math:`O(N P^2 + P^2 F)`. Where a row of
    :math:`\mathbf{P} \mathbf{Q}` is zero, nothing is added.

    Args:
        in_channels: The number of raw features :math:`F`.
        out_channels: The width of the shared space :math:`D`.
        prompt_weight: :math:`\lambda`; ``0`` ignores the prompt. (default: ``1.0``)
        dropout: Dropout rate on the output while training. (default: ``0.0``)

    Shapes:
        - **inputs:** features :math:`(N, F)`, also as
          :class:`~promptmm_pyg.nn.ChunkedFeatures`; prompt :math:`(N, P)` *(optional)*,
          recall :math:`\mathbf{Q}` :math:`(P, F)` *(optional: computed)*
        - **output:** embeddings :math:`(N, D)`

    Raises:
        ValueError: If sizes or shapes do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        prompt_weight: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive('in_channels', in_channels)
        check_positive('out_channels', out_channels)
        check_non_negative('prompt_weight', prompt_weight)
        check_probability('dropout', dropout)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.prompt_weight = prompt_weight
        self.lin = torch.nn.Linear(in_channels, out_channels)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.lin.reset_parameters()  # The bias, as in the released code.
        torch.nn.init.xavier_uniform_(self.lin.weight)

    def forward(
        self,
        x: Tensor | ChunkedFeatures,
        prompt: Tensor | None = None,
        recall: Tensor | None = None,
    ) -> Tensor:
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(
                f"'x' must have shape [N, {self.in_channels}] (got {list(x.shape)})"
            )
        constant = not isinstance(x, Tensor) or not x.requires_grad
        x = (in_blocks(x) if constant else None) or x
        out = project(x, self.lin.weight, self.lin.bias)
        if prompt is not None and self.prompt_weight > 0:
            if prompt.size(0) != x.size(0):
                raise ValueError(
                    f"'prompt' must have one row per row of 'x' (got "
                    f'{prompt.size(0)} rows and {x.size(0)} rows)'
                )
            if recall is None:
                recall = cross(prompt, x)
            out = add_low_rank(out, prompt, recall, self.lin.weight, self.prompt_weight)
        dropped: Tensor = self.dropout(out)
        return dropped

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.in_channels}, {self.out_channels}, '
            f'prompt_weight={self.prompt_weight})'
        )


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
        # The gradient of `products`; half of it in the right part.
        d_products = torch.empty_like(products)
        torch.mul(grad, inverse * ctx.weight, out=d_products[:, :width])
        along = torch.linalg.vecdot(d_products[:, :width], products[:, :width])
        d_squared = along.unsqueeze_(-1).mul_(inverse).mul_(inverse).mul_(-0.5)
        torch.mul(prompt, d_squared, out=d_products[:, width:])
        d_maps = prompt.t() @ d_products
        # The gram matrix is symmetric: both factors `prompt` get the same gradient.
        twice = torch.cat([maps[:, :width], 2 * maps[:, width:]], dim=1)
        d_prompt = d_products @ twice.t()
        return grad, d_prompt, d_maps[:, :width], d_maps[:, width:], None


_apply: Any = _AddRecalled.apply


def add_low_rank(
    x: Tensor, prompt: Tensor, recall: Tensor, lin_weight: Tensor, weight: float = 1.0
) -> Tensor:
    r"""Returns :math:`\mathbf{X} + \lambda \, \mathrm{norm}(\mathbf{P} \mathbf{Q})
    \mathbf{W}^{\top}`, see :class:`PromptedModalityEncoder`. Numerator and denominator
    share one matrix product, forward and backward. First derivatives only.

    Args:
        x: The projected features, ``[N, D]``.
        prompt: The prompts :math:`\mathbf{P}`, ``[N, P]``.
        recall: Their recall :math:`\mathbf{Q}`, ``[P, F]``.
        lin_weight: The projection :math:`\mathbf{W}`, ``[D, F]``.
        weight: :math:`\lambda`. (default: ``1.0``)
    """
    image, gram = recall @ lin_weight.t(), recall @ recall.t()
    out: Tensor = _apply(x, prompt, image, gram, weight)
    return out


Missing = Literal['zero', 'token']


class MissingRows(torch.nn.Module):
    r"""Replaces the rows of nodes without a modality by zeros or one trained vector.

    In training, present rows are dropped with probability ``dropout``. The other rows
    are not scaled, unlike in :class:`torch.nn.Dropout`: a node has a modality or not.
    The token is initialized to zero.

    Args:
        channels: The width :math:`D` of the rows.
        mask: Boolean :math:`(N)`, ``True`` where the row is present.
            (default: everywhere)
        missing: ``'zero'`` or ``'token'``. (default: ``'zero'``)
        dropout: Dropout rate of rows. (default: ``0.0``)

    Shapes:
        - **inputs:** rows :math:`(N, D)`, and ``n_id``, their positions in the mask
          *(optional: all)*
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
        # Part of the data, like the features, not of the state.
        self.register_buffer('mask', mask, persistent=False)
        self.token: torch.nn.Parameter | None = None
        if missing == 'token':
            self.token = torch.nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.token is not None:
            torch.nn.init.zeros_(self.token)

    def forward(self, x: Tensor, n_id: Tensor | None = None) -> Tensor:
        present = self.mask
        if present is not None and n_id is not None:
            present = present[n_id]
        if self.training and self.dropout > 0:
            remaining = torch.rand(x.size(0), device=x.device) >= self.dropout
            present = remaining if present is None else present & remaining
        if present is None:
            return x
        replacement = x.new_zeros(()) if self.token is None else self.token
        return torch.where(present[:, None], x, replacement)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(missing='{self.missing}', "
            f'dropout={self.dropout})'
        )
