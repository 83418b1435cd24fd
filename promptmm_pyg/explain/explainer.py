"""Decomposes the scores of a model by sources and neighbors."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.explain.explanation import Explanation, Side
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.nn import CSRPair, csr_pair_dict
from promptmm_pyg.nn.csr import Adjacency
from promptmm_pyg.nn.layerwise import (
    BLOCK,
    matmul_in_blocks,
    rows_in_blocks,
    sum_of_hops,
)
from promptmm_pyg.targets import TeacherOutput, eval_mode

ID = 'id'
PROMPT = 'prompt'

_Rows = dict[NodeType, Tensor]
_Adjacencies = dict[EdgeType, CSRPair]
Explainable = PromptMM | LightGCN | MatrixFactorization


class Explainer:
    r"""Decomposes the scores of a trained model exactly.

    Every embedding is a sum over sources, :math:`\mathbf{e}_v = \sum_a
    \mathbf{e}_v^a`, so a score is a sum over pairs of sources,

    .. math::
        \langle \mathbf{e}_u, \mathbf{e}_i \rangle = \sum_a \sum_b
        \langle \mathbf{e}_u^a, \mathbf{e}_i^b \rangle

    The sources of a :class:`~promptmm_pyg.models.PromptMM` are ``id``, each modality
    and ``prompt``:

    * ``id``: the propagated id embeddings, without the prompt's shift.
    * a modality: :math:`\gamma \, \mathbf{f}_v^0 / \lVert \mathbf{f}_v \rVert`,
      where :math:`\mathbf{f}_v^0` is the teacher's modality embedding without prompt
      (including biases and the tokens of missing rows) and :math:`\mathbf{f}_v` that
      with prompt. The norm counts as a constant.
    * ``prompt``: the propagated shift of the ids, and :math:`\gamma (\mathbf{f}_v -
      \mathbf{f}_v^0) / \lVert \mathbf{f}_v \rVert` of every modality. Zero if the
      prompt is disabled; absent if the model has none.

    Students have the single source ``id``.

    The last hop is linear too: an embedding is the node's own part, which does not
    depend on edges, plus one vector per neighbor, which contains the neighbor and the
    earlier hops through it.

    Nothing is sampled and no gradient is computed. The model is evaluated once, in
    eval mode; later training has no effect. Memory: two matrices ``[N_t, D]`` for the
    ids and for each modality, and as many for the prompt in each.

    Args:
        model: A :class:`~promptmm_pyg.models.PromptMM`,
            :class:`~promptmm_pyg.models.LightGCN` or
            :class:`~promptmm_pyg.models.MatrixFactorization` with the node types
            ``user`` and ``item``.
        edge_index_dict: The edges of the model's forward; optional for
            :class:`~promptmm_pyg.models.MatrixFactorization`. (default: ``None``)
        edge_weight_dict: Weights per edge type. (default: ``None``)

    Raises:
        TypeError: If the model has another type.
        ValueError: If a node type or the edges are missing, or a subclass changes the
            forward.

    Example:
        >>> from promptmm_pyg.models import MatrixFactorization
        >>> model = MatrixFactorization({'user': 2, 'item': 3})
        >>> Explainer(model).explain(user=0, item=2).sources
        ('id',)
    """

    def __init__(
        self,
        model: Explainable,
        edge_index_dict: dict[EdgeType, Adjacency] | None = None,
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,
    ) -> None:
        if not isinstance(model, PromptMM | LightGCN | MatrixFactorization):
            raise TypeError(
                f"'model' must be a 'PromptMM', 'LightGCN' or "
                f"'MatrixFactorization' (got '{type(model).__name__}')"
            )
        sizes = {key: x.size(0) for key, x in model.embeddings().items()}
        if not {USER, ITEM} <= set(sizes):
            raise ValueError(
                f"'model' must have the node types '{USER}' and '{ITEM}' (got "
                f'{sorted(sizes)})'
            )
        self._adj_dict: _Adjacencies = {}
        if not isinstance(model, MatrixFactorization):
            if edge_index_dict is None:
                raise ValueError(
                    "'edge_index_dict' must contain the edges of the graph for a "
                    f"'{type(model).__name__}' (got None)"
                )
            self._adj_dict = csr_pair_dict(
                edge_index_dict, edge_weight_dict, num_nodes_dict=sizes
            )
        with eval_mode(model), torch.no_grad():
            output = model(self._adj_dict)
            channels = list(_channels(model, self._adj_dict))
        x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
        self.x_dict: _Rows = {key: x.detach().clone() for key, x in x_dict.items()}
        self.sources: tuple[str, ...] = (ID,)
        if isinstance(model, PromptMM):
            self.sources += tuple(_source_of(name) for name in model.modalities)
            self.sources += () if model.prompt is None else (PROMPT,)
        self._channels = [(self.sources.index(c.source), c) for c in channels]
        self._check(type(model).__name__)

    def parts(self, node_type: NodeType) -> dict[str, Tensor]:
        """The embeddings of all nodes of a type by source, ``[N, D]`` each; their sum
        is ``x_dict[node_type]``.

        Raises:
            ValueError: If the node type is unknown.
        """
        if node_type not in self.x_dict:
            raise ValueError(
                f"'node_type' must be one of {sorted(self.x_dict)} (got {node_type!r})"
            )
        zero = torch.zeros_like(self.x_dict[node_type])
        parts = dict.fromkeys(self.sources, zero)
        for _, (source, flow, scale) in self._channels:
            if node_type in flow.total:
                part = scale[node_type] * flow.total[node_type]
                parts[source] = parts[source] + part
        return parts

    def explain(self, user: int, item: int) -> Explanation:
        """Decomposes the score of an item for a user.

        Args:
            user: Row of the user.
            item: Row of the item.

        Raises:
            ValueError: If a row is out of range.
            FloatingPointError: If the parts do not add up to the score, for example
                because embeddings are not finite.
        """
        nodes = {USER: user, ITEM: item}
        for key, node in nodes.items():
            num_nodes = self.x_dict[key].size(0)
            if not 0 <= node < num_nodes:
                raise ValueError(f"'{key}' must be in [0, {num_nodes}) (got {node})")
        x = {key: self.x_dict[key][node].double() for key, node in nodes.items()}
        parts = {key: self._parts_of(key, node) for key, node in nodes.items()}
        explanation = Explanation(
            user=int(user),
            item=int(item),
            score=float(x[USER] @ x[ITEM]),
            sources=self.sources,
            pairs=(parts[USER] @ parts[ITEM].t()).cpu(),
            user_side=self._side(USER, user, x[ITEM]),
            item_side=self._side(ITEM, item, x[USER]),
            tolerance=80 * torch.finfo(self.x_dict[USER].dtype).eps,
        )
        explanation.check()
        return explanation

    def _parts_of(self, node_type: NodeType, node: int) -> Tensor:
        """The embedding of one node by source, ``[S, D]``."""
        x = self.x_dict[node_type]
        out = x.new_zeros(len(self.sources), x.size(1), dtype=torch.double)
        for source, (_, flow, scale) in self._channels:
            if node_type in flow.total:
                total = flow.total[node_type][node].double()
                out[source] += scale[node_type][node].double() * total
        return out

    def _side(self, node_type: NodeType, node: int, other: Tensor) -> Side:
        """The score by the parts of one end's embedding."""
        own = other.new_zeros(len(self.sources))
        for source, (_, flow, scale) in self._channels:
            if node_type in flow.own:
                vector = scale[node_type][node] * flow.own[node_type][node]
                own[source] += vector.double() @ other
        n_id_dict: dict[EdgeType, Tensor] = {}
        value_dict: dict[EdgeType, Tensor] = {}
        for edge_type, adj in self._adj_dict.items():
            src, _, dst = edge_type
            if dst != node_type:
                continue
            n_id, weight = _neighbors(adj, node, self.x_dict[dst].dtype)
            index = n_id.to(other.device)
            values = other.new_zeros(n_id.numel(), len(self.sources))
            for source, (_, flow, scale) in self._channels:
                if src in flow.message:
                    products = flow.message[src][index].double() @ other
                    values[:, source] += scale[dst][node].double() * products
            n_id_dict[edge_type] = n_id.cpu()
            value_dict[edge_type] = weight.cpu()[:, None] * values.cpu()
        return Side(node_type, int(node), own.cpu(), n_id_dict, value_dict)

    def _check(self, name: str) -> None:
        """Raises if a subclass computes something else than its parts."""
        for key, x in self.x_dict.items():
            total = torch.stack(list(self.parts(key).values())).sum(dim=0)
            finite = x[x.isfinite()].abs()
            scale = float(finite.max()) if finite.numel() else 0.0
            close = torch.finfo(x.dtype).eps ** 0.5 * scale
            if not torch.allclose(total, x, rtol=0.0, atol=close, equal_nan=True):
                raise ValueError(
                    f"'model' must be the sum of its parts (got '{name}', which "
                    f"differs on '{key}'). A subclass that changes the forward cannot "
                    f'be explained'
                )


