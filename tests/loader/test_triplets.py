import pytest
import torch

from promptmm_pyg.loader import TripletLoader, Triplets


def make_edges(num_users=20, num_items=30, num_edges=203, seed=0):
    """Distinct interactions, each user but user 0 with some."""
    g = torch.Generator().manual_seed(seed)
    flat = torch.randperm((num_users - 1) * num_items, generator=g)[:num_edges]
    return torch.stack([1 + flat // num_items, flat % num_items])


def make_loader(edges=None, **kwargs):
    edges = make_edges() if edges is None else edges
    kwargs = {'num_users': 20, 'num_items': 30, 'batch_size': 32, **kwargs}
    return TripletLoader(edges, **kwargs)


def epoch(loader):
    return Triplets(*(torch.cat(x) for x in zip(*loader, strict=True)))


def pairs(edge_index):
    return list(map(tuple, edge_index.t().tolist()))


def test_an_epoch_holds_every_interaction_once():
    edges = make_edges()
    out = epoch(make_loader(edges))
    assert sorted(pairs(torch.stack(out[:2]))) == sorted(pairs(edges))


def test_a_repeated_interaction_counts_as_often_as_it_occurs():
    edges = torch.tensor([[0, 0, 0, 1], [2, 2, 3, 0]])
    out = epoch(make_loader(edges))
    assert sorted(pairs(torch.stack(out[:2]))) == sorted(pairs(edges))


def test_no_negative_is_a_training_positive():
    edges = make_edges()
    loader = make_loader(edges)
    known = set(pairs(edges))
    for _ in range(20):
        out = epoch(loader)
        assert not known & set(pairs(torch.stack([out.user, out.negative])))


def test_negatives_reach_every_item_a_user_has_not_seen():
    edges = torch.tensor([[0, 0, 1], [0, 1, 4]])
    loader = make_loader(edges, num_users=2, num_items=5)
    drawn = {0: set(), 1: set()}
    for _ in range(60):
        out = epoch(loader)
        for user, item in pairs(torch.stack([out.user, out.negative])):
            drawn[user].add(item)
    assert drawn == {0: {2, 3, 4}, 1: {0, 1, 2, 3}}


def test_batches_are_full_but_the_last():
    sizes = [[len(x) for x in batch] for batch in make_loader()]
    assert sizes == [[32] * 3] * 6 + [[11] * 3]


@pytest.mark.parametrize(
    ('batch_size', 'expected'), [(1, 203), (203, 1), (202, 2), (10_000, 1)]
)
def test_the_length_is_the_number_of_batches(batch_size, expected):
    loader = make_loader(batch_size=batch_size)
    assert len(loader) == expected
    assert len(list(loader)) == expected


def test_every_epoch_has_its_own_order_and_negatives():
    loader = make_loader()
    first, second = epoch(loader), epoch(loader)
    assert (first.positive != second.positive).any()
    assert (first.negative != second.negative).any()


def test_a_batch_mixes_users():
    # Interactions are sorted by user inside, but not in an epoch.
    first = next(iter(make_loader()))
    assert (first.user.diff() < 0).any()


def test_columns_belong_together_after_shuffling():
    # Item 2 u is the only positive of user u, item 2 u + 1 its only negative.
    user = torch.arange(8)
    seen = torch.ones(8, 16, dtype=torch.bool)
    seen[user, 2 * user + 1] = False
    edges = seen.nonzero().t()
    out = epoch(make_loader(edges, num_users=8, num_items=16))
    torch.testing.assert_close(out.negative, 2 * out.user + 1)


def test_the_seed_decides():
    first, again, other = (epoch(make_loader(seed=s)) for s in (0, 0, 1))
    torch.testing.assert_close(first, again)
    assert (first.positive != other.positive).any()


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    epoch(make_loader())
    epoch(make_loader(user_uniform=True))
    torch.testing.assert_close(torch.get_rng_state(), before)


@pytest.mark.parametrize('user_uniform', [False, True])
def test_a_run_goes_on_where_it_stopped(user_uniform):
    loader = make_loader(user_uniform=user_uniform)
    epoch(loader)
    state = loader.state_dict()
    expected = [epoch(loader), epoch(loader)]

    other = make_loader(user_uniform=user_uniform, seed=99)
    other.load_state_dict(state)
    torch.testing.assert_close([epoch(other), epoch(other)], expected)


def test_a_state_does_not_move_with_the_loader():
    loader = make_loader()
    state = loader.state_dict()
    before = state['generator'].clone()
    epoch(loader)
    torch.testing.assert_close(state['generator'], before)


def test_users_are_drawn_uniformly_with_user_uniform():
    # User 1 has 1 interaction, user 2 has 9, user 0 none.
    edges = torch.tensor([[1] + [2] * 9, [5, *range(9)]])
    loader = make_loader(edges, num_users=3, num_items=20, user_uniform=True)
    n = 1000
    users = torch.cat([epoch(loader).user for _ in range(n)])
    counts = users.bincount(minlength=3)
    assert counts.tolist()[0] == 0
    # 10 n draws of probability 1/2: five standard deviations are 2.5 sqrt(10 n).
    assert abs(int(counts[1]) - 5 * n) < 250


def test_each_of_a_users_interactions_has_the_same_chance_when_users_count():
    edges = torch.tensor([[0, 2, 2, 2, 2], [5, 3, 0, 8, 6]])
    loader = make_loader(edges, num_users=3, num_items=20, user_uniform=True)
    outs = [epoch(loader) for _ in range(2000)]
    user, positive = (torch.cat([out[i] for out in outs]) for i in (0, 1))
    assert set(pairs(torch.stack([user, positive]))) == set(pairs(edges))
    counts = positive[user == 2].bincount(minlength=9)[[0, 3, 6, 8]].double()
    expected = counts.sum() / 4
    # Chi-square of three degrees of freedom: 16.3 is its 0.999 quantile.
    assert ((counts - expected).square() / expected).sum() < 16.3


def test_an_epoch_has_the_same_length_when_users_count():
    loader = make_loader(user_uniform=True)
    assert len(epoch(loader).user) == 203
    assert len(list(loader)) == len(loader)


def test_user_uniform_batches_mix_users():
    first = next(iter(make_loader(user_uniform=True)))
    assert (first.user.diff() < 0).any()


def test_edges_are_left_as_they_are():
    edges = make_edges()
    before = edges.clone()
    epoch(make_loader(edges))
    torch.testing.assert_close(edges, before)


def test_short_integers_come_out_as_indices():
    out = epoch(make_loader(make_edges().int()))
    assert {x.dtype for x in out} == {torch.long}


def test_one_interaction_makes_one_triplet():
    out = epoch(make_loader(torch.tensor([[1], [0]]), num_users=2, num_items=2))
    assert [x.tolist() for x in out] == [[1], [0], [1]]


def test_a_user_without_a_negative_is_named_before_training():
    edges = torch.tensor([[0, 1, 1], [0, 0, 1]])
    with pytest.raises(ValueError, match='got user 1, who interacted with all 2 items'):
        make_loader(edges, num_users=2, num_items=2)


def test_there_must_be_an_interaction():
    with pytest.raises(
        ValueError, match="'edge_index' must have at least one interaction"
    ):
        make_loader(torch.zeros(2, 0, dtype=torch.long))


def test_ids_need_to_be_in_range():
    with pytest.raises(
        ValueError, match=r"'edge_index' requires target ids in \[0, 30\)"
    ):
        make_loader(torch.tensor([[0], [30]]))


def test_the_batch_size_must_be_positive():
    with pytest.raises(ValueError, match=r"'batch_size' must .* \(got 0\)"):
        make_loader(batch_size=0)


def test_repr():
    assert repr(make_loader()) == (
        'TripletLoader(203 interactions, batch_size=32, user_uniform=False)'
    )


def test_negatives_are_drawn_among_the_items_given():
    items = torch.arange(0, 30, 2)
    out = epoch(make_loader(negative_items=items, batch_size=7))
    assert set(out.negative.tolist()) <= set(items.tolist())
    assert set(out.positive.tolist()) - set(items.tolist())
