"""PromptMM's teacher, some of whose features count for less."""

from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.models.promptmm import PromptMM
from promptmm_pyg.nn.csr import Adjacency
from promptmm_pyg.targets import TeacherOutput


class GatedTeacher(PromptMM):
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
