import pytest
import torch

from promptmm_pyg.loader import (
    ExactNegativeSampler,
    mixed_candidates,
    uniform_candidates,
)

NUM_USERS, NUM_ITEMS = 12, 40


def make_edges(seed=0):
    """Distinct interactions; every user has some."""
    g = torch.Generator().manual_seed(seed)
    flat = torch.randperm(NUM_USERS * NUM_ITEMS, generator=g)[:90]
    edges = torch.stack([flat // NUM_ITEMS, flat % NUM_ITEMS])
    everyone = torch.arange(NUM_USERS)
    return torch.cat([edges, torch.stack([everyone, everyone])], dim=1).unique(dim=1)


def make_batch(seed=0):
    edges = make_edges()
    sampler = ExactNegativeSampler(edges, NUM_USERS, NUM_ITEMS)
    g = torch.Generator().manual_seed(seed)
    chosen = torch.randint(edges.size(1), (25,), generator=g)
    return sampler, edges[0, chosen], edges[1, chosen], g


def make_top(seed, length=8):
    """Favorites with training positives among them, some rows padded."""
    g = torch.Generator().manual_seed(seed)
    top = torch.rand(NUM_USERS, NUM_ITEMS, generator=g).argsort()[:, :length]
    top[::3, length // 2 :] = -1
    top[1] = -1
    return top


def make_mixed(seed=0, **kwargs):
    sampler, users, positives, g = make_batch(seed)
    kwargs = {'num_teacher_topk': 4, 'num_student_topk': 3, 'num_uniform': 5, **kwargs}
    lists = mixed_candidates(
        sampler, users, positives, make_top(1), make_top(2), generator=g, **kwargs
    )
    return sampler, users, positives, lists


def test_uniform_lists_begin_with_the_positive():
    sampler, users, positives, g = make_batch()
    lists = uniform_candidates(sampler, users, positives, 6, g)
    assert lists.item_index.shape == (25, 7)
    torch.testing.assert_close(lists.item_index[:, 0], positives)


def test_uniform_lists_mark_the_first_column_only():
    sampler, users, positives, g = make_batch()
    lists = uniform_candidates(sampler, users, positives, 6, g)
    expected = torch.tensor([[True] + [False] * 6]).expand(25, -1)
    torch.testing.assert_close(lists.target_mask, expected)
    assert lists.mask is None


def test_uniform_lists_hold_no_other_positive():
    sampler, users, positives, g = make_batch()
    lists = uniform_candidates(sampler, users, positives, 30, g)
    assert not sampler.is_positive(users[:, None], lists.item_index[:, 1:]).any()


def test_uniform_lists_need_a_negative():
    sampler, users, positives, _ = make_batch()
    with pytest.raises(ValueError, match=r"'num_negatives' must .* \(got 0\)"):
        uniform_candidates(sampler, users, positives, 0)


def test_mixed_lists_begin_with_the_positive_and_it_counts():
    _, _, positives, lists = make_mixed()
    torch.testing.assert_close(lists.item_index[:, 0], positives)
    assert lists.target_mask[:, 0].all()
    assert lists.target_mask.sum() == 25
    assert lists.mask[:, 0].all()


def test_mixed_lists_have_one_shape():
    for kwargs, width in (
        ({}, 13),
        ({'num_teacher_topk': 0, 'num_student_topk': 0}, 6),
    ):
        lists = make_mixed(**kwargs)[-1]
        assert {x.shape for x in lists} == {(25, width)}


def test_the_mask_equals_a_naive_loop():
    _, users, _, lists = make_mixed()
    known = set(map(tuple, make_edges().t().tolist()))
    top = torch.cat([make_top(1), make_top(2)], dim=1)
    hidden = 0
    for user, items, mask in zip(
        users.tolist(), lists.item_index.tolist(), lists.mask.tolist(), strict=True
    ):
        counted = {items[0]}
        for column, (item, counts) in enumerate(zip(items, mask, strict=True)):
            if column == 0:
                continue
            from_top = column <= 7
            # What does not count may be padding, which has become item 0.
            padded = from_top and item not in top[user].tolist()
            if padded:
                assert item == 0
                assert not counts
                continue
            if from_top and item == 0 and -1 in top[user].tolist():
                continue  # Item 0 or padding.
            expected = (user, item) not in known and item not in counted
            assert counts == expected
            counted |= {item} if counts else set()
            hidden += not counts
    assert hidden > 20  # Otherwise the loop above has seen nothing.


def test_what_counts_occurs_once_in_a_list():
    for seed in range(5):
        lists = make_mixed(seed)[-1]
        for items, mask in zip(lists.item_index, lists.mask, strict=True):
            counted = items[mask].tolist()
            assert len(set(counted)) == len(counted)


def test_a_repeated_candidate_counts_at_its_first_place():
    # Sorts that need not be stable still are, up to 16 columns; here are 42.
    top = torch.tensor([[2]])
    lists = mixed_candidates(
        ExactNegativeSampler(torch.tensor([[0], [1]]), 1, 3),
        torch.tensor([0]),
        torch.tensor([1]),
        top,
        top,
        num_teacher_topk=20,
        num_student_topk=20,
        num_uniform=1,
        generator=torch.Generator().manual_seed(0),
    )
    assert lists.mask[0, :41].tolist() == [True, True] + [False] * 39


def test_every_list_has_a_negative():
    for seed in range(20):
        lists = make_mixed(seed, num_uniform=1)[-1]
        assert (lists.mask & ~lists.target_mask).any(dim=1).all()


def test_no_training_positive_counts_but_the_target():
    for seed in range(5):
        sampler, users, _, lists = make_mixed(seed)
        positive = sampler.is_positive(users[:, None], lists.item_index)
        assert not (positive & lists.mask & ~lists.target_mask).any()


def test_a_positive_outside_training_counts_once():
    sampler = ExactNegativeSampler(torch.tensor([[0], [0]]), 1, 4)
    top = torch.tensor([[2, 3]])
    lists = mixed_candidates(
        sampler,
        torch.tensor([0]),
        torch.tensor([2]),
        top,
        top,
        num_teacher_topk=2,
        num_student_topk=0,
        num_uniform=1,
        generator=torch.Generator().manual_seed(0),
    )
    assert lists.item_index[0, :3].tolist() == [2, 2, 3]
    assert lists.mask[0, :3].tolist() == [True, False, True]


def test_padding_never_counts_even_beside_item_zero():
    sampler = ExactNegativeSampler(torch.tensor([[0], [1]]), 1, 3)
    lists = mixed_candidates(
        sampler,
        torch.tensor([0]),
        torch.tensor([1]),
        torch.tensor([[-1]]),
        torch.tensor([[0]]),
        num_teacher_topk=1,
        num_student_topk=1,
        num_uniform=1,
        generator=torch.Generator().manual_seed(0),
    )
    # The padded column reads 0 as well; the item 0 behind it counts.
    assert lists.item_index[0, :3].tolist() == [1, 0, 0]
    assert lists.mask[0, :3].tolist() == [True, False, True]


def test_columns_come_from_their_sources():
    _, users, _, lists = make_mixed()
    for columns, top in ((slice(1, 5), make_top(1)), (slice(5, 8), make_top(2))):
        drawn = lists.item_index[:, columns]
        known = (drawn[:, :, None] == top[users][:, None, :]).any(dim=-1)
        assert (known | (drawn == 0)).all()


def test_all_top_items_are_drawn_with_as_many_draws():
    sampler, users, positives, g = make_batch()
    top = make_top(1).abs()
    lists = mixed_candidates(
        sampler,
        users,
        positives,
        top,
        top,
        num_teacher_topk=8,
        num_student_topk=0,
        generator=g,
    )
    torch.testing.assert_close(lists.item_index[:, 1:9], top[users])


def test_every_favorite_has_the_same_chance():
    # Three of eight: slices that do not end between two places.
    sampler = ExactNegativeSampler(torch.tensor([[0], [9]]), 1, 10)
    top = torch.arange(8)[None]
    n = 20_000
    lists = mixed_candidates(
        sampler,
        torch.zeros(n, dtype=torch.long),
        torch.full((n,), 9),
        top,
        top,
        num_teacher_topk=3,
        num_student_topk=0,
        num_uniform=1,
        generator=torch.Generator().manual_seed(0),
    )
    counts = lists.item_index[:, 1:4].reshape(-1).bincount(minlength=8).double()
    expected = 3 * n / 8
    # Chi-square of seven degrees of freedom: 24.3 is its 0.999 quantile; slices
    # vary less than independent draws.
    assert ((counts - expected).square() / expected).sum() < 24.3


def test_a_draw_reaches_from_the_first_to_the_last():
    _, users, _, lists = make_mixed(num_teacher_topk=2, num_student_topk=0)
    top = make_top(1)[users].clamp_min(0)
    halves = lists.item_index[:, 1:3]
    assert (halves[:, :1] == top[:, :4]).any(dim=1).all()
    assert (halves[:, 1:] == top[:, 4:]).any(dim=1).all()


def test_more_draws_than_favorites_count_each_once():
    lists = make_mixed(num_teacher_topk=20, num_student_topk=0)[-1]
    for items, mask in zip(lists.item_index[:, 1:21], lists.mask[:, 1:21], strict=True):
        assert items[mask].unique().numel() == int(mask.sum()) <= 8


def test_the_generator_decides():
    first, again, other = (make_mixed(s)[-1] for s in (0, 0, 1))
    torch.testing.assert_close(first, again)
    assert (first.item_index != other.item_index).any()


@pytest.mark.parametrize(
    ('name', 'value', 'match'),
    [
        ('num_teacher_topk', -1, r'zero or more \(got -1\)'),
        ('num_student_topk', -1, r'zero or more \(got -1\)'),
        ('num_uniform', 0, r'positive \(got 0\)'),
    ],
)
def test_numbers_need_to_be_in_range(name, value, match):
    with pytest.raises(ValueError, match=f"'{name}' must be {match}"):
        make_mixed(**{name: value})


@pytest.mark.parametrize('name', ['teacher_top', 'student_top'])
@pytest.mark.parametrize('size', [(3, 8), (NUM_USERS, 0), (NUM_USERS,)])
def test_favorites_need_one_row_per_user(name, size):
    sampler, users, positives, _ = make_batch()
    tops = {'teacher_top': make_top(1), 'student_top': make_top(2)}
    tops[name] = torch.zeros(size, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"'{name}' .* \[12, N\], one row per user"):
        mixed_candidates(sampler, users, positives, **tops)
