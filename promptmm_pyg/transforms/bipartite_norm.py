"""Normalized weights for both directions of the interactions."""

from typing import Literal

import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._utils import check_choice, checked_edges
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS

Norm = Literal['sym', 'row', 'left_sqrt']


@functional_transform('add_bipartite_norm')
class AddBipartiteNorm(BaseTransform):
    r"""Adds ``edge_weight`` to both directions of the message edges.

    With degrees :math:`d` counted on the message edges, an edge from :math:`w` to
    :math:`v` weighs

    * ``sym``: :math:`1 / \sqrt{d_w d_v}`, as in LightGCN,
    * ``row``: :math:`1 / d_v`, the mean over neighbors,
    * ``left_sqrt``: :math:`1 / \sqrt{d_v}`.

    Args:
        norm: Which of them. (default: ``'sym'``)
    """

    def __init__(self, norm: Norm = 'sym') -> None:
        check_choice('norm', norm, ('sym', 'row', 'left_sqrt'))
        self.norm = norm

    def forward(self, data: HeteroData) -> HeteroData:
        num_nodes = data.num_nodes_dict
        for edge_type in (INTERACTS, REV_INTERACTS):
            size = num_nodes[edge_type[0]], num_nodes[edge_type[2]]
            src, dst = checked_edges(
                data[edge_type].edge_index, size, f'data[{edge_type}].edge_index'
            )
            src_degree = torch.bincount(src, minlength=num_nodes[edge_type[0]])[src]
            dst_degree = torch.bincount(dst, minlength=num_nodes[edge_type[2]])[dst]
            if self.norm == 'sym':
                weight = (src_degree * dst_degree).float().rsqrt()
            elif self.norm == 'row':
                weight = dst_degree.float().reciprocal()
            else:
                weight = dst_degree.float().rsqrt()
            data[edge_type].edge_weight = weight
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(norm='{self.norm}')"
