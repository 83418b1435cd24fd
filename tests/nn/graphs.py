"""A small bipartite graph with isolated nodes, shared by the tests of `nn`."""

import torch

from promptmm_pyg.loader import HeteroNeighborSampler

USER_ITEM = ('user', 'interacts', 'item')
ITEM_USER = ('item', 'rev_interacts', 'user')
NUM_NODES = {'user': 5, 'item': 7}
# User 4 and items 2, 4, 6 have no edge.
EDGE_INDEX = torch.tensor([[0, 0, 1, 2, 2, 3], [0, 3, 3, 1, 5, 5]])


def edges():
    return {USER_ITEM: EDGE_INDEX, ITEM_USER: EDGE_INDEX.flip([0])}


def weights():
    src, dst = EDGE_INDEX
    degree = torch.bincount(src)[src] * torch.bincount(dst)[dst]
    weight = degree.float().rsqrt()
    return {USER_ITEM: weight, ITEM_USER: weight}


def dense(dtype=torch.float):
    """The normalized user-item matrix, [5, 7]."""
    out = torch.zeros(5, 7, dtype=dtype)
    out[EDGE_INDEX[0], EDGE_INDEX[1]] = weights()[USER_ITEM].to(dtype)
    return out


def features(width, seed=0, num=7):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=g)


def around(seed_dict, num_hops):
    """All edges and nodes within some hops of the given nodes, in double."""
    sampler = HeteroNeighborSampler(
        edges(),
        NUM_NODES,
        [-1] * num_hops,
        edge_weight_dict={key: x.double() for key, x in weights().items()},
    )
    return sampler.sample(seed_dict)
