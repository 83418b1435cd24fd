import pytest
import torch

from benchmarks.speed import operators as module
from benchmarks.speed.common import Graph, random_graph
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


def test_the_triad_is_written_into_the_array_that_is_there():
    run = module.triad(100)
    first = run()
    assert first is run()
    assert bool((first > 0).any())


def test_the_triad_scales_and_adds():
    torch.manual_seed(0)
    b, c = torch.rand(100), torch.rand(100)
    torch.manual_seed(0)
    torch.testing.assert_close(module.triad(100)(), b + 3 * c)


def test_arrays_of_the_triad_are_beyond_the_cache(monkeypatch):
    monkeypatch.setattr(module, 'last_level_cache', lambda: 2**28)
    assert 4 * module.triad_numbers() == 4 * 2**28
    monkeypatch.setattr(module, 'last_level_cache', lambda: 0)
    assert module.triad_numbers() == 2**26


def test_the_largest_cache_counts(monkeypatch, tmp_path):
    for index, size in enumerate(('32K', '1M', '512K')):
        (tmp_path / f'index{index}').mkdir()
        (tmp_path / f'index{index}' / 'size').write_text(f'{size}\n')
    monkeypatch.setattr(module, '_CACHES', tmp_path)
    assert module.last_level_cache() == 2**20
    monkeypatch.setattr(module, '_CACHES', tmp_path / 'none')
    assert module.last_level_cache() == 0


def test_a_small_graph_is_multiplied_several_times_a_turn(monkeypatch):
    monkeypatch.setattr(module, 'EDGES_PER_TURN', 3 * pair().num_edges + 1)
    assert module.products_per_turn(pair()) == 3
    took = {'median_ms': 6.0, 'min_ms': 3.0, 'max_ms': 9.0}
    times = {module.TRIAD: took, '2': took}
    (row,) = module.roofline_rows('tiny', pair(), times, 1000)
    assert (row['min_ms'], row['median_ms'], row['max_ms']) == (1.0, 2.0, 3.0)
    monkeypatch.setattr(module, 'EDGES_PER_TURN', 1)
    assert module.products_per_turn(pair()) == 1


def test_a_roofline_row_relates_product_and_triad(monkeypatch):
    monkeypatch.setattr(module, 'EDGES_PER_TURN', 1)

    def took(median, fastest):
        return {'median_ms': median, 'min_ms': fastest, 'max_ms': 9.0}

    # 12 kB in 4 ms are 0.003 GB/s, at best 0.006.
    times = {module.TRIAD: took(4.0, 2.0), '2': took(0.5, 0.25)}
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


def test_every_width_runs_the_product_and_its_gradient():
    runs = module.roofline_runs(pair(), (2, 5), 10)
    assert [x.shape for x in runs['2']()] == [(3, 2), (4, 2)]
    assert [x.shape for x in runs['5']()] == [(3, 5), (4, 5)]


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_every_alternative_takes_turns_on_the_same_graph():
    runs = module.propagation_runs(random_graph(9, 7, 20), 3)
    for run in runs.values():
        run()
    assert next(iter(runs)) == 'CSR pair (ours)'


def runs():
    generator = torch.Generator().manual_seed(0)
    tables = (torch.randn(n, 8, generator=generator) for n in (30, 60))
    return module.ranking_runs(RANKED, *tables, 25)


def test_the_loop_ranks_as_the_blocks_do():
    ours, loop = runs()['blocked top-K (ours)'](), runs()['one user at a time']()
    assert ours.shape == (25, module.K)
    assert torch.equal(ours, loop)


def test_the_loop_finds_the_metrics_that_evaluation_does():
    generator = torch.Generator().manual_seed(0)
    tables = (torch.randn(n, 8, generator=generator) for n in (30, 60))
    ours, loop = module.evaluation_runs(RANKED, *tables, 25).values()
    recall, ndcg = ours()
    assert 0 < ndcg < recall < 1
    assert loop() == pytest.approx((recall, ndcg))


def test_implicit_ranks_as_the_blocks_do():
    pytest.importorskip('implicit')
    theirs = runs()['implicit recommend']().long()
    assert torch.equal(theirs, runs()['blocked top-K (ours)']())


def test_the_loop_never_draws_what_a_user_has_seen():
    seen, users = module.seen_sets(SAMPLED), SAMPLED.edge_index[0].tolist() * 20
    for user, item in zip(users, module.negatives_by_loop(seen, users, 6), strict=True):
        assert item not in seen[user]


def test_the_loop_draws_every_item_that_is_left():
    graph = Graph(1, 5, torch.tensor([[0, 0], [1, 3]]))
    found = module.negatives_by_loop(module.seen_sets(graph), [0] * 200, 5)
    assert set(found) == {0, 2, 4}


def test_all_ways_draw_a_negative_for_every_interaction():
    runs = module.sampling_runs(SAMPLED)
    seen = module.seen_sets(SAMPLED)
    drawn = runs['exact sampler (ours)']().tolist()
    assert len(drawn) == SAMPLED.num_edges == len(runs['Python loop']())
    users = SAMPLED.edge_index[0].tolist()
    assert all(i not in seen[u] for u, i in zip(users, drawn, strict=True))
    assert runs['exact sampler, users in random order']().shape == (SAMPLED.num_edges,)
    epoch = runs['an epoch of TripletLoader']()
    assert sum(batch.user.numel() for batch in epoch) == SAMPLED.num_edges


def test_a_rate_is_the_count_by_the_median():
    times = {'a': {'median_ms': 4.0, 'min_ms': 1.0, 'max_ms': 5.0}}
    assert module.with_rate(times, 8)['a'] == {**times['a'], 'per_second': 2000.0}
