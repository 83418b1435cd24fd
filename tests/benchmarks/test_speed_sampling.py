import torch

from benchmarks.speed import ranking as module
from benchmarks.speed.graphs import Graph, random_graph

GRAPH = random_graph(8, 6, 30)


def test_the_loop_never_draws_what_a_user_has_seen():
    seen, users = module.seen_sets(GRAPH), GRAPH.edge_index[0].tolist() * 20
    for user, item in zip(users, module.negatives_by_loop(seen, users, 6), strict=True):
        assert item not in seen[user]


def test_the_loop_draws_every_item_that_is_left():
    graph = Graph(1, 5, torch.tensor([[0, 0], [1, 3]]))
    found = module.negatives_by_loop(module.seen_sets(graph), [0] * 200, 5)
    assert set(found) == {0, 2, 4}


def test_all_ways_draw_a_negative_for_every_interaction():
    runs = module.sampling_runs(GRAPH)
    seen = module.seen_sets(GRAPH)
    drawn = runs['exact sampler (ours)']().tolist()
    assert len(drawn) == GRAPH.num_edges == len(runs['Python loop']())
    users = GRAPH.edge_index[0].tolist()
    assert all(i not in seen[u] for u, i in zip(users, drawn, strict=True))
    assert runs['exact sampler, users in random order']().shape == (GRAPH.num_edges,)
    epoch = runs['an epoch of TripletLoader']()
    assert sum(batch.user.numel() for batch in epoch) == GRAPH.num_edges


def test_a_rate_is_the_count_by_the_median():
    times = {'a': {'median_ms': 4.0, 'min_ms': 1.0, 'max_ms': 5.0}}
    assert module.with_rate(times, 8)['a'] == {**times['a'], 'per_second': 2000.0}
