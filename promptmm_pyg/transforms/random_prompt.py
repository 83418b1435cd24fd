"""A starting point of the soft prompt that knows nothing of the content."""

import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM
from promptmm_pyg.transforms.prompt_start import with_prompt_start


@functional_transform('add_random_prompt')
class AddRandomPrompt(BaseTransform):
    """Adds ``prompt_start`` to users and items: for items normal random numbers at a
    root-mean-square of 1, and for users their mean over the items of the message
    edges.

    The rival that :class:`~promptmm_pyg.transforms.AddModalityPCA` has to beat: same
    scale, same shape, same way to users, no content.

    Args:
        out_channels: The number of columns. (default: ``32``)
        seed: Seed of the numbers. (default: ``0``)
    """

    def __init__(self, out_channels: int = 32, seed: int = 0) -> None:
        check_positive('out_channels', out_channels)
        self.out_channels = out_channels
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        generator = torch.Generator().manual_seed(self.seed)
        num_items = data.num_nodes_dict[ITEM]
        start = torch.randn(num_items, self.out_channels, generator=generator)
        return with_prompt_start(data, start.to(data[INTERACTS].edge_index.device))

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.out_channels}, seed={self.seed})'