class _Flow(NamedTuple):
    """Propagated rows: ``total`` is ``own`` plus one hop of ``message``."""

    own: _Rows
    message: _Rows
    total: _Rows


class _Channel(NamedTuple):
    """A summand of the embeddings: a flow and its factor per node, ``[N, 1]``."""

    source: str
    flow: _Flow
    scale: _Rows


def _channels(model: Explainable, adj_dict: _Adjacencies) -> Iterator[_Channel]:
    """The summands of a model's embeddings; the model is in eval mode."""
    tables: _Rows = {key: x.detach() for key, x in model.embeddings().items()}
    if not isinstance(model, PromptMM):
        hops = model.num_hops if isinstance(model, LightGCN) else 0
        yield _averaged(ID, tables, adj_dict, hops)
        return
    yield _averaged(ID, tables, adj_dict, model.num_layers)
    prompt = model.active_prompt
    if prompt is not None:
        shifts = {
            key: rows_in_blocks(
                lambda n_id, key=key: (  # type: ignore[misc]
                    model.prompt_id_weight * l2_normalize(prompt.rows(key, n_id))
                ),
                tables[key].size(0),
                device=tables[key].device,
            )
            for key in prompt.lins
        }
        yield _averaged(PROMPT, shifts, adj_dict, model.num_layers)
    for modality in model.modalities:
        yield from _normalized(model, modality, adj_dict)


