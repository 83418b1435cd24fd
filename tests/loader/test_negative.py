import pytest
import torch

from promptmm_pyg.loader import ExactNegativeSampler, triplets


def make_edges(num_users=20, num_items=30, num_edges=200, seed=0):
    """Random interactions, with repeats, and user 0 isolated."""
    g = torch.Generator().manual_seed(seed)
    user = torch.randint(1, num_users, (num_edges,), generator=g)
    item = torch.randint(num_items, (num_edges,), generator=g)
    return torch.stack([user, item])


def as_set(edge_index):
    return set(map(tuple, edge_index.t().tolist()))


def draw(sampler, users, num_negatives=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    return sampler.sample(torch.tensor(users), num_negatives, g)


def test_negatives_are_never_positives_and_include_every_other_item():
    edges = make_edges()
    sampler = ExactNegativeSampler(edges, num_users=20, num_items=30)
    draws = draw(sampler, range(20), 2000)
    for user in range(20):
        seen = {i for u, i in as_set(edges) if u == user}
        assert set(draws[user].tolist()) == set(range(30)) - seen


def test_negatives_are_uniform():
    # User 1 has seen 0, 3, 4 and 9 of ten items.
    edges = torch.tensor([[1, 1, 1, 1, 0], [9, 0, 4, 3, 5]])
    sampler = ExactNegativeSampler(edges, num_users=2, num_items=10)
    n = 60_000
    counts = draw(sampler, [1], n).view(-1).bincount(minlength=10)
    assert counts[[0, 3, 4, 9]].sum() == 0
    left = counts[[1, 2, 5, 6, 7, 8]].double()
    # Chi-square of five degrees of freedom: 20.5 is its 0.999 quantile.
    assert ((left - n / 6).square() / (n / 6)).sum() < 20.5


def test_every_rank_maps_to_its_item():
    # Enough draws to meet every rank.
    edges = torch.tensor([[0, 0, 0, 1, 2, 2], [0, 1, 5, 3, 4, 5]])
    sampler = ExactNegativeSampler(edges, num_users=3, num_items=6)
    for user, left in ((0, [2, 3, 4]), (1, [0, 1, 2, 4, 5]), (2, [0, 1, 2, 3])):
        n = 4000
        counts = draw(sampler, [user], n)[0].bincount(minlength=6)
        assert counts.nonzero().view(-1).tolist() == left


def test_a_user_with_one_negative_left_gets_it():
    item = torch.tensor([i for i in range(50) if i != 17])
    edges = torch.stack([torch.full_like(item, 2), item])
    sampler = ExactNegativeSampler(edges, num_users=3, num_items=50)
    assert (draw(sampler, [2] * 100) == 17).all()


def test_a_user_without_interactions_gets_any_item():
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    assert draw(sampler, [0], 2000).unique().tolist() == list(range(30))


def test_a_graph_without_interactions_leaves_everything():
    empty = torch.zeros(2, 0, dtype=torch.long)
    sampler = ExactNegativeSampler(empty, num_users=2, num_items=3)
    assert draw(sampler, [1], 200).unique().tolist() == [0, 1, 2]
    assert not sampler.is_positive(torch.tensor([0, 1]), torch.tensor([0, 2])).any()


def test_one_negative_per_user_has_no_second_axis():
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    assert draw(sampler, [3, 0, 3]).shape == (3,)
    assert draw(sampler, [3, 0, 3], 1).shape == (3, 1)
    assert draw(sampler, [3, 0, 3], 4).shape == (3, 4)
    assert draw(sampler, [3]).dtype == torch.long


def test_draws_of_one_call_are_independent():
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    draws = draw(sampler, [0, 0], 50)
    assert (draws[0] != draws[1]).any()
    assert draws[0].unique().numel() > 1


def test_the_generator_decides():
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    first, again, other = (draw(sampler, range(20), 5, s) for s in (0, 0, 1))
    torch.testing.assert_close(first, again)
    assert (first != other).any()


def test_the_order_and_the_repeats_of_edges_do_not_count():
    edges = make_edges()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    samplers = [
        ExactNegativeSampler(e, num_users=20, num_items=30)
        for e in (edges, torch.cat([edges[:, order], edges], dim=1))
    ]
    first, second = (draw(s, range(20), 10) for s in samplers)
    torch.testing.assert_close(first, second)


def test_short_integers_do_not_overflow():
    # The last pair is number 10^5 * 10^5, far beyond an int32.
    edges = torch.tensor([[0, 99_999], [0, 99_999]], dtype=torch.int32)
    sampler = ExactNegativeSampler(edges, num_users=100_000, num_items=100_000)
    users, items = torch.tensor([0, 99_999, 5]), torch.tensor([0, 99_999, 5])
    assert sampler.is_positive(users, items).tolist() == [True, True, False]


def test_short_integers_for_users_and_items_do_not_overflow():
    # The last of 100 000 users has seen all but the last of as many items.
    size = 100_000
    item = torch.arange(size - 1, dtype=torch.int32)
    user = torch.full_like(item, size - 1)
    sampler = ExactNegativeSampler(torch.stack([user, item]), size, size)
    assert sampler.sample(user[:3]).tolist() == [size - 1] * 3
    assert sampler.is_positive(user, item).all()


@pytest.mark.parametrize('largest_table', [599, 600])
def test_positives_are_known(largest_table, monkeypatch):
    monkeypatch.setattr(triplets, '_TABLE_BYTES', largest_table)
    edges = make_edges()
    sampler = ExactNegativeSampler(edges, num_users=20, num_items=30)
    known = sampler.is_positive(torch.arange(20)[:, None], torch.arange(30)[None])
    expected = torch.zeros(20, 30, dtype=torch.bool)
    expected[edges[0], edges[1]] = True
    torch.testing.assert_close(known, expected)
    assert ('_table' in vars(sampler)) == (largest_table == 600)


def test_a_user_who_has_seen_everything_is_named():
    edges = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]])
    sampler = ExactNegativeSampler(edges, num_users=2, num_items=3)
    with pytest.raises(ValueError, match=r'got user 1, who interacted with all 3'):
        draw(sampler, [0, 1])


