"""The small graph of `tests.nn.graphs` as operators and features, for the models."""

import torch

from promptmm_pyg.loader import Triplets
from promptmm_pyg.nn import csr_pair_dict
from tests.nn.graphs import NUM_NODES, USER_ITEM, edges, features, weights

WIDTHS = {'image': 6, 'text': 3, 'type': 5}  # One has the name of a module's method.


def operators():
    return csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)


def item_features(*modalities):
    names = modalities or ('image', 'text', 'type')
    return {m: {'item': features(WIDTHS[m], seed=WIDTHS[m])} for m in names}


def batch():
    # A user twice, a positive that is the negative of another row, item 4 isolated.
    return Triplets(
        torch.tensor([0, 0, 2, 3]),
        torch.tensor([0, 3, 5, 5]),
        torch.tensor([1, 4, 0, 6]),
    )


def one():
    return Triplets(*(index[:1] for index in batch()))


def make(cls, *modalities, seed=0, **kwargs):
    torch.manual_seed(seed)
    kwargs.setdefault('embedding_dim', 4)
    return cls(NUM_NODES, item_features(*modalities), edge_type=USER_ITEM, **kwargs)


def total(model, rows=None):
    """The weighted loss of one step."""
    terms = model.losses(model(operators()), rows or batch())
    assert set(terms) == set(model.loss_weights)
    return sum(model.loss_weights[name] * value for name, value in terms.items())


def without_gradient(model):
    """Names of the parameters that a step leaves alone."""
    total(model).backward()
    return [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not bool((p.grad != 0).any())
    ]


def naive_bpr(x_dict, rows):
    losses = []
    for u, p, n in zip(*(index.tolist() for index in rows), strict=True):
        margin = x_dict['user'][u] @ (x_dict['item'][p] - x_dict['item'][n])
        losses.append(torch.log1p(torch.exp(-margin)))
    return torch.stack(losses).mean()


def naive_l2(*rows):
    return sum(x.square().sum() for x in rows) / (2 * rows[0].size(0))


def detached(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}
