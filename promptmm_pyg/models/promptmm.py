"""PromptMM: the multi-modal teacher with a soft prompt."""

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
from promptmm_pyg.models.base import GraphRecommender, reset
from promptmm_pyg.nn._features import (
    FeatureDict,
    Features,
    check_masks,
    check_rows,
)
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.layerwise import (
    BLOCK,
    isolated_nodes,
    rows_in_blocks,
    sum_of_hops,
)
from promptmm_pyg.nn.modality_encoder import Missing
from promptmm_pyg.nn.prompt import SoftPrompt
from promptmm_pyg.nn.prompted_features import PromptedFeatures
from promptmm_pyg.nn.propagation import check_reached, mean_of_hops, propagate_blocks
from promptmm_pyg.search_space import Choices, Range, trained_space
from promptmm_pyg.targets import TeacherOutput, eval_mode


class PromptMM(PromptedFeatures, GraphRecommender):
    r"""The multi-modal teacher of the `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper, for any number of modalities on any
    node type.

    Every modality is projected to the shared width, with the prompt
    (:class:`~promptmm_pyg.nn.PromptedModalityEncoder`), and propagated two hops for
    each of ``num_modality_layers``: from items to users and back. Id embeddings plus
    the prompt are propagated as in LightGCN.

    .. math::
        \mathbf{e}_v = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{x}_v^{(l)} + \gamma
        \sum_m \mathrm{norm}(\mathbf{f}_v^m), \qquad
        \mathbf{x}_v^{(0)} = \mathbf{e}_v^{\text{id}} + \mu \,
        \mathrm{norm}(\mathbf{p}_v)

    where :math:`\mathbf{f}_v^m` is the sum over hops of modality :math:`m` at node
    :math:`v`. With ``self_loop_weight`` :math:`> 0` it includes the node's own
    projected features. With ``isolated_features`` a node without edges, where the paper
    has no modality part, has its own projected features: a new item is ranked by its
    content. All other nodes are those of the paper.

    Features are buffers that are not saved; what the prompt needs of them is computed
    once, in the constructor.

    Rows that are absent by ``modality_mask_dict`` are never read: they are zero or,
    with ``missing='token'``, a trained vector per modality and node type
    (:class:`~promptmm_pyg.nn.MissingRows`). Do not pass a mask for rows that were
    imputed (:class:`~promptmm_pyg.transforms.ImputeFromNeighbors`).

    With ``n_id_dict`` the edges are those of a subgraph, in positions of the ids, as
    returned by a neighbor loader, and only these rows of tables and features are read.
    A row equals that of the whole graph if the subgraph has all nodes within
    ``num_hops``. (With several prompt tokens, the recall of the prompt is a sum over
    all nodes at every step, computed in blocks.)

    Further prompts have names (``add_prompt``, ``set_prompt``); with
    ``disable_prompt`` the output is bit for bit that of a teacher without one.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {node_type: [N_t, F_m]}}`` of any real
            type, zero in rows that are absent, unless there is a mask. They are
            converted to the precision of the parameters; those in half precision, and
            :class:`~promptmm_pyg.nn.ChunkedFeatures`, are read in blocks of rows and
            not moved.
        edge_type: ``(user, relation, item)`` of the :meth:`losses`; the graph may have
            other types. (default: ``INTERACTS``)
        prompt_start_dict: The starting point of the prompt ``[N_t, P_in]`` per node
            type; ``None`` for a teacher without a prompt. (default: ``None``)
        embedding_dim: The shared width :math:`D`. (default: ``64``)
        num_layers: Layers :math:`L` of the id propagation. (default: ``2``)
        num_modality_layers: Pairs of hops of the modality propagation.
            (default: ``1``)
        modality_weight: :math:`\gamma`. (default: ``0.5``)
        self_loop_weight: Weight of a node's own features. (default: ``0.0``)
        isolated_features: Whether nodes without edges have their own features; with
            ``self_loop_weight`` they always have. (default: ``True``)
        prompt_id_weight: :math:`\mu`. (default: ``0.1``)
        prompt_feature_weight: Weight of the prompt in the modality encoders.
            (default: ``1.0``)
        dropout: Dropout rate of the modality encoders. (default: ``0.2``)
        init_std: Standard deviation of a normal start of the tables.
            (default: Xavier uniform, as in the released code)
        num_prompt_tokens: Number of prompt tokens
            (:class:`~promptmm_pyg.nn.SoftPrompt`). (default: ``1``)
        modality_mask_dict: Bool masks ``{modality: {node_type: [N_t]}}``, true where
            the row is present. (default: all present)
        missing: ``'zero'`` or ``'token'``. (default: ``'zero'``)
        modality_dropout: Rate at which, in training, a modality of a node is dropped.
            (default: ``0.0``)

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type, ids :math:`(n_t)` per node
          type *(optional)*, factors :math:`(N_t)` of the projected features by name
          ``'{modality}__{node_type}'`` *(optional)*
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
    search_space = trained_space(
        1e-3,
        num_layers=Choices(2, (2, 3, 4, 6)),
        modality_weight=Range(0.5, 0.02, 1.0),
        self_loop_weight=Choices(0.0, (0.0, 1.0)),
    )

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
        isolated_features: bool = True,
        prompt_id_weight: float = 0.1,
        prompt_feature_weight: float = 1.0,
        dropout: float = 0.2,
        init_std: float | None = None,
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
        self.isolated_features = isolated_features
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
        self.embeddings.reset_parameters()
        for name in self.prompt_names:
            self.get_prompt(name).reset_parameters()
        reset(self.encoders)
        reset(self.missing_rows)

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
        n_id_dict: dict[NodeType, Tensor] | None = None,
        gate_dict: dict[str, Tensor] | None = None,
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
                key: self._encode_all(
                    names, key, prompt_dict.get(key), n_id_dict, gate_dict or {}
                )
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
        """The losses of one batch: ``bpr`` and ``l2`` of the final embeddings;
        ``prompt_bpr`` of the prompts; ``modality_bpr``, averaged over modalities;
        ``modality_l2``, half the mean squared norm of the modality vectors. The losses
        of a prompt or of modalities are zero for a model without.
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
        views = [x_dict for x_dict in views if {self.user, self.item} <= set(x_dict)]
        return _mean([self.bpr(x_dict, batch) for x_dict in views])

    @property
    def num_hops(self) -> int:
        """The number of hops on which a node's row depends."""
        return max(self.num_layers, 2 * self.num_modality_layers)

    def inference(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
        *,
        block_size: int = BLOCK,
    ) -> dict[NodeType, Tensor]:
        """The ``x_dict`` of :meth:`forward` on the whole graph, in eval mode, without
        gradients, one modality and layer and ``block_size`` rows at a time. Memory does
        not grow with the number of modalities.

        Args:
            edge_index_dict: Edges per type; operators may be on another device.
            edge_weight_dict: Weights per edge type. (default: ``None``)
            block_size: Rows at a time. (default: ``65536``)

        Raises:
            ValueError: If ``block_size`` is not positive or no edge type points to a
                node type.
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
                own = {
                    key: self._own_rows(modality, key, block_size) for key in node_types
                }
                isolated = self._isolated_rows(own, adj_dict)
                sums = sum_of_hops(
                    own,
                    adj_dict,
                    2 * self.num_modality_layers,
                    start_weight=self.self_loop_weight,
                    block_size=block_size,
                )
                for key, (rows, x) in isolated.items():
                    sums[key][rows] = x
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
        recall = self._recall(key, node_type, all_nodes=False)
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

    def _encode_all(
        self,
        modalities: list[str],
        node_type: NodeType,
        prompt: Tensor | None,
        n_id_dict: dict[NodeType, Tensor] | None,
        gate_dict: dict[str, Tensor],
    ) -> Tensor:
        """The projected features of several modalities, concatenated ``[n, M * D]``."""
        n_id = None if n_id_dict is None else n_id_dict[node_type]
        parts = []
        for key in (f'{name}__{node_type}' for name in modalities):
            x = self._encode(key, node_type, prompt, n_id)
            if key in gate_dict:
                gate = gate_dict[key] if n_id is None else gate_dict[key][n_id]
                x = gate[:, None] * x
            parts.append(x)
        return torch.cat(parts, dim=1)

    def _groups(self) -> dict[tuple[NodeType, ...], list[str]]:
        """The modalities of the same node types, which share every sparse product."""
        groups: dict[tuple[NodeType, ...], list[str]] = {}
        for modality, node_types in self.modalities.items():
            groups.setdefault(tuple(node_types), []).append(modality)
        return groups

    def _sum_of_hops(
        self, x_dict: dict[NodeType, Tensor], adj_dict: dict[EdgeType, CSRPair]
    ) -> dict[NodeType, Tensor]:
        """The sum over hops per node type."""
        isolated = self._isolated_rows(x_dict, adj_dict)
        sums = {
            key: self.self_loop_weight * x
            for key, x in x_dict.items()
            if self.self_loop_weight
        }
        for _ in range(2 * self.num_modality_layers):
            blocks = {key: {'x': x} for key, x in x_dict.items()}
            blocks = propagate_blocks(blocks, adj_dict)
            x_dict = {key: named['x'] for key, named in blocks.items() if named}
            for key, x in x_dict.items():
                sums[key] = sums[key] + x if key in sums else x
        for key, (rows, x) in isolated.items():
            sums[key] = sums[key].index_copy(0, rows, x)
        return sums

    def _isolated_rows(
        self, x_dict: dict[NodeType, Tensor], adj_dict: dict[EdgeType, CSRPair]
    ) -> dict[NodeType, tuple[Tensor, Tensor]]:
        """The nodes without edges, which no hop reaches, and their own features."""
        if self.self_loop_weight or not self.isolated_features:
            return {}
        reached = {dst for _, _, dst in adj_dict}
        rows = {key: isolated_nodes(adj_dict, key) for key in x_dict if key in reached}
        return {key: (n_id, x_dict[key][n_id]) for key, n_id in rows.items()}

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.embeddings}, '
            f'modalities={sorted(self.modalities)}, num_layers={self.num_layers}, '
            f'prompt={self.prompt is not None})'
        )


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean() if losses else torch.zeros(())
