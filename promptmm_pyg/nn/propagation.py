"""Parameter-free propagation along the edge types of a graph."""

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.nn.csr import Adjacency, CSRPair, csr_pair_dict
from promptmm_pyg.nn.hops import mean_of_hops

Blocks = dict[NodeType, dict[str, Tensor]]  # node type -> block name -> [N, F]


def propagate_blocks(blocks: Blocks, adj_dict: dict[EdgeType, CSRPair]) -> Blocks:
    r"""Moves named feature blocks one hop along every edge type.

    .. math::
        \mathbf{X}'_{t} = \sum_{r = (s, \cdot, t)} \mathbf{A}_r \mathbf{X}_s

    Blocks that leave a node type together share one sparse product: they are
    concatenated on the channel axis. A block that no edge brings to a node type
    is absent there, which stands for zeros.

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
        moved = adj @ (torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
        target = out.setdefault(dst, {})
        widths = [part.size(-1) for part in parts]
        # A split of one part would cost its gradient a copy.
        split = moved.split(widths, dim=-1) if len(parts) > 1 else [moved]
        for name, part in zip(names, split, strict=True):
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

    All node types are updated from the *previous* layer. Edge weights are
    given, not computed: normalize once with
    :class:`~promptmm_pyg.transforms.AddBipartiteNorm`. Plain edge indices are
    converted at every call; convert once with
    :func:`~promptmm_pyg.nn.csr_pair_dict` when the graph stays.

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
            f"'edge_index_dict' requires an edge type that points to {sorted(unreached)} "
            f"(got {list(edge_index_dict)}). Add reverse edges with 'T.ToUndirected()'"
        )