def test_other_users_are_sampled_if_one_has_all_items():
    edges = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]])
    sampler = ExactNegativeSampler(edges, num_users=2, num_items=3)
    assert draw(sampler, [0] * 100).unique().tolist() == [1, 2]


@pytest.mark.parametrize('user', [-1, 20])
def test_users_need_to_exist(user):
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    with pytest.raises(ValueError, match=r"'users' requires ids in \[0, 20\)"):
        draw(sampler, [3, user])
    with pytest.raises(ValueError, match=rf"'users' .* \(got {user} to {user}\)"):
        sampler.is_positive(torch.tensor([user]), torch.tensor([0]))


def test_ids_need_to_be_integers():
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    with pytest.raises(ValueError, match=r"'users' must contain integers .*float32"):
        draw(sampler, [1.5])
    with pytest.raises(ValueError, match=r"'items' must contain integers .*bool"):
        sampler.is_positive(torch.tensor([0]), torch.tensor([True]))


@pytest.mark.parametrize('item', [-1, 30])
def test_items_need_to_exist(item):
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    with pytest.raises(ValueError, match=r"'items' requires ids in \[0, 30\)"):
        sampler.is_positive(torch.tensor([0]), torch.tensor([item]))


def test_no_draw_is_an_error():
    sampler = ExactNegativeSampler(make_edges(), num_users=20, num_items=30)
    with pytest.raises(ValueError, match=r"'num_negatives' must .* \(got 0\)"):
        draw(sampler, [3], 0)


