import itertools

import pytest
import torch

from promptmm_pyg.loader import HeteroNeighborSampler
from promptmm_pyg.loader.neighbors import distinct_below

TO_USER = ('item', 'to', 'user')
TO_ITEM = ('user', 'to', 'item')
SIZES = {'user': 6, 'item': 8}
# User 5 and item 7 are alone; user 0 touched item 1 twice.
PAIRS = torch.tensor(
    [
        [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4],
        [1, 1, 2, 5, 0, 0, 3, 5, 4, 5, 0, 1, 5, 6, 5],
    ]
)
EDGES = {TO_ITEM: PAIRS, TO_USER: PAIRS.flip([0])}


def make_weights(dtype=torch.float):
    g = torch.Generator().manual_seed(0)
    return {key: torch.randn(15, generator=g).to(dtype) for key in EDGES}


def make_sampler(num_neighbors=(2, 2), **kwargs):
    return HeteroNeighborSampler(EDGES, SIZES, num_neighbors, **kwargs)


def ids(*values):
    return torch.tensor(values, dtype=torch.long)


def global_edges(batch, edge_type):
    source, target = batch[edge_type].edge_index
    return torch.stack(
        [batch[edge_type[0]].n_id[source], batch[edge_type[2]].n_id[target]]
    )


def bound(probability, trials, sigmas=5.0):
    """Wider than a frequency strays, one test in a million."""
    return sigmas * (probability * (1 - probability) / trials) ** 0.5


@pytest.mark.parametrize(('size', 'number'), [(5, 1), (5, 2), (5, 4), (4, 3)])
def test_every_set_is_equally_likely(size, number):
    trials = 20_000
    g = torch.Generator().manual_seed(1)
    drawn = distinct_below(torch.full((trials,), size), number, g).sort(dim=0).values
    sets = list(itertools.combinations(range(size), number))
    share = 1 / len(sets)
    for first in sets:
        result = (drawn == torch.tensor(first)[:, None]).all(dim=0).float().mean()
        assert abs(float(result) - share) < bound(share, trials), first


def test_as_many_as_there_are_is_all_of_them():
    drawn = distinct_below(torch.full((50,), 6), 6)
    assert torch.equal(drawn.sort(dim=0).values, torch.arange(6)[:, None].expand(6, 50))


def test_bounds_differ_from_row_to_row():
    sizes = torch.tensor([3, 10**9, 2**40])
    drawn = torch.cat([distinct_below(sizes, 3) for _ in range(20)], dim=1)
    assert (drawn >= 0).all()
    assert (drawn < sizes.repeat(20)).all()
    assert (drawn[:, 2::3] >= 2**32).any()


def test_edges_are_those_of_the_graph_and_none_comes_twice():
    weights = make_weights()
    sampler = make_sampler(edge_weight_dict=weights, rescale=False)
    for _ in range(50):
        batch = sampler.sample({'user': ids(0, 3), 'item': ids(5)})
        for edge_type, edge_index in EDGES.items():
            store = batch[edge_type]
            assert store.e_id.unique().numel() == store.e_id.numel()
            assert torch.equal(
                global_edges(batch, edge_type), edge_index[:, store.e_id]
            )
            assert torch.equal(store.edge_weight, weights[edge_type][store.e_id])


def test_a_node_gets_its_number_of_edges_or_all_it_has():
    sampler = make_sampler([2])
    batch = sampler.sample({'user': ids(0, 4, 5)})
    counts = batch[TO_USER].edge_index[1].bincount(minlength=3)
    assert counts.tolist() == [2, 1, 0]
    assert batch[TO_ITEM].edge_index.numel() == 0


