"""The sparse product beside its alternatives and beside the memory's bandwidth; exact
ranking, metrics and negative sampling beside loops and implicit.

**Bandwidth.** The triad of STREAM, ``a = b + s * c`` on three arrays that are each at
least four times the last-level cache: two numbers read and one written per element, 12
bytes in single precision.

**Bytes of a product** ``A @ x`` with ``E`` weights, ``R`` rows out and ``C`` channels:

* indices ``E``, row pointers ``R + 1`` and weights ``E``, each read once;
* the output ``R * C``, written once;
* rows of ``x``: one per edge (``gathered``, ``E * C`` numbers), as without a cache, or
  every row of an edge once (``once``), as with a cache for all of ``x``.

As in STREAM, reads of a cache line before its write are not counted, on either side.
The time is that of the product and of the product with the transpose, its gradient, so
the bytes of both are added. It includes the allocation of the output. On a small graph
a turn repeats both several times, as training does: at the first repeat the caches are
full of the triad.

**The share.** GB/s are ``gathered`` bytes per time, the share is relative to the triad
in the same turns. If ``x`` is small enough for the cache, gathered rows do not come
from memory, and the share may exceed 1; the necessary share of the bandwidth is then
between ``once_ms`` and ``alone_ms``, each divided by the measured time. Far below 1 on
a graph larger than the cache, the time is spent on latency or on arithmetic.

implicit (``pip install implicit``) is measured where it is installed: it ranks the same
tables, with as many threads as torch.
"""

import math
import random
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn import SimpleConv
from torch_geometric.utils import to_torch_csr_tensor

from benchmarks.speed import Graph, Runs, Times
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import ExactNegativeSampler, TripletLoader
from promptmm_pyg.nn import CSRPair, knn_graph, knn_recall
from promptmm_pyg.ranking import SeenItems, rank_items

CHANNELS = (32, 64, 128)
TRIAD = 'triad'
EDGES_PER_TURN = 1_200_000
_CACHES = Path('/sys/devices/system/cpu/cpu0/cache')
K = 20


