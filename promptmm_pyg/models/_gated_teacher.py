"""PromptMM's teacher, some of whose features count for less."""

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.nn.csr import Adjacency, CSRPair
from promptmm_pyg.nn.teacher import PromptMMTeacher
from promptmm_pyg.outputs import TeacherOutput
from promptmm_pyg.unit_rows import unit_rows

_CHANNELS = 256  # Of the features, seen at once: wide ones would fill the memory.


class GatedTeacher(PromptMMTeacher):
    """A teacher that multiplies every reduced feature row before it travels, so that a
    row at zero reaches nobody.

    The forward takes ``gate_dict`` besides: gates ``[N]`` per feature name
    ``'{modality}__{node_type}'``. What has none is left as it is.
    """

    _gate_dict: dict[str, Tensor] | None = None

    def forward(
        self,
        edge_index_dict: dict[EdgeType, Adjacency],
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,
        n_id_dict: dict[NodeType, Tensor] | None = None,
        gate_dict: dict[str, Tensor] | None = None,
    ) -> TeacherOutput:
        self._gate_dict = gate_dict
        try:
            return super().forward(edge_index_dict, edge_weight_dict, n_id_dict)
        finally:
            self._gate_dict = None

    def _encode(
        self,
        key: str,
        node_type: NodeType,
        prompt: Tensor | None,
        n_id: Tensor | None = None,
        recall: Tensor | None = None,
    ) -> Tensor:
        out = super()._encode(key, node_type, prompt, n_id, recall)
        gate = (self._gate_dict or {}).get(key)
        if gate is None:
            return out
        return (gate if n_id is None else gate[n_id])[:, None] * out


def content_trust(x: Tensor, adj: CSRPair, num_rounds: int = 2) -> Tensor:
    r"""Returns how well the content of every item agrees with what its users took
    besides, in [0, 1].

    .. math::
        t_i = \max \Big( 0, \cos \big( \hat{\mathbf{x}}_i, \sum_{j \neq i}
        (\mathbf{A}^{\top} \mathbf{A})_{ij} \, t_j \hat{\mathbf{x}}_j \big) \Big)

    with rows :math:`\hat{\mathbf{x}}` at unit length; in the first round all
    :math:`t_j` are one, in the next those of the round before. Where there is nothing
    to compare, for lack of content or of other items, :math:`t_i` is the mean of all
    others (one if there are none): no evidence is no reproach.

    Args:
        x: Features of the items ``[N, F]``.
        adj: The operator from users to items, one entry an edge.
        num_rounds: The number of rounds. (default: ``2``)
    """
    matrix = adj.matrices(x.dtype)[0]
    rows = torch.arange(x.size(0), device=x.device)
    rows = rows.repeat_interleave(matrix.crow_indices().diff().long())
    itself = x.new_zeros(x.size(0)).index_add_(0, rows, matrix.values().square())
    unit, trust = unit_rows(x), x.new_ones(x.size(0))
    for _ in range(num_rounds):
        trust = _round(unit, adj, trust, itself)
    return trust


def _round(unit: Tensor, adj: CSRPair, trust: Tensor, itself: Tensor) -> Tensor:
    dot, square = torch.zeros_like(trust), torch.zeros_like(trust)
    for own in unit.split(_CHANNELS, dim=1):
        sent = trust[:, None] * own
        others = adj @ (adj.t() @ sent) - itself[:, None] * sent
        dot += (own * others).sum(dim=1)
        square += others.square().sum(dim=1)
    # What an item that is alone has of others is rounding.
    known = (square > 1e-10 * itself.square()) & (unit != 0).any(dim=1)
    cosine = (dot / square.sqrt()).clamp(min=0)
    instead = cosine[known].mean() if known.any() else cosine.new_ones(())
    return torch.where(known, cosine, instead)