def test_nodes_stand_in_the_order_of_the_hops_and_each_once():
    sampler = make_sampler([2, 2, 2])
    for _ in range(20):
        batch = sampler.sample({'user': ids(3, 0, 3)})
        assert batch['user'].n_id[:2].tolist() == [0, 3]
        for key in SIZES:
            n_id, hops = batch[key].n_id, batch[key].num_sampled_nodes
            assert n_id.unique().numel() == n_id.numel() == sum(hops)
            assert batch[key].num_nodes == n_id.numel()
            assert len(hops) == 4
        assert batch['user'].num_sampled_nodes[0] == 2
        assert batch['item'].num_sampled_nodes[0] == 0


def naive_nodes(seeds, num_hops):
    """Whom the seeds can hear of, with every edge."""
    known = {key: set(nodes) for key, nodes in seeds.items()}
    for _ in range(num_hops):
        before = {key: set(nodes) for key, nodes in known.items()}
        for user, item in PAIRS.t().tolist():
            if user in before['user']:
                known['item'].add(item)
            if item in before['item']:
                known['user'].add(user)
    return known


@pytest.mark.parametrize('num_hops', [1, 2, 3])
def test_all_neighbors_equal_a_loop_over_the_edges(num_hops):
    seeds = {'user': [2], 'item': [6, 7]}
    sampler = make_sampler([-1] * num_hops)
    batch = sampler.sample({key: ids(*nodes) for key, nodes in seeds.items()})
    expected = naive_nodes(seeds, num_hops)
    inner = naive_nodes(seeds, num_hops - 1)
    for key in SIZES:
        assert set(batch[key].n_id.tolist()) == expected[key]
    for edge_type, edge_index in EDGES.items():
        selected = [int(v) in inner[edge_type[2]] for v in edge_index[1]]
        assert batch[edge_type].e_id.sort().values.tolist() == [
            place for place, keep in enumerate(selected) if keep
        ]


def make_copies(num, num_neighbors, weights=None, **kwargs):
    """The graph ``num`` times side by side, so that one batch holds as many draws."""
    step = torch.tensor([[SIZES['user']], [SIZES['item']]])
    edges = torch.cat([PAIRS + copy * step for copy in range(num)], dim=1)
    return HeteroNeighborSampler(
        {TO_ITEM: edges, TO_USER: edges.flip([0])},
        {key: num * size for key, size in SIZES.items()},
        num_neighbors,
        edge_weight_dict={key: w.repeat(num) for key, w in (weights or {}).items()},
        **kwargs,
    )


def copies_of(user, num):
    return torch.arange(num) * SIZES['user'] + user


def test_neighbors_of_a_node_are_drawn_equally_often():
    trials = 4000
    users = torch.cat([copies_of(0, trials), copies_of(3, trials)])
    batch = make_copies(trials, [2]).sample({'user': users})
    counts = (batch[TO_USER].e_id % 15).bincount(minlength=15)
    for edges, share in ((range(5), 2 / 5), (range(10, 14), 2 / 4)):
        for edge in edges:
            assert abs(counts[edge] / trials - share) < bound(share, trials)


def dense(edge_type, weight):
    out = torch.zeros(SIZES[edge_type[2]], SIZES[edge_type[0]], dtype=torch.double)
    source, target = EDGES[edge_type]
    return out.index_put((target, source), weight, accumulate=True)


def passed(batch, edge_type, x):
    source, target = batch[edge_type].edge_index
    out = x.new_zeros(batch[edge_type[2]].num_nodes)
    return out.index_add(0, target, batch[edge_type].edge_weight * x[source])