def _source_of(modality: str) -> str:
    """The source name of a modality, distinct from ids and prompt."""
    return f'{modality} (modality)' if modality in (ID, PROMPT) else modality


def _flow(
    start_dict: _Rows, adj_dict: _Adjacencies, num_hops: int, own_weight: float
) -> _Flow:
    r"""Splits :math:`\omega \mathbf{X} + \mathbf{A} \mathbf{X} + \dots + \mathbf{A}^L
    \mathbf{X}` into the own part and one hop of the message :math:`\mathbf{M} =
    \mathbf{X} + \dots + \mathbf{A}^{L-1} \mathbf{X}`, with :math:`L` hops and weight
    :math:`\omega`.
    """
    own = {key: own_weight * x for key, x in start_dict.items() if own_weight > 0}
    if num_hops == 0:
        return _Flow(own, {}, own)
    message = sum_of_hops(start_dict, adj_dict, num_hops - 1)
    total = dict(own)
    for (src, _, dst), adj in adj_dict.items():
        if src in message:
            hop = matmul_in_blocks(adj, message[src])
            total[dst] = total[dst] + hop if dst in total else hop
    return _Flow(own, message, total)


def _averaged(
    source: str, start_dict: _Rows, adj_dict: _Adjacencies, num_hops: int
) -> _Channel:
    """Rows averaged over all hops."""
    flow = _flow(start_dict, adj_dict, num_hops, 1.0)
    scale = {
        key: x.new_full((x.size(0), 1), 1 / (num_hops + 1))
        for key, x in flow.total.items()
    }
    return _Channel(source, flow, scale)


def _normalized(
    teacher: PromptMM, modality: str, adj_dict: _Adjacencies
) -> list[_Channel]:
    """A modality without the prompt, and the difference due to the prompt."""
    node_types = teacher.modalities[modality]
    source = _source_of(modality)
    enabled = teacher.prompt_enabled
    teacher.prompt_enabled = False
    try:
        plain = {key: teacher._own_rows(modality, key, BLOCK) for key in node_types}
    finally:
        teacher.prompt_enabled = enabled
    starts = {source: plain}
    prompt = teacher.active_prompt
    if prompt is not None:
        starts[PROMPT] = {
            key: teacher._own_rows(modality, key, BLOCK) - x
            for key, x in plain.items()
            if key in prompt.lins
        }
    hops = 2 * teacher.num_modality_layers
    flows = {
        source: _flow(start_dict, adj_dict, hops, teacher.self_loop_weight)
        for source, start_dict in starts.items()
    }
    for name, start_dict in starts.items():
        isolated = teacher._isolated_rows(start_dict, adj_dict)
        for key, (rows, x) in isolated.items():
            flow = flows[name]
            own = torch.zeros_like(start_dict[key])
            flow.own[key] = own.index_copy(0, rows, x)
            flow.total[key] = flow.total[key].index_copy(0, rows, x)
    sums: _Rows = {}
    for flow in flows.values():
        for key, x in flow.total.items():
            sums[key] = sums[key] + x if key in sums else x
    scale: _Rows = {}
    for key, x in sums.items():
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale[key] = teacher.modality_weight / torch.where(norm > 0, norm, 1.0)
    return [_Channel(source, flow, scale) for source, flow in flows.items()]


def _neighbors(adj: CSRPair, node: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The unique neighbors of a node, and the sums of their edge weights."""
    matrix, _ = adj.matrices(dtype)
    start, end = matrix.crow_indices()[node : node + 2].tolist()
    n_id, inverse = matrix.col_indices()[start:end].long().unique(return_inverse=True)
    weight = torch.zeros(n_id.numel(), dtype=torch.double, device=n_id.device)
    weight.index_add_(0, inverse, matrix.values()[start:end].double())
    return n_id, weight
