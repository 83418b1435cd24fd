"""From a model and its graph to explanations of single scores."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.explain.channels import (
    ID,
    PROMPT,
    Channel,
    Explainable,
    channels,
    source_of,
)
from promptmm_pyg.explain.explanation import Explanation, Side
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.nn import CSRPair, csr_pair_dict
from promptmm_pyg.nn.csr import Adjacency
from promptmm_pyg.targets import TeacherOutput, eval_mode


class Explainer:
    r"""Takes the scores of a trained model apart, exactly.

    Every embedding is written as a sum over sources, :math:`\mathbf{e}_v = \sum_a
    \mathbf{e}_v^a`, so that a score is a sum over pairs of them,

    .. math::
        \langle \mathbf{e}_u, \mathbf{e}_i \rangle = \sum_a \sum_b
        \langle \mathbf{e}_u^a, \mathbf{e}_i^b \rangle

    For a :class:`~promptmm_pyg.models.PromptMM` the sources are ``id``, each
    modality and ``prompt``:

    * ``id``: the tables, propagated, without the prompt's shift.
    * a modality: :math:`\gamma \, \mathbf{f}_v^0 / \lVert \mathbf{f}_v \rVert`,
      where :math:`\mathbf{f}_v^0` is what the teacher computes without its prompt
      (biases and the tokens of missing rows included) and :math:`\mathbf{f}_v` what
      it computes with it: the length that a row is divided by is taken as given.
    * ``prompt``: the shift of the ids, propagated, and :math:`\gamma (\mathbf{f}_v -
      \mathbf{f}_v^0) / \lVert \mathbf{f}_v \rVert` of every modality. Zero where the
      prompt is disabled; not listed where there is none.

    Students have the one source ``id``.

    The last hop is linear too: an embedding is the node's own part and one vector
    for each neighbor, which holds what the neighbor is and what reached it on earlier
    hops. The node's own part is what is left of it without any edge.

    Nothing is sampled and no gradient is taken. The model is read once, in eval mode;
    two tables ``[N_t, D]`` are kept for each modality and the ids, and as many for
    the prompt in each. What is trained later is not seen.

    Args:
        model: A :class:`~promptmm_pyg.models.PromptMM`,
            :class:`~promptmm_pyg.models.LightGCN` or
            :class:`~promptmm_pyg.models.MatrixFactorization` with the node types
            ``user`` and ``item``.
        edge_index_dict: The edges the model is called with; not needed for
            :class:`~promptmm_pyg.models.MatrixFactorization`. (default: ``None``)
        edge_weight_dict: Weights per edge type. (default: ``None``)

    Raises:
        TypeError: If the model is of another kind.
        ValueError: If it lacks a node type or edges, or computes anything else than
            its class does.

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
                f"'model' requires the node types '{USER}' and '{ITEM}' (got "
                f'{sorted(sizes)})'
            )
        self._adj_dict = _operators(model, sizes, edge_index_dict, edge_weight_dict)
        with eval_mode(model), torch.no_grad():
            output = model(self._adj_dict)
            self._channels = channels(model, self._adj_dict)
        x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
        self.x_dict: dict[NodeType, Tensor] = {
            key: x.detach().clone() for key, x in x_dict.items()
        }
        self.sources = _sources(model)
        self._check(type(model).__name__)

    def parts(self, node_type: NodeType) -> dict[str, Tensor]:
        """Returns the embeddings of all nodes of a type by source, ``[N, D]`` each;
        their sum is ``x_dict[node_type]``.

        Raises:
            ValueError: If the node type is unknown.
        """
        if node_type not in self.x_dict:
            raise ValueError(
                f"'node_type' must be one of {sorted(self.x_dict)} (got {node_type!r})"
            )
        zero = torch.zeros_like(self.x_dict[node_type])
        found = dict.fromkeys(self.sources, zero)
        for source, flow, scale in self._channels:
            if node_type in flow.total:
                part = scale[node_type] * flow.total[node_type]
                found[source] = found[source] + part
        return found

    def explain(self, user: int, item: int) -> Explanation:
        """Returns where the score of an item for a user comes from.

        Args:
            user: Position of the user.
            item: Position of the item.

        Raises:
            ValueError: If there is no such user or item.
            FloatingPointError: If parts do not add up to the score, as where
                embeddings are not finite.
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
        out = self.x_dict[node_type].new_zeros(
            len(self.sources), self.x_dict[node_type].size(1), dtype=torch.double
        )
        for place, channel in self._placed():
            _, flow, scale = channel
            if node_type in flow.total:
                total = flow.total[node_type][node].double()
                out[place] += scale[node_type][node].double() * total
        return out

    def _side(self, node_type: NodeType, node: int, other: Tensor) -> Side:
        """The score by what the embedding of one end is made of."""
        own = other.new_zeros(len(self.sources))
        for place, (_, flow, scale) in self._placed():
            if node_type in flow.own:
                vector = scale[node_type][node] * flow.own[node_type][node]
                own[place] += vector.double() @ other
        n_id_dict: dict[EdgeType, Tensor] = {}
        value_dict: dict[EdgeType, Tensor] = {}
        for edge_type, adj in self._adj_dict.items():
            if edge_type[2] == node_type:
                n_id, weight = _neighbors(adj, node, self.x_dict[node_type].dtype)
                values = self._passed_on(edge_type, node, n_id.to(other.device), other)
                n_id_dict[edge_type] = n_id.cpu()
                value_dict[edge_type] = weight.cpu()[:, None] * values.cpu()
        return Side(node_type, int(node), own.cpu(), n_id_dict, value_dict)

    def _passed_on(
        self, edge_type: EdgeType, node: int, n_id: Tensor, other: Tensor
    ) -> Tensor:
        """What neighbors add to the score by source, ``[n, S]``, per unit of weight."""
        src, _, dst = edge_type
        values = other.new_zeros(n_id.numel(), len(self.sources))
        for place, (_, flow, scale) in self._placed():
            if src in flow.message:
                share = flow.message[src][n_id].double() @ other
                values[:, place] += scale[dst][node].double() * share
        return values

    def _placed(self) -> Iterator[tuple[int, Channel]]:
        for channel in self._channels:
            yield self.sources.index(channel.source), channel

    def _check(self, name: str) -> None:
        """A subclass may compute something else, which the parts would not show."""
        for key, x in self.x_dict.items():
            total = torch.stack(list(self.parts(key).values())).sum(dim=0)
            finite = x[x.isfinite()].abs()
            scale = float(finite.max()) if finite.numel() else 0.0
            close = torch.finfo(x.dtype).eps ** 0.5 * scale
            if not torch.allclose(total, x, rtol=0.0, atol=close, equal_nan=True):
                raise ValueError(
                    f"'model' must compute what its parts add up to (got "
                    f"'{name}', which differs on '{key}'). A subclass that changes "
                    f'the forward cannot be explained'
                )


def _sources(model: Explainable) -> tuple[str, ...]:
    if not isinstance(model, PromptMM):
        return (ID,)
    modalities = [source_of(name) for name in model.modalities]
    return (ID, *modalities, *([] if model.prompt is None else [PROMPT]))


def _operators(
    model: Explainable,
    sizes: dict[NodeType, int],
    edge_index_dict: dict[EdgeType, Adjacency] | None,
    edge_weight_dict: dict[EdgeType, Tensor] | None,
) -> dict[EdgeType, CSRPair]:
    if isinstance(model, MatrixFactorization):
        return {}
    if edge_index_dict is None:
        raise ValueError(
            f"'edge_index_dict' requires the edges of the graph for a "
            f"'{type(model).__name__}' (got None)"
        )
    return csr_pair_dict(edge_index_dict, edge_weight_dict, num_nodes_dict=sizes)


def _neighbors(adj: CSRPair, node: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The neighbors of a node, each once, and the weights of their edges, added up."""
    matrix, _ = adj.matrices(dtype)
    start, end = matrix.crow_indices()[node : node + 2].tolist()
    n_id, place = matrix.col_indices()[start:end].long().unique(return_inverse=True)
    weight = torch.zeros(n_id.numel(), dtype=torch.double, device=n_id.device)
    weight.index_add_(0, place, matrix.values()[start:end].double())
    return n_id, weight
