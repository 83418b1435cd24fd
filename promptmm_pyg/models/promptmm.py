"""PromptMM's multi-modal teacher."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import (
    check_choice,
    check_non_negative,
    check_positive,
    check_probability,
)
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import add_l2_normalized, l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import EdgeDict, WeightDict
from promptmm_pyg.models.base import GraphRecommender
from promptmm_pyg.nn._feature_checks import (
    FeatureDict,
    Features,
    check_masks,
    check_rows,
)
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.layerwise import (
    BLOCK,
    rows_in_blocks,
    sum_of_hops,
)
from promptmm_pyg.nn.modality_encoder import (
    Missing,
    MissingRows,
    PromptedModalityEncoder,
)
from promptmm_pyg.nn.prompt import SoftPrompt
from promptmm_pyg.nn.prompted_features import PromptedFeatures
from promptmm_pyg.nn.propagation import check_reached, mean_of_hops, propagate_blocks
from promptmm_pyg.targets import TeacherOutput, eval_mode


class PromptMM(PromptedFeatures, GraphRecommender):
    r"""The multi-modal teacher of the `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper, for any number of modalities on any
    node type.

    Every modality is reduced to the shared width (with the prompt's help), then
    travels two hops along the edges for each of ``num_modality_layers``: with
    features on items, users receive what they touched and items what their users
    touched. Id embeddings, shifted by the prompt, are propagated as in LightGCN.

    .. math::
        \mathbf{e}_v = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{x}_v^{(l)} + \gamma
        \sum_m \mathrm{norm}(\mathbf{f}_v^m), \qquad
        \mathbf{x}_v^{(0)} = \mathbf{e}_v^{\text{id}} + \mu \,
        \mathrm{norm}(\mathbf{p}_v)

    where :math:`\mathbf{f}_v^m` sums the hops of modality :math:`m` that reach
    :math:`v`. With ``self_loop_weight`` :math:`> 0` a node's own reduced features
    join that sum; without it, a node without edges has no modality part.

    Features are part of the module as buffers that are not saved: they are
    constant, and what the prompt needs of them is computed here, once.

    Rows that ``modality_mask_dict`` calls absent are never read: what they would
    send is zero or, with ``missing='token'``, a vector that is trained for the
    modality and node type (:class:`~promptmm_pyg.nn.MissingRows`). Leave the mask out
    when the rows are filled already
    (:class:`~promptmm_pyg.transforms.ImputeFromNeighbors`).

    With ``n_id_dict`` the edges are those of a part of the graph, in positions of the
    ids, as a neighbor loader gives them: only these rows of tables and features are
    read. Nodes within ``num_hops`` must be there for a row to be that of the whole
    graph. (With several prompt tokens, what the prompt recalls is a sum over all nodes
    at every step; it is taken in blocks.)

    Further prompts have names (``add_prompt``, ``set_prompt``); with
    ``disable_prompt`` the output is bit for bit that of a teacher without one.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {node_type: [N_t, F_m]}}``; rows
            that are absent hold zeros, or anything where the mask says so. Of any real
            type, they are held in the precision of the parameters; those in half
            precision, and :class:`~promptmm_pyg.nn.ChunkedFeatures`, are read in blocks
            of rows and stay where they are.
        edge_type: ``(user, relation, item)``, what :meth:`losses` are about; the graph
            may have other types. (default: ``INTERACTS``)
        prompt_start_dict: The prompt's starting point ``[N_t, P_in]`` per node
            type; ``None`` builds the teacher without a prompt. (default: ``None``)
        embedding_dim: The shared width :math:`D`. (default: ``64``)
        num_layers: Layers :math:`L` of the id propagation. (default: ``2``)
        num_modality_layers: Hop pairs of the modality propagation.
            (default: ``1``)
        modality_weight: :math:`\gamma`. (default: ``0.5``)
        self_loop_weight: Weight of a node's own features. (default: ``0.0``)
        prompt_id_weight: :math:`\mu`. (default: ``0.1``)
        prompt_feature_weight: Weight of the prompt in the reduction layers.
            (default: ``1.0``)
        dropout: Dropout rate of the reduction layers. (default: ``0.2``)
        init_std: Standard deviation of the id tables' start. (default: ``0.1``)
        num_prompt_tokens: Linear maps that the prompt mixes
            (:class:`~promptmm_pyg.nn.SoftPrompt`). (default: ``1``)
        modality_mask_dict: Presence ``{modality: {node_type: [N_t]}}``, bool; where
            one is missing, every row is present. (default: ``None``)
        missing: ``'zero'`` or ``'token'``. (default: ``'zero'``)
        modality_dropout: Rate at which, while training, a node's modality counts as
            absent. (default: ``0.0``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type, ids :math:`(n_t)` per node
          type *(optional)*
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`

    Raises:
        ValueError: If sizes, rows or weights do not fit.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        'bpr': 1.0,
        'l2': 1e-3,
        'prompt_bpr': 0.1,
        'modality_bpr': 0.1,
        'modality_l2': 1e-5,
    }
    reads_features = True
    reads_prompt = True
    any_graph = True

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        prompt_start_dict: dict[NodeType, Tensor] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_modality_layers: int = 1,
        modality_weight: float = 0.5,
        self_loop_weight: float = 0.0,
        prompt_id_weight: float = 0.1,
        prompt_feature_weight: float = 1.0,
        dropout: float = 0.2,
        init_std: float = 0.1,
        num_prompt_tokens: int = 1,
        modality_mask_dict: FeatureDict | None = None,
        missing: Missing = 'zero',
        modality_dropout: float = 0.0,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        modality_x_dict = modality_x_dict or {}
        check_positive('num_layers', num_layers)
        check_positive('num_modality_layers', num_modality_layers)
        check_non_negative('modality_weight', modality_weight)
        check_non_negative('self_loop_weight', self_loop_weight)
        check_non_negative('prompt_id_weight', prompt_id_weight)
        check_choice('missing', missing, ('zero', 'token'))
        check_probability('modality_dropout', modality_dropout)
        check_rows(num_nodes_dict, modality_x_dict, prompt_start_dict or {})
        check_masks(modality_x_dict, modality_mask_dict or {})
        self.num_layers = num_layers
        self.num_modality_layers = num_modality_layers
        self.modality_weight = modality_weight
        self.self_loop_weight = self_loop_weight
        self.prompt_id_weight = prompt_id_weight
        self.embeddings = NodeEmbeddings(num_nodes_dict, embedding_dim, init_std)
        self._hold_prompt(
            SoftPrompt(prompt_start_dict, embedding_dim, num_prompt_tokens)
            if prompt_start_dict
            else None
        )
        self._hold_features(
            modality_x_dict,
            embedding_dim,
            prompt_feature_weight=prompt_feature_weight,
            dropout=dropout,
            modality_mask_dict=modality_mask_dict or {},
            missing=missing,
            modality_dropout=modality_dropout,
        )

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.embeddings.reset_parameters()
        for name in self.prompt_names:
            self.get_prompt(name).reset_parameters()
        for part in [*self.encoders.values(), *self.missing_rows.values()]:
            assert isinstance(part, PromptedModalityEncoder | MissingRows)
            part.reset_parameters()

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
        n_id_dict: dict[NodeType, Tensor] | None = None,
    ) -> TeacherOutput:
        id_dict = self.embeddings(n_id_dict)
        sizes = {key: x.size(0) for key, x in id_dict.items()}
        adj_dict = self.operators(edge_index_dict, edge_weight_dict, sizes)
        check_reached(id_dict, adj_dict)
        soft_prompt = self.active_prompt
        prompt_dict = soft_prompt(n_id_dict) if soft_prompt is not None else {}
        for node_type, prompt in prompt_dict.items():
            id_dict[node_type] = self._shifted(id_dict[node_type], prompt)
        x_dict = mean_of_hops(id_dict, adj_dict, self.num_layers)
        modality_x_dict: dict[str, dict[NodeType, Tensor]] = {}
        for node_types, names in self._groups().items():
            rows = {
                key: self._side_by_side(names, key, prompt_dict.get(key), n_id_dict)
                for key in node_types
            }
            modality_x_dict |= {name: {} for name in names}
            for node_type, x in self._sum_of_hops(rows, adj_dict).items():
                x = x.view(x.size(0), len(names), -1)
                x_dict[node_type] = add_l2_normalized(
                    x_dict[node_type], x, self.modality_weight
                )
                for name, part in zip(names, x.unbind(1), strict=True):
                    modality_x_dict[name][node_type] = part
        return TeacherOutput(
            x_dict,
            {name: modality_x_dict[name] for name in self.modalities},
            prompt_dict,
        )

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses on one batch: ``bpr`` and ``l2`` on the fused embeddings;
        ``prompt_bpr`` on the prompts alone; ``modality_bpr``, averaged over the
        modalities; ``modality_l2``, half the mean squared norm of the modality vectors.
        Losses of parts that the model does not have are zero.

        Args:
            output: The output of the model.
            batch: User, positive and negative items ``[B]``.
        """
        views = list(output.modality_x_dict.values())
        norms = [
            x.square().sum(dim=-1).mean() / 2
            for x_dict in views
            for x in x_dict.values()
        ]
        return {
            'bpr': self.bpr(output.x_dict, batch),
            'l2': self.l2(output.x_dict, batch),
            'prompt_bpr': self._mean_bpr([output.prompt_dict], batch),
            'modality_bpr': self._mean_bpr(views, batch),
            'modality_l2': _mean(norms),
        }

    def _mean_bpr(self, views: list[dict[NodeType, Tensor]], batch: Triplets) -> Tensor:
        both = [x for x in views if self.user in x and self.item in x]
        return _mean([self.bpr(x_dict, batch) for x_dict in both])

    @property
    def num_hops(self) -> int:
        """How far a node's rows depend on others."""
        return max(self.num_layers, 2 * self.num_modality_layers)

    def inference(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
        *,
        block_size: int = BLOCK,
    ) -> dict[NodeType, Tensor]:
        """Returns the ``x_dict`` of :meth:`forward` for the whole graph, in eval mode
        and without gradients: one modality and one layer at a time, ``block_size`` rows
        at a time. Memory does not grow with the number of modalities.

        Args:
            edge_index_dict: Edges per type; operators may stay on another device.
            edge_weight_dict: Weights per edge type. (default: ``None``)
            block_size: Rows at a time. (default: ``65536``)

        Raises:
            ValueError: If ``block_size`` is not positive or a node type is not reached.
        """
        check_positive('block_size', block_size)
        adj_dict = self.operators(edge_index_dict, edge_weight_dict)
        check_reached(self.embeddings(), adj_dict)
        with eval_mode(self), torch.no_grad():
            ids = {key: self._id_rows(key, block_size) for key in self.num_nodes_dict}
            x_dict = sum_of_hops(ids, adj_dict, self.num_layers, block_size=block_size)
            for x in x_dict.values():
                x.div_(self.num_layers + 1)
            for modality, node_types in self.modalities.items():
                sums = sum_of_hops(
                    {
                        key: self._own_rows(modality, key, block_size)
                        for key in node_types
                    },
                    adj_dict,
                    2 * self.num_modality_layers,
                    start_weight=self.self_loop_weight,
                    block_size=block_size,
                )
                for key, x in sums.items():
                    x_dict[key].add_(l2_normalize(x), alpha=self.modality_weight)
        return x_dict

    def _id_rows(self, node_type: NodeType, block_size: int) -> Tensor:
        table: Tensor = self.embeddings.tables[node_type]
        prompt = self._prompt_of(node_type)
        if prompt is None:
            return table
        return rows_in_blocks(
            lambda n_id: self._shifted(table[n_id], prompt.rows(node_type, n_id)),
            table.size(0),
            device=table.device,
            block_size=block_size,
        )

    def _own_rows(self, modality: str, node_type: NodeType, block_size: int) -> Tensor:
        key = f'{modality}__{node_type}'
        prompt = self._prompt_of(node_type)
        recall = self._recall(key, node_type, whole=False)
        return rows_in_blocks(
            lambda n_id: self._encode(
                key,
                node_type,
                None if prompt is None else prompt.rows(node_type, n_id),
                n_id,
                recall,
            ),
            self.num_nodes_dict[node_type],
            device=self.embeddings.tables[node_type].device,
            block_size=block_size,
        )

    def _shifted(self, x: Tensor, prompt: Tensor) -> Tensor:
        return add_l2_normalized(x, prompt.unsqueeze(1), self.prompt_id_weight)

    def _side_by_side(
        self,
        modalities: list[str],
        node_type: NodeType,
        prompt: Tensor | None,
        n_id_dict: dict[NodeType, Tensor] | None,
    ) -> Tensor:
        """The reduction layers of several modalities, ``[n, M * D]``."""
        n_id = None if n_id_dict is None else n_id_dict[node_type]
        parts = [
            self._encode(f'{name}__{node_type}', node_type, prompt, n_id)
            for name in modalities
        ]
        return torch.cat(parts, dim=1)

    def _groups(self) -> dict[tuple[NodeType, ...], list[str]]:
        """The modalities that the same node types have: they travel side by side."""
        groups: dict[tuple[NodeType, ...], list[str]] = {}
        for modality, node_types in self.modalities.items():
            groups.setdefault(tuple(node_types), []).append(modality)
        return groups

    def _sum_of_hops(
        self, x_dict: dict[NodeType, Tensor], adj_dict: dict[EdgeType, CSRPair]
    ) -> dict[NodeType, Tensor]:
        """What the hops of the modalities bring to every node type they reach."""
        sums = {
            key: self.self_loop_weight * x
            for key, x in x_dict.items()
            if self.self_loop_weight
        }
        for _ in range(2 * self.num_modality_layers):
            blocks = {key: {'x': x} for key, x in x_dict.items()}
            moved = propagate_blocks(blocks, adj_dict)
            x_dict = {key: named['x'] for key, named in moved.items() if named}
            for key, x in x_dict.items():
                sums[key] = sums[key] + x if key in sums else x
        return sums

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.embeddings}, '
            f'modalities={sorted(self.modalities)}, num_layers={self.num_layers}, '
            f'prompt={self.prompt is not None})'
        )


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean() if losses else torch.zeros(())


class GatedTeacher(PromptMM):
    """PromptMM that multiplies every reduced feature row by a gate before propagation.

    The forward has the further argument ``gate_dict``: gates ``[N]`` per feature name
    ``'{modality}__{node_type}'``. Features without gates are unchanged.
    """

    _gate_dict: dict[str, Tensor] | None = None

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
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
