import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.utils._python_dispatch import TorchDispatchMode

from promptmm_pyg.nn import (
    cached_knn_graph,
    knn,
    knn_graph,
    knn_recall,
    normalize_edges,
)
from tests.nn.graphs import features


def naive(x, k, mask=None, weighted=False, self_loops=False):
    """{(source, target): weight before it is normalized}, by loops."""
    present = [True] * len(x) if mask is None else mask.tolist()
    indices = [i for i in range(len(x)) if present[i] and bool((x[i] != 0).any())]
    edges = {}
    for i in indices:
        cosines = {
            j: float(torch.cosine_similarity(x[i].double(), x[j].double(), dim=0))
            for j in indices
            if j != i
        }
        if self_loops:
            cosines[i] = 1.0
        best = sorted(cosines, key=lambda j: (-round(cosines[j], 6), j))[:k]
        for j in best:
            edges[j, i] = max(cosines[j], 0.0) if weighted else 1.0
    return edges


def naive_sym(edges, num):
    received = [sum(w for (_, b), w in edges.items() if b == i) for i in range(num)]
    return {
        (a, b): w / math.sqrt(received[a] * received[b]) if w > 0 < received[a] else 0.0
        for (a, b), w in edges.items()
    }


def as_dict(edge_index, edge_weight):
    pairs = map(tuple, edge_index.t().tolist())
    return dict(zip(pairs, edge_weight.tolist(), strict=True))


@pytest.mark.parametrize('self_loops', [False, True])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('k', [1, 3, 16])
@pytest.mark.parametrize('block_size', [1, 4, 100])
def test_equals_loops_over_all_pairs(k, block_size, weighted, self_loops):
    x = features(3, num=17)
    options = {'weighted': weighted, 'self_loops': self_loops}
    edges = as_dict(*knn_graph(x, k, block_size=block_size, **options))
    assert edges == pytest.approx(naive_sym(naive(x, k, **options), 17))


def test_neighbors_equal_those_of_scikit_learn():
    x = features(6, num=60)
    edge_index, _ = knn_graph(x, 5, block_size=16)
    result = NearestNeighbors(n_neighbors=5, metric='cosine').fit(x).kneighbors()[1]
    ours = edge_index[0].view(60, 5).sort().values
    assert torch.equal(ours, torch.from_numpy(result).sort().values)
    assert torch.equal(edge_index[1], torch.arange(60).repeat_interleave(5))


def test_weights_of_a_hand_computed_graph():
    # Cosines: 0-1 and 1-2 are 1/sqrt(2), 0-2 is 0, node 3 points away from all.
    x = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [-1.0, -1.0]])
    edge_index, weight = knn_graph(x, 2, weighted=True, normalize='row')
    assert as_dict(edge_index, weight) == pytest.approx(
        {
            (1, 0): 1.0,
            (2, 0): 0.0,
            (0, 1): 0.5,
            (2, 1): 0.5,
            (0, 2): 0.0,
            (1, 2): 1.0,
            (0, 3): 0.0,
            (2, 3): 0.0,
        }
    )
    _, weight = knn_graph(x, 2, normalize='sym')
    torch.testing.assert_close(weight, torch.full((8,), 0.5))


@pytest.mark.parametrize('block_size', [1, 2, 7])
def test_equal_cosines_go_to_the_smaller_index(block_size):
    x = torch.tensor([1.0, 2.0, 1.0, 4.0, -1.0, -2.0, 1.0])[:, None] * torch.ones(1, 2)
    edge_index, _ = knn_graph(x, 2, block_size=block_size)
    sources = edge_index[0].view(7, 2).tolist()
    assert sources == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 5], [0, 4], [0, 1]]


def test_absent_rows_and_rows_of_zeros_get_and_give_no_edge():
    x = features(3, num=9)
    x[2], x[5] = 0.0, float('nan')
    mask = torch.ones(9, dtype=torch.bool)
    mask[5] = mask[7] = False
    for weighted in (False, True):
        edge_index, weight = knn_graph(x, 2, mask=mask, weighted=weighted)
        assert not set(edge_index.flatten().tolist()) & {2, 5, 7}
        expected = naive_sym(naive(x, 2, mask, weighted), 9)
        assert as_dict(edge_index, weight) == pytest.approx(expected)


def test_with_too_few_rows_all_others_are_neighbors():
    edge_index, weight = knn_graph(features(2, num=3), 10)
    assert edge_index.tolist() == [[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]]
    torch.testing.assert_close(weight, torch.full((6,), 0.5))


@pytest.mark.parametrize('num', [0, 1])
def test_no_pair_no_edge(num):
    edge_index, weight = knn_graph(torch.ones(num, 2), 3)
    assert edge_index.shape == (2, 0)
    assert edge_index.dtype == torch.long
    assert weight.shape == (0,)


def test_no_matrix_of_all_pairs_is_made():
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    x = features(4, num=300)
    with Watch():
        knn_graph(x, 3, block_size=10)
    assert largest == 10 * 300


def test_input_stays_and_gets_no_gradient():
    x = features(3, num=8)
    before = x.clone()
    edge_index, weight = knn_graph(x.requires_grad_(), 2, weighted=True)
    assert not weight.requires_grad
    assert torch.equal(x.detach(), before)
    assert torch.equal(edge_index, knn_graph(before, 2)[0])


