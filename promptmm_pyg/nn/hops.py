"""The mean over all hops of a linear propagation, by Horner's rule."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.nn.csr import CSRPair

AdjDict = dict[EdgeType, CSRPair]


def mean_of_hops(
    x_dict: dict[NodeType, Tensor], adj_dict: AdjDict, num_hops: int
) -> dict[NodeType, Tensor]:
    r"""Returns the mean of the features and of all that ``num_hops`` hops bring.

    .. math::
        \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{A}^l \mathbf{X} =
        \frac{1}{L + 1} \left( \mathbf{X} + \mathbf{A} \left( \mathbf{X} + \mathbf{A}
        \left( \mathbf{X} + \dots \right) \right) \right)

    where :math:`\mathbf{A}` holds the operators of all edge types. In the right-hand
    form no layer is kept, the sums are part of the sparse products, and the gradient
    is the same polynomial of the transpose.

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
        adj_dict: AdjDict,
        num_hops: int,
        node_types: tuple[NodeType, ...],
        *xs: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.how = adj_dict, num_hops, node_types
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
        adj_dict, num_hops, node_types = ctx.how
        turned = {(dst, r, src): adj.t() for (src, r, dst), adj in adj_dict.items()}
        # Through `apply` again, so that second derivatives exist.
        return None, None, None, *_apply(turned, num_hops, node_types, *grads)


_apply: Any = _MeanOfHops.apply