def propagation_runs(graph: Graph, width: int) -> Runs:
    """One product and its gradient, users to items."""
    num_users, num_items, edge_index = graph
    size = (num_users, num_items)
    weight = torch.rand(edge_index.size(1))
    adj_t = to_torch_csr_tensor(edge_index.flip([0]), weight, size=size[::-1])
    coo_t = adj_t.to_sparse_coo().coalesce()
    pair = CSRPair.from_edge_index(edge_index, weight, size=size)
    conv = SimpleConv(aggr='sum')
    x = torch.randn(num_users, width, requires_grad=True)

    def both(product: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            x.grad = None
            product().sum().backward()

        return run

    runs: Runs = {
        'CSR pair (ours)': both(lambda: pair @ x),
        'torch CSR': both(lambda: adj_t @ x),
        'torch COO': both(lambda: torch.sparse.mm(coo_t, x)),
        'PyG scatter': both(lambda: conv((x, None), edge_index, weight, size=size)),
    }
    try:
        from torch_sparse import SparseTensor
    except ImportError:
        return runs
    row, col = edge_index
    sparse = SparseTensor(row=col, col=row, value=weight, sparse_sizes=size[::-1])
    sparse.fill_cache_()
    return {**runs, 'torch_sparse': both(lambda: sparse @ x)}


class Bytes(NamedTuple):
    """Bytes that a product moves: with one row per edge, and with every row once."""

    gathered: int
    once: int


def product_bytes(matrix: Tensor, channels: int) -> Bytes:
    """The bytes of one product with a CSR matrix, as described above."""
    col, values = matrix.col_indices(), matrix.values()
    row_bytes = channels * values.element_size()
    rest = (
        col.numel() * (col.element_size() + values.element_size())
        + matrix.crow_indices().numel() * col.element_size()
        + matrix.size(0) * row_bytes
    )
    return Bytes(
        rest + col.numel() * row_bytes, rest + col.unique().numel() * row_bytes
    )


def last_level_cache() -> int:
    """Bytes of the largest cache of the first processor; 0 if unknown."""
    units = {'K': 2**10, 'M': 2**20, 'G': 2**30}
    sizes = [path.read_text().strip() for path in _CACHES.glob('index*/size')]
    return max(
        (int(s[:-1]) * units[s[-1]] for s in sizes if s[-1:] in units), default=0
    )


def triad_numbers() -> int:
    """Number of elements of each array of the triad."""
    return max(2**26, last_level_cache())  # Four bytes each.


def triad(numbers: int) -> Callable[[], Tensor]:
    """The triad, into an existing array."""
    a, b, c = torch.zeros(numbers), torch.rand(numbers), torch.rand(numbers)
    return lambda: torch.add(b, c, alpha=3.0, out=a)


def products_per_turn(pair: CSRPair) -> int:
    """Number of products and gradients per turn."""
    return max(1, EDGES_PER_TURN // max(1, pair.num_edges))


def roofline_runs(pair: CSRPair, channels: Iterable[int], numbers: int) -> Runs:
    """The triad, and product and gradient per number of channels."""
    runs: Runs = {TRIAD: triad(numbers)}
    transpose, number = pair.t(), products_per_turn(pair)

    def both(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(number):
            out = pair @ x, transpose @ grad
        return out

    for width in channels:
        x, grad = torch.randn(pair.shape[1], width), torch.randn(pair.shape[0], width)
        runs[str(width)] = partial(both, x, grad)
    return runs


def roofline_rows(
    name: str, pair: CSRPair, times: Times, numbers: int
) -> list[dict[str, float | str]]:
    """The times of :func:`roofline_runs` beside the triad, per number of channels, for
    one product and its gradient.

    ``alone_ms`` and ``once_ms`` are the bytes divided by the triad's median bandwidth;
    ``share`` is by medians and ``best_share`` by the fastest turns.
    """
    triad_bytes = 12 * numbers
    bandwidth, best = (
        triad_bytes / times[TRIAD][key] / 1e6 for key in ('median_ms', 'min_ms')
    )
    rows: list[dict[str, float | str]] = []
    for width in times:
        if width == TRIAD:
            continue
        sizes = [product_bytes(m, int(width)) for m in pair.matrices(torch.float)]
        gathered, once = (sum(parts) for parts in zip(*sizes, strict=True))
        number = products_per_turn(pair)
        per_product = {name: value / number for name, value in times[width].items()}
        median, fastest = per_product['median_ms'], per_product['min_ms']
        rows.append(
            {
                'graph': name,
                'channels': int(width),
                **per_product,
                'gathered_bytes': gathered,
                'once_bytes': once,
                'alone_ms': gathered / bandwidth / 1e6,
                'once_ms': once / bandwidth / 1e6,
                'gb_per_s': gathered / median / 1e6,
                'share': gathered / median / 1e6 / bandwidth,
                'best_share': gathered / fastest / 1e6 / best,
                'triad_gb_per_s': bandwidth,
                'triad_best_gb_per_s': best,
            }
        )
    return rows


def ranking_runs(graph: Graph, user_x: Tensor, item_x: Tensor, num_ranked: int) -> Runs:
    """The first ``num_ranked`` users; every run returns item ids ``[B, K]``."""
    num_users, num_items, edge_index = graph
    seen = SeenItems.from_edge_index(edge_index, num_users, num_items)
    users = torch.arange(num_ranked)

    def loop() -> Tensor:
        lists = []
        for user in users.tolist():
            scores = item_x @ user_x[user]
            scores[seen.col[seen.rowptr[user] : seen.rowptr[user + 1]]] = -torch.inf
            lists.append(scores.sort(descending=True).indices[:K])
        return torch.stack(lists)

    return {
        'blocked top-K (ours)': lambda: (
            rank_items((user_x, item_x), users, K, seen=seen).item_index
        ),
        'one user at a time': loop,
        **_implicit_run(graph, user_x, item_x, num_ranked),
    }


def held_out(graph: Graph, num_ranked: int) -> HeteroData:
    """The graph with one held-out item each of the first users."""
    users = torch.arange(num_ranked)
    positives = torch.randint(
        graph.num_items, (num_ranked,), generator=torch.Generator().manual_seed(0)
    )
    data = HeteroData()
    data[USER].num_nodes, data[ITEM].num_nodes = graph.num_users, graph.num_items
    data[INTERACTS].edge_index = graph.edge_index
    data[INTERACTS].edge_label_index = torch.stack([users, positives])
    return data


def evaluation_runs(
    graph: Graph, user_x: Tensor, item_x: Tensor, num_ranked: int
) -> Runs:
    """Recall@20 and NDCG@20 of the first users, one held-out item each; every run
    returns both means. Ours computes four further metrics.
    """
    data = held_out(graph, num_ranked)
    users, positives = data[INTERACTS].edge_label_index

    def ours() -> tuple[float, float]:
        metrics = evaluate({USER: user_x, ITEM: item_x}, data, ks=(K,)).metrics
        return metrics[f'Recall@{K}'], metrics[f'NDCG@{K}']

    def loop() -> tuple[float, float]:
        seen: dict[int, list[int]] = {user: [] for user in range(graph.num_users)}
        for user, item in graph.edge_index.t().tolist():
            seen[user].append(item)
        recall = ndcg = 0.0
        for user, positive in zip(users.tolist(), positives.tolist(), strict=True):
            scores = item_x @ user_x[user]
            scores[seen[user]] = -torch.inf
            for rank, item in enumerate(scores.sort(descending=True).indices[:K]):
                if int(item) == positive:
                    recall += 1.0
                    ndcg += 1.0 / math.log2(rank + 2)
        return recall / num_ranked, ndcg / num_ranked

    return {'evaluate (ours)': ours, 'one user at a time': loop}


def _implicit_run(
    graph: Graph, user_x: Tensor, item_x: Tensor, num_ranked: int
) -> Runs:
    try:
        als = import_module('implicit.cpu.als')
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits
    except ImportError:
        return {}
    with threadpool_limits(1, 'blas'):  # As implicit's documentation recommends.
        model = als.AlternatingLeastSquares(
            factors=user_x.size(1), num_threads=torch.get_num_threads()
        )
    model.user_factors, model.item_factors = user_x.numpy(), item_x.numpy()
    row, col = graph.edge_index.numpy()
    ones = torch.ones(graph.num_edges).numpy()
    shape = (graph.num_users, graph.num_items)
    seen = csr_matrix((ones, (row, col)), shape=shape)[:num_ranked]
    users = torch.arange(num_ranked).numpy()

    def recommend() -> Tensor:
        with threadpool_limits(1, 'blas'):
            return torch.from_numpy(model.recommend(users, seen, N=K)[0])

    return {'implicit recommend': recommend}


def seen_sets(graph: Graph) -> list[set[int]]:
    """The items of each user."""
    seen: list[set[int]] = [set() for _ in range(graph.num_users)]
    for user, item in graph.edge_index.t().tolist():
        seen[user].add(item)
    return seen


def negatives_by_loop(
    seen: list[set[int]], users: list[int], num_items: int, seed: int = 0
) -> list[int]:
    """One item per user, drawn again while the user has seen it."""
    draw, out = random.Random(seed).random, []
    for user in users:
        item = int(draw() * num_items)
        while item in seen[user]:
            item = int(draw() * num_items)
        out.append(item)
    return out


def sampling_runs(graph: Graph) -> Runs:
    """As many triplets as interactions; the preparation is not timed. An epoch of the
    loader includes shuffling and batches.
    """
    users = graph.edge_index[0]
    shuffled = users[torch.randperm(users.numel())]
    sampler = ExactNegativeSampler(graph.edge_index, graph.num_users, graph.num_items)
    loader = TripletLoader(graph.edge_index, graph.num_users, graph.num_items)
    seen, user_list = seen_sets(graph), users.tolist()
    return {
        'exact sampler (ours)': lambda: sampler.sample(users),
        'exact sampler, users in random order': lambda: sampler.sample(shuffled),
        'an epoch of TripletLoader': lambda: list(loader),
        'Python loop': lambda: negatives_by_loop(seen, user_list, graph.num_items),
    }


def with_rate(times: Times, count: int) -> Times:
    """``times`` with the rate of ``count`` items at the median time."""
    return {
        name: {**value, 'per_second': 1e3 * count / value['median_ms']}
        for name, value in times.items()
    }


def item_features(kind: str, num_items: int, channels: int) -> Tensor:
    """Made-up features: separate ``'clusters'``, ``'topics'`` on a curved surface with
    noise, or nothing but ``'noise'``.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    noise = normal(num_items, channels)
    if kind == 'noise':
        return noise
    num_groups, inner = (2000, channels) if kind == 'clusters' else (200, 24)
    group = torch.randint(num_groups, (num_items,), generator=generator)
    x = normal(num_groups, inner)[group]
    if kind == 'clusters':
        return x + 0.3 * noise
    x = torch.tanh((x + 0.5 * normal(num_items, inner)) @ normal(inner, channels))
    return x + 0.1 * noise


def item_graphs(num_items: int, channels: int = 256, k: int = 10) -> list[Any]:
    """CPU seconds and recall of approximate item graphs. The exact graph, which costs
    the same for all features, is estimated by its first 16,384 rows.
    """
    rows: list[Any] = []
    for kind in ('clusters', 'topics', 'noise'):
        x = item_features(kind, num_items, channels)
        started = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            edge_index, _ = knn_graph(x, k, method='approximate')
        seconds = time.process_time() - started
        recall = knn_recall(x, edge_index, k, num_rows=2048, seed=1)
        rows.append([kind, seconds, recall, bool(caught)])
    few = min(16_384, num_items)
    unit = torch.nn.functional.normalize(x)
    started = time.process_time()
    for block in unit[:few].split(1024):
        (block @ unit.t()).topk(k + 1)
    seconds = (time.process_time() - started) * num_items / few
    return [*rows, ['exact, estimated', seconds, 1.0, False]]


def item_graphs_table(result: dict[str, Any]) -> str:
    """A row per kind of features."""
    lines = [
        f'| {result["num_items"]:,} items | CPU s | recall of edges | warned |',
        '|---|---|---|---|',
    ]
    lines += [
        f'| {kind} | {seconds:.1f} | {recall:.3f} | {"yes" if warned else "no"} |'
        for kind, seconds, recall, warned in result['item_graphs']
    ]
    return '\n'.join(lines)
