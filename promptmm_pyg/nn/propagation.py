"""Propagation without parameters along the edge types of a graph."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn.csr import Adjacency, CSRPair, csr_pair_dict

Blocks = dict[NodeType, dict[str, Tensor]]  # node type -> block name -> [N, F]


def propagate_blocks(blocks: Blocks, adj_dict: dict[EdgeType, CSRPair]) -> Blocks:
    r"""Propagates named blocks of features one hop along every edge type.

    .. math::
        \mathbf{X}'_{t} = \sum_{r = (s, \cdot, t)} \mathbf{A}_r \mathbf{X}_s

    The blocks of a node type share one sparse product: they are concatenated along the
    channels. A block is absent, meaning zeros, in node types that no edge type leads to
    from it.

    Args:
        blocks: Features ``[N_t, F]`` per node type and block name.
        adj_dict: The operator of every edge type.
    """
    out: Blocks = {node_type: {} for node_type in blocks}
    for (src, _, dst), adj in adj_dict.items():
        names = list(blocks.get(src, {}))
        if not names:
            continue
        parts = [blocks[src][name] for name in names]
        product = adj @ (torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
        target = out.setdefault(dst, {})
        widths = [part.size(-1) for part in parts]
        # The gradient of a split, even into one part, is a copy.
        products = product.split(widths, dim=-1) if len(parts) > 1 else [product]
        for name, part in zip(names, products, strict=True):
            target[name] = target[name] + part if name in target else part
    return out


class HeteroPropagation(torch.nn.Module):
    r"""Sums neighbors along every edge type, layer by layer, and returns the
    mean over all layers, as in the `"LightGCN: Simplifying and Powering Graph
    Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_ paper.

    .. math::
        \mathbf{x}_v^{(l+1)} = \sum_{r} \sum_{w \in \mathcal{N}_r(v)}
        e_{wv} \, \mathbf{x}_w^{(l)}, \qquad
        \mathbf{x}_v = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{x}_v^{(l)}

    All node types are updated from the *previous* layer. Edge weights are inputs:
    normalize once with :class:`~promptmm_pyg.transforms.AddBipartiteNorm`. Edge indices
    are converted at every call: convert a constant graph once with
    :func:`~promptmm_pyg.nn.csr_pair_dict`.

    Args:
        num_layers: The number of propagation layers :math:`L`.

    Shapes:
        - **inputs:** node features :math:`(N_t, F)` per node type, edges (in any
          form of :func:`~promptmm_pyg.nn.as_csr_pair`) and edge weights
          :math:`(E_r)` *(optional)* per edge type
        - **output:** node features :math:`(N_t, F)` per node type
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        check_positive('num_layers', num_layers)
        self.num_layers = num_layers

    def forward(
        self,
        x_dict: dict[NodeType, Tensor],
        edge_index_dict: dict[EdgeType, Adjacency],
        edge_weight_dict: dict[EdgeType, Tensor] | None = None,
    ) -> dict[NodeType, Tensor]:
        check_reached(x_dict, edge_index_dict)
        adj_dict = csr_pair_dict(
            edge_index_dict,
            edge_weight_dict,
            num_nodes_dict={key: x.size(0) for key, x in x_dict.items()},
        )
        return mean_of_hops(x_dict, adj_dict, self.num_layers)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(num_layers={self.num_layers})'


def check_reached(
    node_types: dict[NodeType, Tensor], edge_index_dict: dict[EdgeType, Adjacency]
) -> None:
    """Raises unless an edge type points to every node type."""
    unreached = set(node_types) - {dst for _, _, dst in edge_index_dict}
    if unreached:
        raise ValueError(
            f"'edge_index_dict' must have an edge type that points to "
            f'{sorted(unreached)} (got {list(edge_index_dict)}). Add reverse edges '
            f"with 'T.ToUndirected()'"
        )


def mean_of_hops(
    x_dict: dict[NodeType, Tensor], adj_dict: dict[EdgeType, CSRPair], num_hops: int
) -> dict[NodeType, Tensor]:
    r"""Returns the mean of the features over hops ``0`` to ``num_hops``.

    .. math::
        \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{A}^l \mathbf{X} =
        \frac{1}{L + 1} \left( \mathbf{X} + \mathbf{A} \left( \mathbf{X} + \mathbf{A}
        \left( \mathbf{X} + \dots \right) \right) \right)

    where :math:`\mathbf{A}` are the operators of all edge types. In the right-hand form
    no layer is stored, the sums are part of the sparse products, and the gradient is
    the same polynomial of the transpose.

    Args:
        x_dict: Features ``[N_t, F]`` per node type, all of one width.
        adj_dict: The operator of every edge type, between these node types.
        num_hops: :math:`L`.
    """
    node_types = tuple(x_dict)
    means = _apply(adj_dict, num_hops, node_types, *x_dict.values())
    return dict(zip(node_types, means, strict=True))


class _MeanOfHops(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        adj_dict: dict[EdgeType, CSRPair],
        num_hops: int,
        node_types: tuple[NodeType, ...],
        *xs: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.args = adj_dict, num_hops, node_types
        x_dict = dict(zip(node_types, xs, strict=True))
        sum_dict = x_dict
        for _ in range(num_hops):
            out = {
                key: x.clone(memory_format=torch.contiguous_format)
                for key, x in x_dict.items()
            }
            for (src, _, dst), adj in adj_dict.items():
                adj.add_product_(out[dst], sum_dict[src])
            sum_dict = out
        return tuple(x.div_(num_hops + 1) for x in sum_dict.values())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        adj_dict, num_hops, node_types = ctx.args
        transposed = {(dst, r, src): adj.t() for (src, r, dst), adj in adj_dict.items()}
        # Through `apply` again, so that second derivatives exist.
        return None, None, None, *_apply(transposed, num_hops, node_types, *grads)


_apply: Any = _MeanOfHops.apply
