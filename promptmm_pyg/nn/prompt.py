"""The soft prompt: a trainable view of a fixed, content-based starting point."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg._checks import check_positive


class PromptStatistics(NamedTuple):
    """What the prompt needs to know of one modality, independent of training."""

    cross: Tensor  # [P_in, F]: starting point, transposed, times features.
    total: Tensor  # [F]: column sums of the features.


def prompt_statistics(x: Tensor, start: Tensor) -> PromptStatistics:
    r"""Returns :math:`\mathbf{C} = \mathbf{H}^{\top} \mathbf{X}` and
    :math:`\mathbf{s} = \mathbf{1}^{\top} \mathbf{X}`, computed once per data set.

    Args:
        x: Features ``[N, F]``.
        start: The prompt's starting point ``[N, P_in]``.
    """
    return PromptStatistics(start.t() @ x, x.sum(dim=0))


class SoftPrompt(torch.nn.Module):
    r"""Turns the fixed starting point :math:`\mathbf{H}` of every node into its
    soft prompt, the prompt network of the `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper.

    .. math::
        \mathbf{P}_t = \mathbf{H}_t \mathbf{W}_t^{\top} +
        \mathbf{1} \mathbf{b}_t^{\top}

    one linear map per node type :math:`t`. The starting point holds the
    principal components of the node's content
    (:class:`~promptmm_pyg.transforms.AddModalityPCA`); it is stored as a buffer,
    so a saved prompt is complete.

    As :math:`\mathbf{H}` and the features :math:`\mathbf{X}` never change,
    :meth:`recall` obtains :math:`\mathbf{P}^{\top} \mathbf{X} = \mathbf{W}
    \mathbf{C} + \mathbf{b} \mathbf{s}^{\top}` from
    :func:`prompt_statistics` without touching the rows of :math:`\mathbf{X}`.

    Args:
        start_dict: The starting point ``[N_t, P_in]`` of every node type.
        out_channels: The width :math:`P` of the prompt.

    Shapes:
        - **output:** prompts :math:`(N_t, P)` per node type
    """

    def __init__(self, start_dict: dict[NodeType, Tensor], out_channels: int) -> None:
        super().__init__()
        check_positive('out_channels', out_channels)
        if not start_dict:
            raise ValueError("'start_dict' needs at least one node type (got none)")
        self.out_channels = out_channels
        self.lins = torch.nn.ModuleDict()
        for node_type, start in start_dict.items():
            if start.dim() != 2 or not bool(start.isfinite().all()):
                raise ValueError(
                    f"'start_dict' needs finite [N, P] tensors (got shape "
                    f'{list(start.shape)} for {node_type!r}, finite: '
                    f'{bool(start.isfinite().all())})'
                )
            self.lins[node_type] = torch.nn.Linear(start.size(1), out_channels)
            self.register_buffer(f'start_{node_type}', start.detach().clone())

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for lin in self.lins.values():
            assert isinstance(lin, torch.nn.Linear)
            lin.reset_parameters()

    def start(self, node_type: NodeType) -> Tensor:
        """The starting point ``[N, P_in]`` of a node type."""
        return self.get_buffer(f'start_{node_type}')

    def forward(self) -> dict[NodeType, Tensor]:
        return {
            node_type: lin(self.start(node_type))
            for node_type, lin in self.lins.items()
        }

    def recall(self, node_type: NodeType, statistics: PromptStatistics) -> Tensor:
        r"""Returns :math:`\mathbf{P}^{\top} \mathbf{X}`, ``[P, F]``."""
        lin = self.lins[node_type]
        assert isinstance(lin, torch.nn.Linear)
        return torch.addmm(
            torch.outer(lin.bias, statistics.total), lin.weight, statistics.cross
        )

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({sorted(self.lins)}, '
            f'out_channels={self.out_channels})'
        )