def test_rescaled_sums_are_right_on_average_through_two_hops():
    weights = make_weights(torch.double)
    x = torch.randn(6, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    expected = dense(TO_USER, weights[TO_USER]) @ (dense(TO_ITEM, weights[TO_ITEM]) @ x)
    trials, gaps = 6000, {}
    for rescale in (True, False):
        sampler = make_copies(trials, [2, 2], weights, rescale=rescale)
        batch = sampler.sample({'user': copies_of(0, trials)})
        inner = passed(batch, TO_ITEM, x[batch['user'].n_id % 6])
        sums = passed(batch, TO_USER, inner)[:trials]
        error = float(sums.std()) / trials**0.5
        gaps[rescale] = abs(float(sums.mean() - expected[0])) / error
    assert gaps[True] < 5
    assert gaps[False] > 20  # The test does see a bias.


def test_dropped_pairs_leave_the_other_sums_right_on_average():
    trials = 4000
    users = copies_of(0, trials)
    # Items 5 and, twice, 1 to user 0.
    items = torch.arange(trials) * SIZES['item']
    pairs = torch.stack([torch.cat([items + 5, items + 1]), users.repeat(2)])
    batch = make_copies(trials, [2]).sample({'user': users}, {TO_USER: pairs})
    store = batch[TO_USER]
    sums = torch.zeros(15).index_add(0, store.e_id % 15, store.edge_weight)
    assert not {1, 5} & set((batch['item'].n_id % 8).tolist())
    assert sums[[0, 1, 3]].tolist() == [0, 0, 0]
    for edge in (2, 4):  # Drawn twice in five times, each for 2.5 edges.
        assert abs(sums[edge] / trials - 1) < bound(0.4, trials) * 2.5


def test_a_pair_is_dropped_in_its_direction_only():
    sampler = make_sampler([-1])
    batch = sampler.sample(
        {'user': ids(0), 'item': ids(5)}, {TO_USER: torch.tensor([[5], [0]])}
    )
    assert [0, 5] in global_edges(batch, TO_ITEM).t().tolist()
    assert [5, 0] not in global_edges(batch, TO_USER).t().tolist()


def test_all_neighbors_weigh_what_they_weigh():
    weights = make_weights(torch.half)
    batch = make_sampler([-1], edge_weight_dict=weights).sample({'user': ids(0, 1)})
    store = batch[TO_USER]
    assert store.edge_weight.dtype == torch.half
    assert torch.equal(store.edge_weight, weights[TO_USER][store.e_id])


def test_without_weights_and_rescale_there_are_none():
    seeds = {'user': ids(0)}
    assert 'edge_weight' not in make_sampler(rescale=False).sample(seeds)[TO_USER]
    scaled = make_sampler([2]).sample(seeds)[TO_USER].edge_weight
    assert scaled.tolist() == [2.5, 2.5]


def test_one_number_per_edge_type():
    sampler = make_sampler({TO_USER: [1, 0], TO_ITEM: [3, -1]})
    batch = sampler.sample({'user': ids(0), 'item': ids(5)})
    into_user = batch[TO_USER].edge_index[1].bincount(minlength=1)
    assert into_user[0] == 1
    assert into_user[1:].sum() == 0  # Hop two draws none.
    assert (batch[TO_ITEM].edge_index[1] == 0).sum() == 3


def test_the_same_seed_draws_the_same_and_another_does_not():
    def epoch(seed):
        sampler = make_sampler(seed=seed)
        return [sampler.sample({'user': ids(0, 3)})[TO_USER].e_id for _ in range(6)]

    a, b, c = epoch(5), epoch(5), epoch(6)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    make_sampler().sample({'user': ids(0)})
    assert torch.equal(state, torch.get_rng_state())


def test_a_loaded_state_goes_on_with_the_next_draw():
    sampler, other = make_sampler(seed=1), make_sampler(seed=2)
    sampler.sample({'user': ids(0, 3)})
    other.load_state_dict(sampler.state_dict())
    for _ in range(5):
        a, b = (s.sample({'user': ids(0, 3)}) for s in (sampler, other))
        assert torch.equal(a[TO_USER].e_id, b[TO_USER].e_id)


def test_32_bit_and_strided_edges_give_the_same_batch():
    strided = {key: x.t().contiguous().t().int() for key, x in EDGES.items()}
    other = HeteroNeighborSampler(strided, SIZES, [2, 2])
    a = make_sampler().sample({'user': ids(0)})
    b = other.sample({'user': ids(0).int()})
    assert torch.equal(a[TO_USER].edge_index, b[TO_USER].edge_index)


def test_a_batch_of_no_node_and_a_graph_of_no_edge():
    batch = make_sampler().sample({})
    assert batch['user'].n_id.tolist() == batch['item'].n_id.tolist() == []
    none = {TO_USER: torch.empty(2, 0, dtype=torch.long)}
    batch = HeteroNeighborSampler(none, SIZES, [-1]).sample({'user': ids(3)})
    assert batch['user'].n_id.tolist() == [3]
    assert batch[TO_USER].edge_index.shape == (2, 0)


def test_an_error_in_one_batch_leaves_the_next_as_it_is(monkeypatch):
    sampler = make_sampler([-1, -1])
    expected = sampler.sample({'user': ids(0)})['item'].n_id
    monkeypatch.setattr(sampler, '_graph', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler.sample({'user': ids(0)})
    monkeypatch.undo()
    assert torch.equal(sampler.sample({'user': ids(0)})['item'].n_id, expected)


def test_what_is_made_for_a_batch_does_not_grow_with_the_graph():
    # Nodes and degrees grow a hundredfold; the largest tensor does not.
    def largest(factor):
        num = 50 * factor
        edge_index = torch.stack([torch.arange(num), torch.arange(num) % 5])
        sampler = HeteroNeighborSampler(
            {TO_USER: edge_index}, {'user': num, 'item': num}, [3, 3]
        )
        sizes = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                in_place = any(out is arg for arg in args)
                if isinstance(out, torch.Tensor) and not in_place:
                    sizes.append(out.numel())
                return out

        with Watch():
            sampler.sample({'user': ids(0, 1, 2)})
        return max(sizes)

    assert largest(100) == largest(1)


def test_errors():
    def fails(match, edges=EDGES, sizes=SIZES, num_neighbors=(2,), **kwargs):
        with pytest.raises(ValueError, match=match):
            HeteroNeighborSampler(edges, sizes, num_neighbors, **kwargs)

    fails("'edge_index_dict' must have at least one edge type", edges={})
    fails("'num_nodes_dict' must have the node types of", sizes={'user': 6})
    fails(r"num_nodes_dict\['item'\].*positive", sizes={'user': 6, 'item': 0})
    fails(
        r'edge_index_dict.*ids in \[0, 3\) \(got 0 to 4\)', sizes={'user': 3, 'item': 8}
    )
    fails(r'edge_index_dict.*shape \[2, E\]', edges={TO_USER: ids(1, 2)})
    fails('contain integers', edges={TO_USER: PAIRS.flip([0]).float()})
    fails('one weight per edge', edge_weight_dict={TO_USER: torch.ones(3)})
    for numbers in ([], [-2], [1.5], {TO_USER: [1], TO_ITEM: [1, 2]}):
        fails(
            "'num_neighbors' must have one whole number per hop", num_neighbors=numbers
        )
    fails("'num_neighbors' must have the edge types", num_neighbors={TO_USER: [1]})
    sampler = make_sampler()
    with pytest.raises(ValueError, match=r"'seed_dict' must have keys of.*'tag'"):
        sampler.sample({'tag': ids(0)})
    with pytest.raises(ValueError, match=r"seed_dict\['user'\].*ids in \[0, 6\)"):
        sampler.sample({'user': ids(6)})
    with pytest.raises(ValueError, match="'exclude_dict' must have keys of"):
        sampler.sample({}, {('a', 'b', 'c'): PAIRS})
    with pytest.raises(ValueError, match=r'exclude_dict\[.*ids in'):
        sampler.sample({}, {TO_ITEM: torch.tensor([[9], [0]])})


def test_repr():
    assert str(make_sampler([2])) == (
        f'HeteroNeighborSampler({{{TO_ITEM}: 15, {TO_USER}: 15}}, '
        f'num_neighbors={{{TO_ITEM}: [2], {TO_USER}: [2]}}, rescale=True)'
    )
