"""PromptMM with item graphs, alignment, denoised features and edge dropout."""

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
from promptmm_pyg.models._contrast import contrast
from promptmm_pyg.models._graphs import (
    EdgeDict,
    EdgeSampler,
    FrozenGraph,
    GraphCache,
    WeightDict,
    item_edges,
    reverse_type,
)
from promptmm_pyg.models.base import GraphRecommender
from promptmm_pyg.models.promptmm import PromptMM
from promptmm_pyg.nn._features import Features
from promptmm_pyg.nn.blocked_linear import ChunkedFeatures
from promptmm_pyg.nn.csr import CSRPair
from promptmm_pyg.nn.prompt import SoftPrompt
from promptmm_pyg.nn.propagation import propagate_blocks
from promptmm_pyg.search_space import Choices, trained_space
from promptmm_pyg.targets import TeacherOutput

Tables = dict[NodeType, Tensor]
_CHANNELS = 256  # Of the features, propagated to users at a time.
_ROWS = 4096  # Of the items, compared at a time.


class PromptMMPlus(GraphRecommender):
    r""":class:`~promptmm_pyg.models.PromptMM` with four further options; our own
    design, from no paper.

    The embedding of PromptMM is a collaborative part and a modality part,
    :math:`\mathbf{x} = \mathbf{z} + \gamma \sum_m \mathrm{norm}(\mathbf{f}^m)`. The
    options are independent; without any, the output is that of PromptMM, bit for bit.

    * ``edge_dropout``: in training, this ratio of the edges is dropped in every
      forward. The probability that an edge remains is proportional to
      :math:`1 / \sqrt{d_u d_i}`; the subgraph is normalized symmetrically. Eval mode
      uses all edges.
    * ``denoise``: before propagation, each modality of an item is multiplied by
      :math:`t_i`, the probability that the content belongs to the item, from its
      agreement :math:`z_i` with the other items of its users. It has no parameters,
      and is close to one where all content agrees.

      .. math::
          \mathbf{o}_i = \sum_{j \neq i} (\mathbf{A}^{\top} \mathbf{A})_{ij} \, t_j
          \hat{\mathbf{x}}_j, \quad
          z_i = \frac{(\hat{\mathbf{x}}_i - \bar{\mathbf{x}})^{\top} \mathbf{o}_i}
          {\sqrt{\mathbf{o}_i^{\top} \mathbf{\Sigma} \mathbf{o}_i}}, \quad
          t_i = \mathrm{sigmoid} \Big( \mu z_i - \frac{\mu^2}{2} - \log
          \frac{\pi}{1 - \pi} \Big)

      with raw features :math:`\hat{\mathbf{x}}` at unit length, their mean
      :math:`\bar{\mathbf{x}}` and covariance :math:`\mathbf{\Sigma}`. Wrong content has
      probability :math:`\pi` and :math:`z \sim \mathcal{N}(0, 1)`, other content
      :math:`z \sim \mathcal{N}(\mu, 1)`; both follow from the moments of :math:`z`.
    * ``item_graph_weight`` :math:`w > 0`: items add the vectors of their nearest
      neighbors by raw features, each modality on its own frozen graph
      :math:`\mathbf{S}_m`; users add those of their items.

      .. math::
          \mathbf{H}_i = \frac{1}{|M|} \sum_m \mathbf{S}_m^K \left( \mathbf{Z}_i +
          \gamma \, \mathrm{norm}(\mathbf{F}_i^m) \right), \quad
          \mathbf{X}_i \mathrel{+}= w \, \mathbf{H}_i, \quad
          \mathbf{X}_u \mathrel{+}= w \, \mathbf{A} \mathbf{H}_i

    * ``alignment_weight`` :math:`> 0`: :meth:`losses` adds ``alignment``, InfoNCE in
      both directions between the modality part :math:`\sum_m \mathrm{norm}
      (\mathbf{f}^m)` and the collaborative part, over the batch's users and its
      positives.

    Convert edges once with :func:`~promptmm_pyg.nn.csr_pair_dict`: what
    ``edge_dropout`` and ``denoise`` compute once per graph is cached for the last
    operators only, and is not saved. ``denoise`` then reads all features in single
    precision.

    Args:
        num_nodes_dict: The number of nodes per node type.
        modality_x_dict: Features ``{modality: {node_type: [N_t, F_m]}}``.
        edge_type: The relation from users to items. (default: ``INTERACTS``)
        prompt_start_dict: See :class:`~promptmm_pyg.models.PromptMM`.
            (default: ``None``)
        modality_mask_dict: See PromptMM; absent rows have no neighbors.
            (default: ``None``)
        item_graph_weight: :math:`w`; ``0`` builds no graph. (default: ``0.0``)
        num_item_layers: Layers :math:`K` of the item graphs. (default: ``1``)
        num_neighbors: Neighbors of an item. (default: ``10``)
        graph_folder: Folder that caches item graphs
            (:func:`~promptmm_pyg.nn.cached_knn_graph`). (default: no cache)
        alignment_weight: Weight of ``alignment``; ``0`` does not compute it.
            (default: ``0.0``)
        temperature: Of the alignment. (default: ``0.2``)
        denoise: Whether features of items are gated. (default: ``False``)
        edge_dropout: Ratio of edges that are dropped in training.
            (default: ``0.0``)
        **teacher: Further arguments of PromptMM.

    Shapes:
        - **inputs:** edges in any form of :func:`~promptmm_pyg.nn.as_csr_pair` and
          weights :math:`(E_r)` *(optional)* per edge type
        - **output:** :class:`~promptmm_pyg.targets.TeacherOutput`

    Raises:
        ValueError: If sizes, rows or weights do not fit, or an option requires
            features that are missing.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {
        **PromptMM.loss_weights,
        'alignment': 0.0,
    }
    reads_features = True
    reads_prompt = True
    search_space = trained_space(
        1e-3,
        num_layers=Choices(2, (2, 3, 4, 6)),
        # Both are off by default: the first trial is PromptMM's.
        item_graph_weight=Choices(0.0, (0.0, 0.1, 0.3, 1.0)),
        alignment_weight=Choices(0.0, (0.0, 0.01, 0.1)),
    )

    further_arguments_of = PromptMM
    """The class that takes ``**teacher``."""

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
        self.teacher = PromptMM(
            num_nodes_dict,
            modality_x_dict,
            edge_type=edge_type,
            prompt_start_dict=prompt_start_dict,
            modality_mask_dict=modality_mask_dict,
            **teacher,
        )
        self._sampler: GraphCache[EdgeSampler] = GraphCache(EdgeSampler)
        self._gates: GraphCache[Tables] = GraphCache(_no_gates)
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
        for name, enabled, modalities in (
            ('item_graph_weight', self.item_graph_weight > 0, self.graphs),
            ('alignment_weight', self.alignment_weight > 0, self.teacher.modalities),
            ('denoise', self.denoise, self._gated),
        ):
            if enabled and not modalities:
                raise ValueError(
                    f"'{name}' requires 'modality_x_dict' with features of "
                    f'{self.item!r} (got {self.teacher.modalities})'
                )

    @property
    def prompt(self) -> SoftPrompt | None:
        """The prompt in use."""
        return self.teacher.prompt

    @property
    def prompt_enabled(self) -> bool:
        """Whether the prompt is enabled."""
        return self.teacher.prompt_enabled

    def reset_parameters(self) -> None:
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
        reverse = reverse_type(adj_dict, self.edge_type)
        if self.edge_type not in adj_dict or reverse is None:
            raise ValueError(
                f"'edge_index_dict' must have the edge type {self.edge_type} and its "
                f'reverse, with the prefix rev_, for edge_dropout (got '
                f'{list(adj_dict)})'
            )
        adj = self._sampler(adj_dict[self.edge_type]).sample(1 - self.edge_dropout)
        return {**adj_dict, self.edge_type: adj, reverse: adj.t()}

    def _gate_dict(self, adj_dict: dict[EdgeType, CSRPair]) -> Tables:
        """Gates per name of features, computed once per graph."""
        if self.edge_type not in adj_dict:
            raise ValueError(
                f"'edge_index_dict' must have the edge type {self.edge_type} for "
                f'denoise (got {list(adj_dict)})'
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
        """The collaborative parts: embeddings minus their modality parts."""
        return {
            key: x - self.teacher.modality_weight * parts[key] if key in parts else x
            for key, x in output.x_dict.items()
        }

    def _with_neighbors(
        self, output: TeacherOutput, adj_dict: dict[EdgeType, CSRPair]
    ) -> Tables:
        user, _, item = self.edge_type
        ids = self._collaborative(output, self._modality_part(output))[item]
        weight, parts = self.teacher.modality_weight, []
        for modality, graph in self.graphs.items():
            x = output.modality_x_dict[modality].get(item)
            parts.append(graph(ids if x is None else ids + weight * l2_normalize(x)))
        item_x = self.item_graph_weight * torch.stack(parts).mean(dim=0)
        to_user = {key: a for key, a in adj_dict.items() if key[::2] == (item, user)}
        user_x = propagate_blocks({item: {'x': item_x}}, to_user)[user]['x']
        return {
            **output.x_dict,
            user: output.x_dict[user] + user_x,
            item: output.x_dict[item] + item_x,
        }

    def losses(self, output: TeacherOutput, batch: Triplets) -> dict[str, Tensor]:
        """The losses of one batch: those of :meth:`PromptMM.losses`, and ``alignment``,
        zero if it is disabled.
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

        def views(key: NodeType, nodes: Tensor) -> tuple[Tensor, Tensor]:
            return rest[key][nodes], parts[key][nodes]

        losses = [
            contrast(*views(key, index.unique()), self.temperature, symmetric=True)
            for key, index in ((self.user, batch.user), (self.item, batch.positive))
        ]
        return torch.stack(losses).mean()

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.teacher}, '
            f'item_graph_weight={self.item_graph_weight}, '
            f'alignment_weight={self.alignment_weight}, denoise={self.denoise}, '
            f'edge_dropout={self.edge_dropout})'
        )


