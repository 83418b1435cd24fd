import pytest
import torch

from benchmarks.speed import Graph, random_graph
from benchmarks.speed import operators as module
from promptmm_pyg.nn import CSRPair

RANKED = random_graph(30, 60, 300)
SAMPLED = random_graph(8, 6, 30)


def pair():
    """Four sources, three destinations; source 2 has no edge."""
    edge_index = torch.tensor([[0, 1, 3, 0], [0, 0, 0, 1]])
    return CSRPair.from_edge_index(edge_index, size=(4, 3))


def test_bytes_of_a_product_are_those_counted_by_hand():
    forward, transpose = pair().matrices(torch.float)
    # Indices and weights 4 * 8, pointers 4 * 4, output 3 * 2 * 4.
    rest = 32 + 16 + 24
    assert module.product_bytes(forward, 2) == (rest + 4 * 8, rest + 3 * 8)
    # Pointers 5 * 4, output 4 * 2 * 4; destination 2 has no edge.
    rest = 32 + 20 + 32
    assert module.product_bytes(transpose, 2) == (rest + 4 * 8, rest + 2 * 8)


def test_bytes_follow_the_width_of_the_numbers():
    single, double = (pair().matrices(t)[0] for t in (torch.float, torch.double))
    more = module.product_bytes(double, 2).gathered
    # Weights, output and rows double; indices and pointers do not.
    assert more == module.product_bytes(single, 2).gathered + 16 + 24 + 32


def test_the_triad_scales_and_adds_into_one_array():
    torch.manual_seed(0)
    b, c = torch.rand(100), torch.rand(100)
    torch.manual_seed(0)
    run = module.triad(100)
    torch.testing.assert_close(run(), b + 3 * c)
    assert run() is run()


def test_arrays_of_the_triad_exceed_the_largest_cache(monkeypatch, tmp_path):
    for index, size in enumerate(('32K', '256M', '512K')):
        (tmp_path / f'index{index}').mkdir()
        (tmp_path / f'index{index}' / 'size').write_text(f'{size}\n')
    monkeypatch.setattr(module, '_CACHES', tmp_path)
    assert module.last_level_cache() == module.triad_numbers() == 2**28
    monkeypatch.setattr(module, '_CACHES', tmp_path / 'none')
    assert module.last_level_cache() == 0
    assert module.triad_numbers() == 2**26


def test_a_small_graph_has_several_products_per_turn(monkeypatch):
    monkeypatch.setattr(module, 'EDGES_PER_TURN', 3 * pair().num_edges + 1)
    assert module.products_per_turn(pair()) == 3
    turn = {'median_ms': 6.0, 'min_ms': 3.0, 'max_ms': 9.0}
    times = {module.TRIAD: turn, '2': turn}
    (row,) = module.roofline_rows('tiny', pair(), times, 1000)
    assert (row['min_ms'], row['median_ms'], row['max_ms']) == (1.0, 2.0, 3.0)


def test_a_roofline_row_relates_product_and_triad(monkeypatch):
    monkeypatch.setattr(module, 'EDGES_PER_TURN', 1)

    # 12 kB in 4 ms are 0.003 GB/s, at best 0.006.
    times = {
        name: {'median_ms': median, 'min_ms': fastest, 'max_ms': 9.0}
        for name, median, fastest in ((module.TRIAD, 4.0, 2.0), ('2', 0.5, 0.25))
    }
    (row,) = module.roofline_rows('tiny', pair(), times, 1000)
    gathered, once = 104 + 116, 96 + 100
    assert row['gathered_bytes'] == gathered
    assert row['once_bytes'] == once
    assert row['triad_gb_per_s'] == pytest.approx(0.003)
    assert row['alone_ms'] == pytest.approx(gathered / 3000)
    assert row['once_ms'] == pytest.approx(once / 3000)
    assert row['gb_per_s'] == pytest.approx(gathered / 0.5e6)
    assert row['share'] == pytest.approx(row['alone_ms'] / 0.5)
    assert row['best_share'] == pytest.approx(gathered / 0.25e6 / 0.006)


def test_every_width_runs_the_product_and_its_gradient(monkeypatch):
    monkeypatch.setattr(module, 'EDGES_PER_TURN', 1)
    runs = module.roofline_runs(pair(), (2, 5), 10)
    assert [x.shape for x in runs['2']()] == [(3, 2), (4, 2)]
    assert [x.shape for x in runs['5']()] == [(3, 5), (4, 5)]


def tables():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 8, generator=generator) for n in (30, 60)]


def test_the_loop_has_the_lists_and_metrics_of_ours():
    ours, loop, *_ = module.ranking_runs(RANKED, *tables(), 25).values()
    assert ours().shape == (25, module.K)
    assert torch.equal(ours(), loop())
    ours, loop = module.evaluation_runs(RANKED, *tables(), 25).values()
    recall, ndcg = ours()
    assert 0 < ndcg < recall < 1
    assert loop() == pytest.approx((recall, ndcg))


def test_implicit_has_the_same_lists():
    pytest.importorskip('implicit')
    runs = module.ranking_runs(RANKED, *tables(), 25)
    theirs = runs['implicit recommend']().long()
    assert torch.equal(theirs, runs['blocked top-K (ours)']())


def test_the_loop_draws_every_unseen_item():
    graph = Graph(1, 5, torch.tensor([[0, 0], [1, 3]]))
    items = module.negatives_by_loop(module.seen_sets(graph), [0] * 200, 5)
    assert set(items) == {0, 2, 4}


def test_every_sampler_draws_one_negative_per_interaction():
    runs = module.sampling_runs(SAMPLED)
    seen = module.seen_sets(SAMPLED)
    drawn = runs['exact sampler (ours)']().tolist()
    assert len(drawn) == SAMPLED.num_edges == len(runs['Python loop']())
    users = SAMPLED.edge_index[0].tolist()
    assert all(i not in seen[u] for u, i in zip(users, drawn, strict=True))
    assert runs['exact sampler, users in random order']().shape == (len(users),)
    epoch = runs['an epoch of TripletLoader']()
    assert sum(batch.user.numel() for batch in epoch) == SAMPLED.num_edges


def test_a_rate_is_the_count_by_the_median():
    times = {'a': {'median_ms': 4.0, 'min_ms': 1.0, 'max_ms': 5.0}}
    assert module.with_rate(times, 8)['a'] == {**times['a'], 'per_second': 2000.0}
