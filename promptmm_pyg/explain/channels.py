"""What flows through a model, taken apart by where it starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.nn import CSRPair
from promptmm_pyg.nn.layerwise import (
    BLOCK,
    matmul_in_blocks,
    rows_in_blocks,
    sum_of_hops,
)

ID = 'id'
PROMPT = 'prompt'

Rows = dict[NodeType, Tensor]
Adjacencies = dict[EdgeType, CSRPair]
Explainable = PromptMM | LightGCN | MatrixFactorization


class Flow(NamedTuple):
    """Rows that travel: ``total`` is ``own`` plus one hop of ``message``."""

    own: Rows
    message: Rows
    total: Rows


class Channel(NamedTuple):
    """A flow, what it counts for, and the number each node multiplies it by."""

    source: str
    flow: Flow
    scale: Rows  # [N, 1]


def flow(
    start_dict: Rows, adj_dict: Adjacencies, num_hops: int, own_weight: float
) -> Flow:
    r"""Returns :math:`\omega \mathbf{X} + \mathbf{A} \mathbf{X} + \dots + \mathbf{A}^L
    \mathbf{X}` as what a node has of its own and what its neighbors pass on,
    :math:`\mathbf{M} = \mathbf{X} + \dots + \mathbf{A}^{L-1} \mathbf{X}`.

    Args:
        start_dict: Rows :math:`\mathbf{X}` ``[N_t, D]``, of some node types.
        adj_dict: The operator of every edge type.
        num_hops: :math:`L`; with zero, nothing is passed on.
        own_weight: :math:`\omega`.
    """
    own = {key: own_weight * x for key, x in start_dict.items() if own_weight > 0}
    if num_hops == 0:
        return Flow(own, {}, own)
    message = sum_of_hops(start_dict, adj_dict, num_hops - 1)
    total = dict(own)
    for (src, _, dst), adj in adj_dict.items():
        if src in message:
            moved = matmul_in_blocks(adj, message[src])
            total[dst] = total[dst] + moved if dst in total else moved
    return Flow(own, message, total)


def channels(model: Explainable, adj_dict: Adjacencies) -> list[Channel]:
    """All that a model's embeddings are the sum of.

    Args:
        model: In eval mode.
        adj_dict: The operator of every edge type; unused without propagation.
    """
    tables: Rows = {key: x.detach() for key, x in model.embeddings().items()}
    if isinstance(model, MatrixFactorization):
        return [_averaged(ID, tables, {}, 0)]
    if isinstance(model, LightGCN):
        return [_averaged(ID, tables, adj_dict, model.num_hops)]
    found = [_averaged(ID, tables, adj_dict, model.num_layers)]
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
        found.append(_averaged(PROMPT, shifts, adj_dict, model.num_layers))
    for modality in model.modalities:
        found += _normalized(model, modality, adj_dict)
    return found


def source_of(modality: str) -> str:
    """What a modality is called beside the ids and the prompt."""
    return f'{modality} (modality)' if modality in (ID, PROMPT) else modality


def _averaged(
    source: str, start_dict: Rows, adj_dict: Adjacencies, num_hops: int
) -> Channel:
    moved = flow(start_dict, adj_dict, num_hops, 1.0)
    scale = {
        key: x.new_full((x.size(0), 1), 1 / (num_hops + 1))
        for key, x in moved.total.items()
    }
    return Channel(source, moved, scale)


def _normalized(
    teacher: PromptMM, modality: str, adj_dict: Adjacencies
) -> list[Channel]:
    """A modality without the prompt, and the difference that the prompt makes."""

    def rows(key: NodeType) -> Tensor:
        return teacher._own_rows(modality, key, BLOCK)

    with _without_prompt(teacher):
        starts = {
            source_of(modality): {k: rows(k) for k in teacher.modalities[modality]}
        }
    prompt = teacher.active_prompt
    if prompt is not None:
        starts[PROMPT] = {
            key: rows(key) - x
            for key, x in starts[source_of(modality)].items()
            if key in prompt.lins
        }
    hops = 2 * teacher.num_modality_layers
    flows = {
        source: flow(start_dict, adj_dict, hops, teacher.self_loop_weight)
        for source, start_dict in starts.items()
    }
    sums: Rows = {}
    for one in flows.values():
        for key, x in one.total.items():
            sums[key] = sums[key] + x if key in sums else x
    scale: Rows = {}
    for key, x in sums.items():
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale[key] = teacher.modality_weight / torch.where(norm > 0, norm, 1.0)
    return [Channel(source, one, scale) for source, one in flows.items()]


@contextmanager
def _without_prompt(teacher: PromptMM) -> Iterator[None]:
    before = teacher.prompt_enabled
    teacher.prompt_enabled = False
    try:
        yield
    finally:
        teacher.prompt_enabled = before
