"""Propagation on the whole graph layer by layer, in blocks of rows and without
gradients, for validation when training uses sampled neighborhoods.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn.csr import CSRPair, csr_matmul, from_pointers
from promptmm_pyg.nn.prompt import SoftPrompt

BLOCK = 2**16


def matmul_in_blocks(adj: CSRPair, x: Tensor, block_size: int = BLOCK) -> Tensor:
    """Returns ``adj @ x``, ``block_size`` rows of ``adj`` at a time, copied to the
    device of ``x``.

    Args:
        adj: The operator ``(num_dst, num_src)``.
        x: Features ``[num_src, F]``.
        block_size: Rows of the result at a time. (default: ``65536``)

    Raises:
        ValueError: If ``block_size`` is not positive.
    """
    check_positive('block_size', block_size)
    matrix, _ = adj.matrices(x.dtype)
    start, source = matrix.crow_indices(), matrix.col_indices()
    weight = matrix.values()
    num_rows, num_columns = adj.shape
    out = x.new_empty(num_rows, x.size(1))
    for first in range(0, num_rows, block_size):
        last = min(first + block_size, num_rows)
        begin, end = int(start[first]), int(start[last])
        rows = from_pointers(
            (start[first : last + 1] - begin).to(x.device),
            source[begin:end].to(x.device),
            weight[begin:end].to(x.device),
            (last - first, num_columns),
        )
        out[first:last] = csr_matmul(rows, x)
    return out


def sum_of_hops(
    x_dict: dict[NodeType, Tensor],
    adj_dict: dict[EdgeType, CSRPair],
    num_hops: int,
    *,
    start_weight: float = 1.0,
    block_size: int = BLOCK,
) -> dict[NodeType, Tensor]:
    r"""Returns :math:`\omega \mathbf{X} + \mathbf{A} \mathbf{X} + \dots + \mathbf{A}^L
    \mathbf{X}` per node type, except for types without any part.

    Args:
        x_dict: Features ``[N_t, F]`` of some node types.
        adj_dict: The operator of every edge type.
        num_hops: :math:`L`.
        start_weight: :math:`\omega`. (default: ``1.0``)
        block_size: Rows at a time. (default: ``65536``)
    """
    sums = {key: start_weight * x for key, x in x_dict.items() if start_weight > 0}
    for _ in range(num_hops):
        out: dict[NodeType, Tensor] = {}
        for (src, _, dst), adj in adj_dict.items():
            if src in x_dict:
                part = matmul_in_blocks(adj, x_dict[src], block_size)
                out[dst] = out[dst].add_(part) if dst in out else part
        for key, x in out.items():
            sums[key] = sums[key].add_(x) if key in sums else x.clone()
        x_dict = out
    return sums


def isolated_nodes(adj_dict: dict[EdgeType, CSRPair], node_type: NodeType) -> Tensor:
    """The nodes of a type that no edge of any type points to, ``[n]``."""
    degrees = [x.row_degree() for key, x in adj_dict.items() if key[2] == node_type]
    return (torch.stack(degrees).sum(0) == 0).nonzero().view(-1)


def rows_in_blocks(
    rows: Callable[[Tensor], Tensor],
    num_rows: int,
    *,
    device: torch.device,
    block_size: int = BLOCK,
) -> Tensor:
    """Returns ``rows(n_id)`` of all node ids, ``block_size`` ids at a time."""
    n_ids = torch.arange(num_rows, device=device).split(block_size)
    return torch.cat([rows(n_id) for n_id in n_ids])


def recall_in_blocks(
    prompt: SoftPrompt, node_type: NodeType, x: Tensor, block_size: int = BLOCK
) -> Tensor:
    r"""Returns :math:`\mathbf{P}^{\top} \mathbf{X}`, ``[P, F]``, differentiable in the
    prompt, with one block of prompts in memory at a time: the backward recomputes them.

    Args:
        prompt: A prompt with any number of tokens.
        node_type: A node type of the prompt.
        x: Features ``[N, F]`` of all nodes of that type.
        block_size: Nodes at a time. (default: ``65536``)
    """

    def part(n_id: Tensor) -> Tensor:
        return prompt.rows(node_type, n_id).t() @ x[n_id]

    out = x.new_zeros(prompt.out_channels, x.size(1))
    for n_id in torch.arange(x.size(0), device=x.device).split(block_size):
        out = out + checkpoint(
            part, n_id, use_reentrant=False, preserve_rng_state=False
        )
    return out