def test_half_precision_and_integers_are_compared_in_single():
    x = (features(3, num=12) * 4).round()
    expected = knn_graph(x, 3)
    for other in (x.half(), x.long()):
        edge_index, weight = knn_graph(other, 3)
        assert torch.equal(edge_index, expected[0])
        assert weight.dtype == torch.float


@pytest.mark.parametrize('normalize', ['sym', 'row'])
def test_normalized_weights_have_their_gradient(normalize):
    edge_index = torch.tensor([[0, 1, 2, 0, 3], [1, 0, 0, 2, 2]])
    weight = torch.tensor([0.5, 1.0, 2.0, 0.3, 0.7], dtype=torch.double)
    assert torch.autograd.gradcheck(
        lambda w: normalize_edges(edge_index, w, 4, normalize), weight.requires_grad_()
    )


def test_a_node_that_receives_nothing_has_weights_and_slopes_of_zero():
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0], requires_grad=True)
    out = normalize_edges(edge_index, weight, 3)
    out.sum().backward()
    assert out[0] == out[1] == 0
    assert weight.grad.isfinite().all()


def test_rows_sum_to_one():
    edge_index, weight = knn_graph(
        features(3, num=20), 4, normalize='row', weighted=True
    )
    sums = torch.zeros(20).index_add(0, edge_index[1], weight)
    torch.testing.assert_close(sums, torch.ones(20))


CENTERS = features(16, num=20)


def clustered():
    noise = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    return CENTERS.repeat(20, 1) + 0.05 * noise


@pytest.mark.parametrize('self_loops', [False, True])
def test_the_approximate_graph_of_separate_clusters_is_exact(monkeypatch, self_loops):
    x, mask = clustered(), torch.ones(400, dtype=torch.bool)
    x[7], mask[9] = 0.0, False
    x[50] = x[30]  # Equal cosines: the smaller index is first.
    monkeypatch.setattr(
        knn,
        '_clusters',
        lambda unit: ((unit @ CENTERS.t()).argmax(1), torch.arange(20).view(20, 1)),
    )
    options = {'mask': mask, 'weighted': True, 'self_loops': self_loops}
    exact = knn_graph(x, 5, method='exact', **options)
    approximate = knn_graph(x, 5, method='approximate', block_size=7, **options)
    assert torch.equal(approximate[0], exact[0])
    torch.testing.assert_close(approximate[1], exact[1])
    options.pop('weighted')
    assert knn_recall(x, exact[0], 5, **options) == 1


def test_the_recall_of_noise_is_measured_and_warned_about():
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    x = features(16, num=400)
    with pytest.warns(UserWarning, match=r"95% .*\(got \d\d%\).*method='exact'"):
        edge_index, _ = knn_graph(x, 5, method='approximate')
    assert edge_index.shape == (2, 2000)
    result = NearestNeighbors(n_neighbors=5, metric='cosine').fit(x).kneighbors()[1]
    exact = {(j, i) for i, row in enumerate(result.tolist()) for j in row}
    hits = exact & set(map(tuple, edge_index.t().tolist()))
    assert knn_recall(x, edge_index, 5, num_rows=400) == len(hits) / 2000
    assert 0.1 < knn_recall(x, edge_index, 5, num_rows=100, seed=3) < 0.9


def test_auto_is_approximate_where_the_exact_graph_is_costly(tmp_path, monkeypatch):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    calls = []

    def clusters(*args):
        calls.append(args)
        return original(*args)

    original = knn._clusters
    monkeypatch.setattr(knn, '_clusters', clusters)
    x = clustered()
    cached_knn_graph(tmp_path, x, 5)
    assert not calls
    monkeypatch.setattr(knn, '_CHEAP', 400**2 * 16 - 1)
    cached_knn_graph(tmp_path, x, 5)  # Another file.
    assert len(calls) == 1
    monkeypatch.setattr(knn, 'find_spec', lambda _: None)
    knn_graph(x, 5)
    assert len(calls) == 1


def test_errors():
    x = features(3)
    with pytest.raises(ValueError, match="'k' must be positive"):
        knn_graph(x, 0)
    with pytest.raises(ValueError, match="'block_size' must be positive"):
        knn_graph(x, 1, block_size=0)
    with pytest.raises(ValueError, match="'normalize' must be one of 'sym', 'row'"):
        knn_graph(x, 1, normalize='mean')
    with pytest.raises(ValueError, match="'method' must be one of 'auto', 'exact'"):
        knn_graph(x, 1, method='fast')
    with pytest.raises(ValueError, match="'num_rows' must be positive"):
        knn_recall(x, torch.zeros(2, 0, dtype=torch.long), 1, num_rows=0)
    with pytest.raises(ValueError, match="'normalize' must be one of 'sym', 'row'"):
        normalize_edges(torch.zeros(2, 0, dtype=torch.long), x[0, :0], 1, 'col')
    with pytest.raises(ValueError, match=r"'x' must have shape \[N, F\]"):
        knn_graph(x[0], 1)
    with pytest.raises(ValueError, match=r"'mask' must be a bool tensor \[7\]"):
        knn_graph(x, 1, mask=torch.ones(7))
    with pytest.raises(ValueError, match=r"'mask'.*bool \[3\]"):
        knn_graph(x, 1, mask=torch.ones(3, dtype=torch.bool))
    x[1, 0] = float('inf')
    with pytest.raises(ValueError, match=r"'x' must be finite.*got 1 values"):
        knn_graph(x, 1)
