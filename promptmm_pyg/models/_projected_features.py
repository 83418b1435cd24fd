"""A linear layer per modality on the constant features of one node type."""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn._features import (
    Features,
    FeatureStore,
    as_tensor,
    check_finite,
    check_rows,
)
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, project

LinearStart = Literal['default', 'xavier_uniform', 'xavier_normal']
"""The initial weights of linear layers: PyTorch's default, or Xavier's. Biases are
PyTorch's default."""


def reset_linear(lin: torch.nn.Linear, start: LinearStart) -> None:
    """Resets a linear layer."""
    lin.reset_parameters()
    if start == 'xavier_uniform':
        torch.nn.init.xavier_uniform_(lin.weight)
    elif start == 'xavier_normal':
        torch.nn.init.xavier_normal_(lin.weight)


class ProjectedFeatures(FeatureStore):
    r"""Returns :math:`\mathbf{X}^m \mathbf{W}_m^{\top} + \mathbf{b}_m` for every
    modality :math:`m`.

    The features are buffers that are not saved, in the precision of the parameters.
    Those in half precision, and :class:`~promptmm_pyg.nn.ChunkedFeatures`, are read in
    blocks of rows and not moved.

    Args:
        num_nodes_dict: The number of nodes per node type.
        node_type: The node type that has the features.
        modality_x_dict: Features ``{modality: {node_type: [N, F_m]}}``, at least one
            modality, of no other node type.
        out_channels: The width :math:`D` of every projection, or widths by modality;
            ``None`` returns the features themselves.
        bias: Whether there is a :math:`\mathbf{b}_m`. (default: ``True``)
        start: The initial weights. (default: PyTorch's default)

    Shapes:
        - **input:** rows to project :math:`(B)` *(optional: all)*
        - **output:** projections :math:`(B, D)` per modality

    Raises:
        ValueError: If there is no modality, or rows or node types do not fit.
    """

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        node_type: NodeType,
        modality_x_dict: Features,
        out_channels: int | Mapping[str, int | None],
        *,
        bias: bool = True,
        start: LinearStart = 'default',
    ) -> None:
        super().__init__()
        if not modality_x_dict:
            raise ValueError(
                "'modality_x_dict' must have at least one modality (got none). Without "
                "features, use a model of ids such as 'LightGCN'"
            )
        check_rows(num_nodes_dict, modality_x_dict, {})
        self.modalities = list(modality_x_dict)
        self.linear_start: LinearStart = start
        self.lins = torch.nn.ModuleDict()
        self.widths: dict[str, int] = {}
        """The width of the output by modality."""
        for modality, x_dict in modality_x_dict.items():
            if set(x_dict) != {node_type}:
                raise ValueError(
                    f"'modality_x_dict['{modality}']' must have features of "
                    f'{node_type!r} only (got {sorted(x_dict)})'
                )
            x = x_dict[node_type]
            check_finite(f"modality_x_dict['{modality}']['{node_type}']", x)
            self.store_features(modality, x)
            width = (
                out_channels[modality]
                if isinstance(out_channels, Mapping)
                else out_channels
            )
            self.widths[modality] = x.size(1) if width is None else width
            if width is not None:
                check_positive('embedding_dim', width)
                # With a prefix: a modality may have the name of a method of modules.
                lin = torch.nn.Linear(x.size(1), width, bias=bias)
                self.lins[f'lin_{modality}'] = lin
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for lin in self.lins.values():
            reset_linear(cast(torch.nn.Linear, lin), self.linear_start)

    @property
    def weights(self) -> list[Tensor]:
        """The matrices :math:`\\mathbf{W}_m` ``[D, F_m]`` of the modalities."""
        return [lin.weight for lin in self.lins.values()]  # type: ignore[misc]

    def forward(self, index: Tensor | None = None) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for modality in self.modalities:
            x = self.feature_rows(modality, index)
            if f'lin_{modality}' in self.lins:
                lin = cast(torch.nn.Linear, self.lins[f'lin_{modality}'])
                out[modality] = project(x, lin.weight, lin.bias)
            else:
                out[modality] = as_tensor(x)
        return out

    def present(self, modality: str) -> Tensor:
        """Boolean ``[N]``: which rows of a modality are not zero."""
        x = self.feature_rows(modality)
        return x.present() if isinstance(x, ChunkedFeatures) else (x != 0).any(dim=1)

    def __repr__(self) -> str:
        widths = {m: self.feature_rows(m).size(1) for m in self.modalities}
        return f'{self.__class__.__name__}({widths})'
