"""The soft prompt: a trained linear map of fixed, content-based vectors."""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn._features import in_default_precision
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, cross
from promptmm_pyg.nn.prompts import Prompt


class PromptStatistics(NamedTuple):
    """Statistics of the features of one modality, constant in training."""

    cross: Tensor  # [P_in, F]: starting point, transposed, times features.
    total: Tensor  # [F]: column sums of the features.


def prompt_statistics(x: Tensor | ChunkedFeatures, start: Tensor) -> PromptStatistics:
    r"""Returns :math:`\mathbf{C} = \mathbf{H}^{\top} \mathbf{X}` and
    :math:`\mathbf{s} = \mathbf{1}^{\top} \mathbf{X}`, to be computed once per data set.

    Args:
        x: Features ``[N, F]``, also as :class:`~promptmm_pyg.nn.ChunkedFeatures`.
        start: The prompt's starting point :math:`\mathbf{H}`, ``[N, P_in]``.
    """
    if isinstance(x, Tensor):
        return PromptStatistics(start.t() @ x, x.sum(dim=0))
    ones = start.new_ones(start.size(0), 1)
    x = ChunkedFeatures(x.x, x.mask, x.block_rows)  # Products in full precision.
    return PromptStatistics(cross(start, x), cross(ones, x)[0])


class SoftPrompt(Prompt):
    r"""Maps the fixed starting point :math:`\mathbf{H}` of every node to its soft
    prompt, the prompt network of the `"PromptMM: Multi-Modal Knowledge Distillation
    for Recommendation with Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_ paper.

    .. math::
        \mathbf{P}_t = \mathbf{H}_t \mathbf{W}_t^{\top} +
        \mathbf{1} \mathbf{b}_t^{\top}

    one linear map per node type :math:`t`. The starting point is the principal
    components of the node's content (:class:`~promptmm_pyg.transforms.AddModalityPCA`);
    it is a buffer that is saved with the prompt. With a starting point of ones,
    ``[N, 1]``, the prompt is static: one vector for all nodes of a type.

    With ``num_tokens`` :math:`T > 1` there are :math:`T` such maps, and the prompt of a
    node is their average with the weights :math:`\mathrm{softmax}(\mathbf{G}_t
    \mathbf{h} + \mathbf{c}_t)`.

    As :math:`\mathbf{H}` and the features :math:`\mathbf{X}` are constant,
    :meth:`recall` computes :math:`\mathbf{P}^{\top} \mathbf{X} = \mathbf{W}
    \mathbf{C} + \mathbf{b} \mathbf{s}^{\top}` from :func:`prompt_statistics`, without
    the rows of :math:`\mathbf{X}`. With several tokens the weights change in training,
    and :math:`\mathbf{P}^{\top} \mathbf{X}` costs :math:`O(N P F)` at every step.

    Args:
        start_dict: The starting point ``[N_t, P_in]`` of every node type.
        out_channels: The width :math:`P` of the prompt.
        num_tokens: The number of tokens :math:`T`. (default: ``1``)

    Shapes:
        - **input:** ``n_id_dict``, ids :math:`(n_t)` of nodes per node type
          *(optional: all nodes)*
        - **output:** prompts :math:`(N_t, P)`, or :math:`(n_t, P)`, per node type

    Raises:
        ValueError: If sizes do not fit or the starting point is not finite.
    """

    def __init__(
        self,
        start_dict: dict[NodeType, Tensor],
        out_channels: int,
        num_tokens: int = 1,
    ) -> None:
        super().__init__()
        check_positive('out_channels', out_channels)
        check_positive('num_tokens', num_tokens)
        if not start_dict:
            raise ValueError("'start_dict' must have at least one node type (got none)")
        self.out_channels = out_channels
        self.num_tokens = num_tokens
        self.lins = torch.nn.ModuleDict()
        self.gates = torch.nn.ModuleDict()  # Empty with one token.
        for node_type, start in start_dict.items():
            if start.dim() != 2 or not bool(start.isfinite().all()):
                raise ValueError(
                    f"'start_dict' must have finite tensors [N, P] (got shape "
                    f'{list(start.shape)} for {node_type!r}, finite: '
                    f'{bool(start.isfinite().all())})'
                )
            width = start.size(1)
            self.lins[node_type] = torch.nn.Linear(width, num_tokens * out_channels)
            if num_tokens > 1:
                self.gates[node_type] = torch.nn.Linear(width, num_tokens)
            start = in_default_precision(start).clone()
            self.register_buffer(f'start_{node_type}', start)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for lin in [*self.lins.values(), *self.gates.values()]:
            cast(torch.nn.Linear, lin).reset_parameters()

    def start(self, node_type: NodeType) -> Tensor:
        """The starting point ``[N, P_in]`` of a node type."""
        return self.get_buffer(f'start_{node_type}')

    def forward(
        self, n_id_dict: dict[NodeType, Tensor] | None = None
    ) -> dict[NodeType, Tensor]:
        n_ids = n_id_dict or {}
        return {key: self.rows(key, n_ids.get(key)) for key in self.lins}

    def rows(self, node_type: NodeType, n_id: Tensor | None = None) -> Tensor:
        """The prompts ``[n, P]`` of the nodes ``n_id``, or of all nodes of a type."""
        start = self.start(node_type)
        if n_id is not None:
            start = start.index_select(0, n_id)
        out: Tensor = self.lins[node_type](start)
        if self.num_tokens == 1:
            return out
        weight = self.gates[node_type](start).softmax(dim=-1)
        tokens = out.view(-1, self.num_tokens, self.out_channels)
        return torch.einsum('nt,ntp->np', weight, tokens)

    def recall(self, node_type: NodeType, statistics: PromptStatistics) -> Tensor:
        r"""Returns :math:`\mathbf{P}^{\top} \mathbf{X}`, ``[P, F]``.

        Raises:
            ValueError: If there are several tokens.
        """
        if self.num_tokens > 1:
            raise ValueError(
                f"'num_tokens' must be 1 for 'recall' (got {self.num_tokens}). "
                f'Multiply the transposed prompt with the features'
            )
        lin = cast(torch.nn.Linear, self.lins[node_type])
        return torch.addmm(
            torch.outer(lin.bias, statistics.total), lin.weight, statistics.cross
        )

    def describe(self) -> dict[str, Any]:
        return {
            'out_channels': self.out_channels,
            'num_tokens': self.num_tokens,
            'node_types': {key: list(self.start(key).shape) for key in self.lins},
        }

    def __repr__(self) -> str:
        tokens = f', num_tokens={self.num_tokens}' if self.num_tokens > 1 else ''
        return (
            f'{self.__class__.__name__}({sorted(self.lins)}, '
            f'out_channels={self.out_channels}{tokens})'
        )
