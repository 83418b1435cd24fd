"""Encoders from raw modality features to the shared embedding space."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_non_negative, check_positive, check_probability
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, cross, in_blocks, project
from promptmm_pyg.nn.dropout import Dropout
from promptmm_pyg.nn.recalled import add_low_rank


class PromptedModalityEncoder(torch.nn.Module):
    r"""Reduces one modality's features after adding what a prompt recalls of
    them, the densification layer :math:`R(\cdot)` of the `"PromptMM: Multi-Modal
    Knowledge Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper.

    .. math::
        \mathbf{H} = \left( \mathbf{X} + \lambda \, \mathrm{norm} \left(
        \mathbf{P} \mathbf{Q} \right) \right) \mathbf{W}^{\top} + \mathbf{b},
        \qquad \mathbf{Q} = \mathbf{P}^{\top} \mathbf{X}

    where :math:`\mathrm{norm}` scales every row to unit length. It is computed
    as

    .. math::
        \mathbf{h}_i = \mathbf{W} \mathbf{x}_i + \mathbf{b} + \lambda \,
        \frac{(\mathbf{Q} \mathbf{W}^{\top})^{\top} \mathbf{p}_i}
        {\sqrt{\mathbf{p}_i^{\top} \mathbf{Q} \mathbf{Q}^{\top} \mathbf{p}_i}}

    which is the same number without the :math:`(N, F)` matrix
    :math:`\mathbf{P} \mathbf{Q}`: the prompt costs :math:`O(N P^2 + P^2 F)`
    once :math:`\mathbf{Q}` is known. A row whose prompt recalls nothing gets
    no addition.

    Args:
        in_channels: The number of raw features :math:`F`.
        out_channels: The width of the shared space :math:`D`.
        prompt_weight: :math:`\lambda`; ``0`` ignores the prompt. (default: ``1.0``)
        dropout: Dropout rate on the output while training. (default: ``0.0``)

    Shapes:
        - **inputs:** features :math:`(N, F)`, also as
          :class:`~promptmm_pyg.nn.ChunkedFeatures`, which those in half precision become;
          prompt :math:`(N, P)` *(optional)*, recall :math:`\mathbf{Q}`
          :math:`(P, F)` *(optional: computed when absent)*
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
        """Resets all learnable parameters of the module."""
        torch.nn.init.xavier_uniform_(self.lin.weight)
        torch.nn.init.zeros_(self.lin.bias)

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
        out: Tensor = (
            self.lin(x)
            if isinstance(x, Tensor)
            else project(x, self.lin.weight, self.lin.bias)
        )
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
