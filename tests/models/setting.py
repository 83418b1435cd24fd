"""A small graph with isolated nodes, three modalities on its items, and what a model
of the field looks like with dense matrices.
"""

import torch
import torch.nn.functional as F

from promptmm_pyg.loader import Triplets
from tests.nn.graphs import (
    ITEM_USER,
    NUM_NODES,
    USER_ITEM,
    dense,
    edges,
    features,
    weights,
)

WIDTH = 4


def make_features(modalities=('audio', 'image', 'text')):
    widths = {'audio': 3, 'image': 6, 'text': 9}
    return {
        m: {'item': features(widths[m], seed=place)}
        for place, m in enumerate(modalities)
    }


def make(cls, modalities=('audio', 'image', 'text'), *, start=None, **kwargs):
    torch.manual_seed(0)
    kwargs.setdefault('embedding_dim', WIDTH)
    features = make_features(modalities)
    if start is not None:
        kwargs['prompt_start_dict'] = start
    return cls(NUM_NODES, features, edge_type=USER_ITEM, **kwargs)


def make_batch():
    """Users and positives that repeat."""
    return Triplets(
        torch.tensor([0, 0, 2, 3, 1]),
        torch.tensor([3, 0, 5, 5, 3]),
        torch.tensor([1, 4, 2, 6, 0]),
    )


def one_row(batch):
    return Triplets(*(x[:1] for x in batch))


def dense_neighbors(x, k):
    """Every row's ``k`` nearest others, symmetrically normalized, by loops."""
    num = x.size(0)
    out = torch.zeros(num, num)
    for row in range(num):
        cosine = F.cosine_similarity(x[row][None], x)
        cosine[row] = -torch.inf
        out[row, cosine.topk(k).indices] = 1.0
    scale = out.sum(dim=1).rsqrt()
    return scale[:, None] * out * scale


def dense_smooth(user, item, num_layers, A=None):
    A = dense() if A is None else A
    users, items = [user], [item]
    for _ in range(num_layers):
        users, items = [*users, A @ items[-1]], [*items, A.t() @ users[-1]]
    return torch.stack(users).mean(dim=0), torch.stack(items).mean(dim=0)


def naive_contrast(anchor, positive, temperature):
    """InfoNCE both ways, one row at a time."""
    losses = []
    for a, p in ((anchor, positive), (positive, anchor)):
        for row in range(len(a)):
            scores = F.cosine_similarity(a[row][None], p) / temperature
            losses.append(scores.logsumexp(dim=0) - scores[row])
    return torch.stack(losses).mean()


def naive_bpr(x_dict, batch):
    losses = []
    for user, positive, negative in zip(*(x.tolist() for x in batch), strict=True):
        row = x_dict['user'][user]
        margin = row @ x_dict['item'][positive] - row @ x_dict['item'][negative]
        losses.append(torch.log1p(torch.exp(-margin)))
    return torch.stack(losses).mean()


def naive_l2(x_dict, batch):
    rows = [
        x_dict['user'][batch.user],
        x_dict['item'][batch.positive],
        x_dict['item'][batch.negative],
    ]
    return sum(row.square().sum() for row in rows) / (2 * len(batch.user))


__all__ = ['ITEM_USER', 'NUM_NODES', 'USER_ITEM', 'dense', 'edges', 'weights']