def _no_gates(_: CSRPair) -> Tables:
    """The gates of a new graph; a function, so that copies of a model share nothing."""
    return {}


def content_reliability(x: Tensor, adj: CSRPair, num_rounds: int = 2) -> Tensor:
    r"""Returns the probability that the content of an item is its own, in [0, 1], from
    its agreement with the other items of its users.

    In the notation of :class:`PromptMMPlus`, :math:`z_i` is the agreement in units of
    its standard deviation over the content of all items; it is zero on average for
    wrong content. The parameters of the mixture follow from the mean :math:`m` of all
    :math:`z_i` and the excess :math:`v` of their variance over one, and :math:`t_i` is
    the posterior of the second component:

    .. math::
        \frac{\pi}{1 - \pi} = \frac{v}{m^2}, \qquad \mu = m + \frac{v}{m}

    If :math:`v \leq 0` or :math:`m \leq 0`, all :math:`t_i` are one. Rounds start from
    :math:`t_j = 1` and continue from the last :math:`t_j`. Items without content or
    without other items to compare with get the mean of all others (one if there are
    none).

    Args:
        x: Features of the items ``[N, F]``.
        adj: The operator from users to items, one entry per edge.
        num_rounds: The number of rounds. (default: ``2``)
    """
    weight = adj.matrices(x.dtype)[0].values()
    own_weight = x.new_zeros(x.size(0)).index_add_(0, adj.edges()[0], weight.square())
    unit, reliability = l2_normalize(x), x.new_ones(x.size(0))
    for _ in range(num_rounds):
        others = _others(unit, adj, reliability, own_weight)
        agreement, known = _agreement(unit, others, own_weight)
        if known.any():
            posterior = _posterior(agreement[known])
            reliability = torch.full_like(reliability, float(posterior.mean()))
            reliability[known] = posterior
    return reliability


