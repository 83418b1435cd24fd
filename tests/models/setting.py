"""A small graph with isolated nodes, features of its items, and naive references."""

import torch
import torch.nn.functional as F

from promptmm_pyg.loader import Triplets
from promptmm_pyg.models import MODELS
from promptmm_pyg.models.base import ContentRecommender
from promptmm_pyg.nn import csr_pair_dict
from tests.nn.graphs import NUM_NODES, USER_ITEM, dense, edges, features, weights

CONTENT = [cls for cls in MODELS.values() if issubclass(cls, ContentRecommender)]
WIDTHS = {'audio': 3, 'image': 6, 'text': 9, 'type': 5}
# A user twice, a positive twice, a positive that is a negative of another user.
BATCH = Triplets(
    torch.tensor([0, 0, 2, 3, 1]),
    torch.tensor([3, 0, 5, 5, 3]),
    torch.tensor([1, 4, 0, 6, 2]),
)
ONE = Triplets(*(x[:1] for x in BATCH))


def operators():
    return csr_pair_dict(edges(), weights(), num_nodes_dict=NUM_NODES)


def make_features(*modalities, num=7):
    names = modalities or ('audio', 'image', 'text')
    return {m: {'item': features(WIDTHS[m], seed=WIDTHS[m], num=num)} for m in names}


def make(cls, *modalities, seed=0, **kwargs):
    """A model of the small graph, by default with the features of three modalities."""
    torch.manual_seed(seed)
    kwargs.setdefault('embedding_dim', 4)
    kwargs.setdefault('modality_x_dict', make_features(*modalities))
    return cls(NUM_NODES, edge_type=USER_ITEM, **kwargs)


def detached(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def dense_knn(x, k, weighted=True, self_loops=True, normalize=True):
    """The normalized graph of nearest neighbors, ``[i, j]`` from ``j`` to ``i``."""
    graph = torch.zeros(len(x), len(x))
    for i in range(len(x)):
        if not x[i].any():
            continue
        others = [j for j in range(len(x)) if j != i and x[j].any()]
        cosine = {j: float(torch.cosine_similarity(x[i], x[j], dim=0)) for j in others}
        best = sorted(others, key=lambda j: (-cosine[j], j))
        if self_loops:
            best, cosine[i] = [i, *best], 1.0
        for j in best[:k]:
            graph[i, j] = max(cosine[j], 0.0) if weighted else 1.0
    return dense_sym(graph) if normalize else graph


def dense_sym(graph):
    """Divided by the roots of the row sums, on both sides."""
    degree = graph.sum(dim=1)
    scale = torch.where(degree > 0, degree.clamp_min(1e-30).rsqrt(), 0.0)
    return scale[:, None] * graph * scale


def dense_smooth(user, item, num_layers, A=None):
    """LightGCN by dense matrices: the mean over layers."""
    A = dense() if A is None else A
    users, items = [user], [item]
    for _ in range(num_layers):
        users, items = [*users, A @ items[-1]], [*items, A.t() @ users[-1]]
    return torch.stack(users).mean(dim=0), torch.stack(items).mean(dim=0)


def naive_contrast(anchor, positive, temperature, symmetric=False):
    """InfoNCE, one row at a time."""
    losses = []
    pairs = [(anchor, positive), (positive, anchor)]
    for a, p in pairs if symmetric else pairs[:1]:
        for row in range(len(a)):
            scores = F.cosine_similarity(a[row][None], p) / temperature
            losses.append(scores.logsumexp(dim=0) - scores[row])
    return torch.stack(losses).mean()


def naive_bpr(x_dict, batch=BATCH):
    losses = []
    for user, positive, negative in zip(*(x.tolist() for x in batch), strict=True):
        row = x_dict['user'][user]
        margin = row @ x_dict['item'][positive] - row @ x_dict['item'][negative]
        losses.append(torch.log1p(torch.exp(-margin)))
    return torch.stack(losses).mean()


def naive_l2(x_dict, batch=BATCH):
    return squared_norm(
        x_dict['user'][batch.user],
        x_dict['item'][batch.positive],
        x_dict['item'][batch.negative],
    )


def squared_norm(*rows):
    return sum(x.square().sum() for x in rows) / (2 * rows[0].size(0))
