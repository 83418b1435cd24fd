"""Constant features of one node type, each modality through a linear layer."""

from typing import cast

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn._feature_checks import (
    Features,
    check_finite,
    check_rows,
    in_default_precision,
)
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures, in_blocks, project


class ProjectedFeatures(torch.nn.Module):
    r"""Returns :math:`\mathbf{X}^m \mathbf{W}_m^{\top} + \mathbf{b}_m` for every
    modality :math:`m`.

    The features are buffers that are not saved: facts about the data, of any real type
    and held in the precision of the parameters. Those in half
    precision, and :class:`~promptmm_pyg.nn.ChunkedFeatures`, stay where they are and
    are read
    in blocks of rows.

    Args:
        num_nodes_dict: The number of nodes per node type.
        node_type: The node type that has the features.
        modality_x_dict: Features ``{modality: {node_type: [N, F_m]}}``, at least one
            modality, of no other node type.
        out_channels: The width :math:`D` of every projection.
        bias: Whether there is a :math:`\mathbf{b}_m`. (default: ``True``)

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
        out_channels: int,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_positive('embedding_dim', out_channels)
        if not modality_x_dict:
            raise ValueError(
                "'modality_x_dict' requires at least one modality (got none). A model "
                'without features is one of the id models'
            )
        check_rows(num_nodes_dict, modality_x_dict, {})
        self.modalities = list(modality_x_dict)
        self._row_blocks: dict[str, ChunkedFeatures] = {}
        self.lins = torch.nn.ModuleDict()
        for modality, x_dict in modality_x_dict.items():
            if set(x_dict) != {node_type}:
                raise ValueError(
                    f"'modality_x_dict['{modality}']' requires features of "
                    f'{node_type!r} '
                    f'and of no other node type (got {sorted(x_dict)}). Leave the '
                    f'others out'
                )
            x = x_dict[node_type]
            check_finite(f"modality_x_dict['{modality}']['{node_type}']", x)
            blocks = in_blocks(x)
            if blocks is not None:
                self._row_blocks[modality] = blocks
            elif isinstance(x, Tensor):
                x = in_default_precision(x)
                self.register_buffer(f'x_{modality}', x, persistent=False)
            # With a prefix: a modality may have the name of a method of modules.
            self.lins[f'lin_{modality}'] = torch.nn.Linear(
                x.size(1), out_channels, bias=bias
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for weight in self.weights:
            torch.nn.init.xavier_uniform_(weight)
        for lin in self.lins.values():
            if isinstance(lin.bias, Tensor):
                torch.nn.init.zeros_(lin.bias)

    @property
    def weights(self) -> list[Tensor]:
        """The matrices :math:`\\mathbf{W}_m` ``[D, F_m]``, one a modality."""
        return [lin.weight for lin in self.lins.values()]  # type: ignore[misc]

    def forward(self, index: Tensor | None = None) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for modality in self.modalities:
            x = self.rows(modality)
            if index is not None:
                x = x.rows(index) if isinstance(x, ChunkedFeatures) else x[index]
            lin = cast(torch.nn.Linear, self.lins[f'lin_{modality}'])
            out[modality] = (
                lin(x) if isinstance(x, Tensor) else project(x, lin.weight, lin.bias)
            )
        return out

    def rows(self, modality: str) -> Tensor | ChunkedFeatures:
        """The features ``[N, F_m]`` of a modality."""
        if modality in self._row_blocks:
            return self._row_blocks[modality]
        return self.get_buffer(f'x_{modality}')

    def present(self, modality: str) -> Tensor:
        """Boolean ``[N]``: which rows of a modality hold anything but zeros."""
        x = self.rows(modality)
        return x.present() if isinstance(x, ChunkedFeatures) else (x != 0).any(dim=1)

    def __repr__(self) -> str:
        widths = {m: self.rows(m).size(1) for m in self.modalities}
        return f'{self.__class__.__name__}({widths})'