def _others(
    unit: Tensor, adj: CSRPair, reliability: Tensor, own_weight: Tensor
) -> Tensor:
    """The sum of the other items of the users of each item, ``[N, F]``."""
    parts = []
    for channels in unit.split(_CHANNELS, dim=1):
        x = reliability[:, None] * channels
        parts.append(adj @ (adj.t() @ x) - own_weight[:, None] * x)
    return torch.cat(parts, dim=1)


def _agreement(
    unit: Tensor, others: Tensor, own_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The standardized agreement ``[N]``, and where it is defined."""
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
    # Below: rounding errors, for items without others and for equal contents.
    known = present & (square > 1e-10 * own_weight.square())
    known &= variance > torch.finfo(unit.dtype).eps * square
    return torch.cat(dots) / variance.clamp(min=1e-30).sqrt(), known


def _posterior(agreement: Tensor) -> Tensor:
    """The posterior of the second component, by the method of moments."""
    mean = agreement.mean()
    excess = (agreement.var(correction=0) - 1).clamp(min=0)
    if not mean > 0:
        return torch.ones_like(agreement)
    shift = mean + excess / mean
    odds = excess / mean.square()  # Of wrong content; the logarithm may be -inf.
    return torch.sigmoid(shift * agreement - shift.square() / 2 - odds.log())
