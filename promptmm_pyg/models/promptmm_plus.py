"""PromptMM's teacher with what the field has found to help since."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative, check_positive, check_probability
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models._graphs import (
    EdgeDict,
    EdgeSampler,
    FrozenGraph,
    GraphCache,
    WeightDict,
    item_edges,
    reverse_type,
)
from promptmm_pyg.models.base import GraphRecommender, contrast
from promptmm_pyg.models.promptmm import GatedTeacher, PromptMM
from promptmm_pyg.nn._feature_checks import Features
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.prompt import SoftPrompt
from promptmm_pyg.nn.propagation import propagate_blocks
from promptmm_pyg.targets import TeacherOutput

Tables = dict[NodeType, Tensor]
_CHANNELS = 256  # Of the features, sent at once: users by channels exist for these.
_ROWS = 4096  # Of the items, compared at once.


class PromptMMPlus(GraphRecommender):
    r"""A stronger body around :class:`~promptmm_pyg.models.PromptMM`; our own
    design, from no paper.

    The teacher's embedding is a collaborative part and a modality part,
    :math:`\mathbf{x} = \mathbf{z} + \gamma \sum_m \mathrm{norm}(\mathbf{f}^m)`. Four
    options, each by itself or with the others, in this order; with none of them the
    output is the teacher's, bit for bit.

    * ``edge_dropout``: while training, the teacher sees the user-item graph without
      this share of its edges, drawn anew in every forward. Edges between busy nodes go
      first (they stay in proportion to :math:`1 / \sqrt{d_u d_i}`); the rest is
      normalized symmetrically. In eval mode the graph is whole.
    * ``denoise``: before an item's features travel, each modality is multiplied by how
      likely it is the item's own, :math:`t_i^m`. For that, its agreement with what the
      item's users took besides is compared with that of any item's content there:

      .. math::
          \mathbf{o}_i = \sum_{j \neq i} (\mathbf{A}^{\top} \mathbf{A})_{ij} \, t_j^m
          \hat{\mathbf{x}}_j^m, \quad
          z_i = \frac{(\hat{\mathbf{x}}_i^m - \bar{\mathbf{x}}^m)^{\top}
          \mathbf{o}_i}{\sqrt{\mathbf{o}_i^{\top} \mathbf{\Sigma}_m \mathbf{o}_i}},
          \quad t_i^m = \mathrm{sigmoid} \Big( \mu z_i - \frac{\mu^2}{2} - \log
          \frac{\pi}{1 - \pi} \Big)

      on raw features at unit length, with their mean and covariance
      :math:`\mathbf{\Sigma}_m`. Foreign content, a share :math:`\pi`, has :math:`z
      \sim \mathcal{N}(0, 1)`, an item's own :math:`\mathcal{N}(\mu, 1)`; both numbers
      follow from mean and variance of all :math:`z_i`. Two rounds, from :math:`t =
      1`: foreign content is left to its neighbors. A gate on what arrives could not:
      features have mixed by then, and :math:`\mathrm{norm}` undoes what it does to
      their length. Nothing of it is trained, and where content agrees as one kind, all
      gates are close to one. Items without anything to compare get the mean of the
      others.
    * ``item_graph_weight`` :math:`w > 0`: items add what their nearest neighbors by
      raw features hold, each modality's vector along its own frozen graph
      :math:`\mathbf{S}_m`; users add the same of their items.

      .. math::
          \mathbf{H}_i = \frac{1}{|M|} \sum_m \mathbf{S}_m^K \left( \mathbf{Z}_i +
          \gamma \, \mathrm{norm}(\mathbf{F}_i^m) \right), \quad
          \mathbf{X}_i \mathrel{+}= w \, \mathbf{H}_i, \quad
          \mathbf{X}_u \mathrel{+}= w \, \mathbf{A} \mathbf{H}_i

    * ``alignment_weight`` :math:`> 0`: :meth:`losses` adds ``alignment``, InfoNCE
      both ways
      between what is modality in an embedding, :math:`\sum_m \mathrm{norm}
      (\mathbf{f}^m)`, and the rest of it, over the batch's users and its positives.

    The losses are those of :meth:`PromptMM.losses` besides.
    ``weights`` are the teacher's, and ``alignment_weight``.

    ``denoise`` needs features as a whole, in single precision, when a graph is new.

    What is known of the graph for ``edge_dropout`` and ``denoise`` is remembered for
    the operators seen last, in a plain attribute that is neither saved nor copied:
    convert edges once with :func:`~promptmm_pyg.nn.csr_pair_dict`.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {node_type: [N_t, F_m]}}``.
        edge_type: The relation from users to items. (default: ``INTERACTS``)
        prompt_start_dict: See :class:`~promptmm_pyg.models.PromptMM`.
            (default: ``None``)
        modality_mask_dict: See there; absent items have no neighbors.
            (default: ``None``)
        item_graph_weight: :math:`w`; ``0`` builds no graph. (default: ``0.0``)
        num_item_layers: Layers :math:`K` of the item graphs. (default: ``1``)
        num_neighbors: Neighbors of an item. (default: ``10``)
        graph_folder: Where item graphs are kept and found again by their features
            (:func:`~promptmm_pyg.nn.cached_knn_graph`). (default: ``None``, nowhere)
        alignment_weight: Weight of ``alignment``; ``0`` leaves it at zero.
            (default: ``0.0``)
        temperature: Of the alignment. (default: ``0.2``)
        denoise: Whether features of items are gated. (default: ``False``)
        edge_dropout: Share of the edges that is left out in training.
            (default: ``0.0``)
        **teacher: Further arguments of the teacher, handed on as they are.

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`

    Raises:
        ValueError: If sizes, rows or weights do not fit, or an option needs modalities
            that are not there.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        **PromptMM.loss_weights,
        'alignment': 0.0,
    }
    reads_features = True
    reads_prompt = True

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        modality_x_dict: Features | None = None,
        *,
        edge_type: EdgeType = INTERACTS,
        prompt_start_dict: dict[NodeType, Tensor] | None = None,
        modality_mask_dict: dict[str, dict[NodeType, Tensor]] | None = None,
        item_graph_weight: float = 0.0,
        num_item_layers: int = 1,
        num_neighbors: int = 10,
        graph_folder: str | Path | None = None,
        alignment_weight: float = 0.0,
        temperature: float = 0.2,
        denoise: bool = False,
        edge_dropout: float = 0.0,
        **teacher: Any,
    ) -> None:
        super().__init__(num_nodes_dict, modality_x_dict, edge_type)
        modality_x_dict, item = modality_x_dict or {}, self.item
        check_non_negative('item_graph_weight', item_graph_weight)
        check_non_negative('alignment_weight', alignment_weight)
        check_positive('temperature', temperature)
        check_probability('edge_dropout', edge_dropout)
        self.item_graph_weight = item_graph_weight
        self.alignment_weight = alignment_weight
        self.temperature = temperature
        self.denoise = denoise
        self.edge_dropout = edge_dropout
        self.loss_weights = {  # type: ignore[misc]
            **type(self).loss_weights,
            'alignment': alignment_weight,
        }
        self.teacher = GatedTeacher(
            num_nodes_dict,
            modality_x_dict,
            edge_type=edge_type,
            prompt_start_dict=prompt_start_dict,
            modality_mask_dict=modality_mask_dict,
            **teacher,
        )
        self._sampler: GraphCache[EdgeSampler] = GraphCache(EdgeSampler)
        self._gates: GraphCache[Tables] = GraphCache(_none_yet)
        self._gated = [
            f'{modality}__{item}'
            for modality, x_dict in modality_x_dict.items()
            if denoise and item in x_dict
        ]
        self.graphs = torch.nn.ModuleDict()
        if item_graph_weight > 0:
            for modality, x_dict in modality_x_dict.items():
                if item in x_dict:
                    mask = (modality_mask_dict or {}).get(modality, {}).get(item)
                    edges = item_edges(x_dict[item], num_neighbors, mask, graph_folder)
                    num_items = num_nodes_dict[item]
                    self.graphs[modality] = FrozenGraph(
                        edges, num_items, num_item_layers
                    )
        self._check_modalities()

    def _check_modalities(self) -> None:
        for name, wants, has in (
            ('item_graph_weight', self.item_graph_weight > 0, len(self.graphs)),
            ('alignment_weight', self.alignment_weight > 0, self.teacher.modalities),
            ('denoise', self.denoise, len(self._gated)),
        ):
            if wants and not has:
                raise ValueError(
                    f"'{name}' requires 'modality_x_dict' with features of "
                    f'{self.edge_type[2]!r} (got {self.teacher.modalities})'
                )

    @property
    def prompt(self) -> SoftPrompt | None:
        """The teacher's prompt in use."""
        return self.teacher.prompt

    @property
    def prompt_enabled(self) -> bool:
        """Whether the prompt takes part."""
        return self.teacher.prompt_enabled

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.teacher.reset_parameters()

    def forward(
        self,
        edge_index_dict: EdgeDict,
        edge_weight_dict: WeightDict = None,
    ) -> TeacherOutput:
        adj_dict = self.operators(edge_index_dict, edge_weight_dict)
        gate_dict = self._gate_dict(adj_dict) if self.denoise else None
        if self.training and self.edge_dropout > 0:
            adj_dict = self._pruned(adj_dict)
        output: TeacherOutput = self.teacher(adj_dict, gate_dict=gate_dict)
        if self.item_graph_weight > 0:
            output = output._replace(x_dict=self._with_neighbors(output, adj_dict))
        return output

    def _pruned(self, adj_dict: dict[EdgeType, CSRPair]) -> dict[EdgeType, CSRPair]:
        mirrored = reverse_type(adj_dict, self.edge_type)
        if self.edge_type not in adj_dict or mirrored is None:
            raise ValueError(
                f"'edge_index_dict' requires the edge type {self.edge_type} and its "
                f'reverse, named with rev_, for edge_dropout (got {list(adj_dict)})'
            )
        adj = self._sampler(adj_dict[self.edge_type]).sample(1 - self.edge_dropout)
        return {**adj_dict, self.edge_type: adj, mirrored: adj.t()}

    def _gate_dict(self, adj_dict: dict[EdgeType, CSRPair]) -> Tables:
        """Gates per name of features, found once per graph."""
        if self.edge_type not in adj_dict:
            raise ValueError(
                f"'edge_index_dict' requires the edge type {self.edge_type} for "
                f'denoise '
                f'(got {list(adj_dict)})'
            )
        adj = adj_dict[self.edge_type]
        gates = self._gates(adj)
        for key in self._gated:
            if key not in gates:
                x = self.teacher.feature_rows(key)
                if isinstance(x, ChunkedFeatures):
                    device = next(self.parameters()).device
                    x = x.whole(torch.float, device)
                gates[key] = content_reliability(x, adj)
        return gates

    def _modality_part(self, output: TeacherOutput) -> Tables:
        parts: Tables = {}
        for features in output.modality_x_dict.values():
            for key, x in features.items():
                unit = l2_normalize(x)
                parts[key] = parts[key] + unit if key in parts else unit
        return parts

    def _collaborative(self, output: TeacherOutput, parts: Tables) -> Tables:
        """What an embedding holds besides its modality part."""
        return {
            key: x - self.teacher.modality_weight * parts[key] if key in parts else x
            for key, x in output.x_dict.items()
        }

    def _with_neighbors(
        self, output: TeacherOutput, adj_dict: dict[EdgeType, CSRPair]
    ) -> Tables:
        user, _, item = self.edge_type
        ids = self._collaborative(output, self._modality_part(output))[item]
        brought = []
        for modality, graph in self.graphs.items():
            own = output.modality_x_dict[modality].get(item)
            weight = self.teacher.modality_weight
            brought.append(
                graph(ids if own is None else ids + weight * l2_normalize(own))
            )
        item_x = self.item_graph_weight * torch.stack(brought).mean(dim=0)
        to_user = {key: a for key, a in adj_dict.items() if key[::2] == (item, user)}
        user_x = propagate_blocks({item: {'x': item_x}}, to_user)[user]['x']
        return {
            **output.x_dict,
            user: output.x_dict[user] + user_x,
            item: output.x_dict[item] + item_x,
        }

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch. Terms of parts that are not there are zero.

        Args:
            output: What the forward returned.
            batch: User, positive and negative items ``[B]``.
        """
        return {
            **self.teacher.losses(output, batch),
            'alignment': self._alignment(output, batch),
        }

    def _alignment(self, output: TeacherOutput, batch: Triplets) -> Tensor:
        if self.alignment_weight == 0:
            return torch.zeros(())
        parts = self._modality_part(output)
        rest = self._collaborative(output, parts)
        losses = [
            contrast(rest[key][nodes], parts[key][nodes], self.temperature)
            for key, nodes in self.distinct_nodes(batch)
        ]
        return torch.stack(losses).mean()

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.teacher}, '
            f'item_graph_weight={self.item_graph_weight}, '
            f'alignment_weight={self.alignment_weight}, denoise={self.denoise}, '
            f'edge_dropout={self.edge_dropout})'
        )


def _none_yet(_: CSRPair) -> Tables:
    """Gates of a new graph; not a method, that copies of a model fill their own."""
    return {}


def content_reliability(x: Tensor, adj: CSRPair, num_rounds: int = 2) -> Tensor:
    r"""Returns how likely the content of every item is its own, in [0, 1], from how
    well it agrees with what its users took besides.

    With rows :math:`\hat{\mathbf{x}}` at unit length, and their mean
    :math:`\bar{\mathbf{x}}` and covariance :math:`\mathbf{\Sigma}` over all items with
    content,

    .. math::
        \mathbf{o}_i = \sum_{j \neq i} (\mathbf{A}^{\top} \mathbf{A})_{ij} \, t_j
        \hat{\mathbf{x}}_j, \qquad
        z_i = \frac{(\hat{\mathbf{x}}_i - \bar{\mathbf{x}})^{\top} \mathbf{o}_i}
        {\sqrt{\mathbf{o}_i^{\top} \mathbf{\Sigma} \mathbf{o}_i}}

    is the agreement in standard deviations of what the content of any item would have
    there: zero on average where content is foreign. A share :math:`\pi` of the items is
    taken to be so, :math:`z \sim \mathcal{N}(0, 1)`, the rest to have
    :math:`z \sim \mathcal{N}(\mu, 1)`. The mean :math:`m` of all :math:`z_i` and how
    far their variance exceeds one, :math:`v`, settle both, and :math:`t_i` is the
    posterior of the second kind:

    .. math::
        \frac{\pi}{1 - \pi} = \frac{v}{m^2}, \quad \mu = m + \frac{v}{m}, \qquad
        t_i = \mathrm{sigmoid} \Big( \mu z_i - \frac{\mu^2}{2} - \log \frac{\pi}
        {1 - \pi} \Big)

    Where no more than chance spreads the agreement (:math:`v \leq 0`) or there is none
    (:math:`m \leq 0`), all :math:`t_i` are one. In the first round all :math:`t_j` are
    one, in the next those of the round before. Where there is nothing to compare, for
    lack of content or of other items, :math:`t_i` is the mean of all others (one if
    there are none): no evidence is no reproach.

    Args:
        x: Features of the items ``[N, F]``.
        adj: The operator from users to items, one entry an edge.
        num_rounds: The number of rounds. (default: ``2``)
    """
    matrix = adj.matrices(x.dtype)[0]
    rows = torch.arange(x.size(0), device=x.device)
    rows = rows.repeat_interleave(matrix.crow_indices().diff().long())
    itself = x.new_zeros(x.size(0)).index_add_(0, rows, matrix.values().square())
    unit, trust = l2_normalize(x), x.new_ones(x.size(0))
    for _ in range(num_rounds):
        agreement, known = _agreement(unit, _others(unit, adj, trust, itself), itself)
        if known.any():
            found = _posterior(agreement[known])
            trust = torch.full_like(trust, float(found.mean()))
            trust[known] = found
    return trust


def _others(unit: Tensor, adj: CSRPair, trust: Tensor, itself: Tensor) -> Tensor:
    """What the users of every item took besides, ``[N, F]``."""
    parts = []
    for own in unit.split(_CHANNELS, dim=1):
        sent = trust[:, None] * own
        parts.append(adj @ (adj.t() @ sent) - itself[:, None] * sent)
    return torch.cat(parts, dim=1)


def _agreement(unit: Tensor, others: Tensor, itself: Tensor) -> tuple[Tensor, Tensor]:
    """The standardized agreement ``[N]``, and where there is any."""
    present = (unit != 0).any(dim=1)
    count = present.sum().clamp(min=1)
    mean = unit.sum(dim=0) / count
    covariance = unit.t() @ unit / count - mean.outer(mean)
    dots, variances, squares = [], [], []
    for own, other in zip(unit.split(_ROWS), others.split(_ROWS), strict=True):
        dots.append(((own - mean) * other).sum(dim=1))
        variances.append(((other @ covariance) * other).sum(dim=1))
        squares.append(other.square().sum(dim=1))
    variance, square = torch.cat(variances), torch.cat(squares)
    # What an item that is alone has of others is rounding, as is the variance of
    # contents that are all alike.
    known = present & (square > 1e-10 * itself.square())
    known &= variance > torch.finfo(unit.dtype).eps * square
    return torch.cat(dots) / variance.clamp(min=1e-30).sqrt(), known


def _posterior(agreement: Tensor) -> Tensor:
    """The probability of the kind that agrees, by the moments of both together."""
    mean = agreement.mean()
    excess = (agreement.var(correction=0) - 1).clamp(min=0)
    if not mean > 0:
        return torch.ones_like(agreement)
    shift = mean + excess / mean
    odds = excess / mean.square()  # Of foreign content; its logarithm may be -inf.
    return torch.sigmoid(shift * agreement - shift.square() / 2 - odds.log())