@pytest.mark.parametrize(
    ('edges', 'match'),
    [
        ([[0, 2], [0, 0]], r"'edge_index' .*source.* \[0, 2\) \(got 0 to 2\)"),
        ([[-1, 0], [0, 0]], r"'edge_index' .*source.* \(got -1 to 0\)"),
        ([[0, 0], [0, 3]], r"'edge_index' .*target.* \[0, 3\) \(got 0 to 3\)"),
        ([[0, 0], [-2, 0]], r"'edge_index' .*target.* \(got -2 to 0\)"),
        ([[0, 0]], r"'edge_index' .* shape \[2, E\] \(got \[1, 2\]\)"),
        ([0, 0], r"'edge_index' .* shape \[2, E\] \(got \[2\]\)"),
    ],
)
def test_edges_need_to_fit(edges, match):
    with pytest.raises(ValueError, match=match):
        ExactNegativeSampler(torch.tensor(edges), num_users=2, num_items=3)


@pytest.mark.parametrize('name', ['num_users', 'num_items'])
def test_there_need_to_be_users_and_items(name):
    sizes = {'num_users': 2, 'num_items': 3, name: 0}
    with pytest.raises(ValueError, match=rf"'{name}' must be positive \(got 0\)"):
        ExactNegativeSampler(torch.zeros(2, 0, dtype=torch.long), **sizes)


def test_draws_among_some_items_are_uniform_over_those_a_user_has_not_seen():
    # User 1 has seen 3 and 7 of the items drawn among, and 0, which is not.
    edges = torch.tensor([[1, 1, 1, 0], [7, 0, 3, 5]])
    items = torch.tensor([9, 7, 5, 4, 3, 2, 7])
    sampler = ExactNegativeSampler(edges, 2, 10, items)
    n = 60_000
    counts = draw(sampler, [1], n).view(-1).bincount(minlength=10)
    assert counts[[0, 1, 3, 6, 7, 8]].sum() == 0
    left = counts[[2, 4, 5, 9]].double()
    # Chi-square of three degrees of freedom: 16.3 is its 0.999 quantile.
    assert ((left - n / 4).square() / (n / 4)).sum() < 16.3


@pytest.mark.parametrize('dtype', [torch.long, torch.int32])
def test_draws_among_some_items_reach_each_of_them_and_no_positive(dtype):
    edges = make_edges()
    items = torch.randperm(30, generator=torch.Generator().manual_seed(2))[:11]
    sampler = ExactNegativeSampler(edges, 20, 30, items.to(dtype))
    draws = draw(sampler, range(20), 2000)
    for user in range(20):
        seen = {i for u, i in as_set(edges) if u == user}
        assert set(draws[user].tolist()) == set(items.tolist()) - seen


def test_draws_among_all_items_are_those_of_no_choice():
    edges = make_edges()
    every = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    some = ExactNegativeSampler(edges, 20, 30, every)
    plain = ExactNegativeSampler(edges, 20, 30)
    assert torch.equal(draw(some, range(20), 50), draw(plain, range(20), 50))


def test_positives_are_known_whatever_is_drawn_among():
    edges = make_edges()
    sampler = ExactNegativeSampler(edges, 20, 30, torch.tensor([4]))
    assert sampler.is_positive(*edges).all()


def test_a_user_who_has_seen_all_of_some_items_is_named():
    edges = torch.tensor([[0, 1, 1], [0, 0, 2]])
    sampler = ExactNegativeSampler(edges, 2, 3, torch.tensor([0, 2]))
    match = r"got user 1, who interacted with all 2 of 'items'"
    with pytest.raises(ValueError, match=match):
        draw(sampler, [0, 1])


@pytest.mark.parametrize(
    ('items', 'match'),
    [
        ([0, 3], r"'items' requires ids in \[0, 3\) \(got 0 to 3\)"),
        ([-1, 0], r"'items' requires ids in .* \(got -1 to 0\)"),
        ([[0, 1]], r"'items' must .* shape \[N\] \(got \[1, 2\]\)"),
        ([], r"'items' must contain at least one id"),
        ([True, False, True], r"'items' must contain ids \(got torch.bool\)"),
        ([0.0, 1.0], r"'items' must contain integers \(got torch.float32\)"),
    ],
)
def test_items_to_draw_among_need_to_be_ids(items, match):
    with pytest.raises(ValueError, match=match):
        ExactNegativeSampler(make_edges(2, 3, 4), 2, 3, torch.tensor(items))
