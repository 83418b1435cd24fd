"""Exclusions and candidates of each user, given pairs, and unknown ids."""

import numpy as np
import pytest
import torch

from promptmm_pyg.ranking import SeenItems, rank_candidates, rank_items, score_pairs
from promptmm_pyg.serving import Recommender
from promptmm_pyg.serving.exports import TopItems

USERS = [f'u{number}' for number in range(6)]
ITEMS = list(range(100, 109))
SEEN = {(0, 1), (0, 2), (3, 8)}


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    return Recommender(
        torch.randn(6, 3, generator=generator),
        torch.randn(9, 3, generator=generator),
        user_ids=USERS,
        item_ids=ITEMS,
        seen=torch.tensor(sorted(SEEN)).t(),
    )


def expected(model, user, k, admissible):
    """The best admissible items, one by one."""
    scores = (model.item_x * model.user_x[USERS.index(user)]).sum(1).tolist()
    order = sorted(range(9), key=lambda row: (-scores[row], row))
    ids = [ITEMS[row] for row in order if ITEMS[row] in admissible]
    return (ids + [None] * k)[:k]


def known(user):
    return {ITEMS[item] for row, item in SEEN if USERS[row] == user}


EXCLUDE = {'u0': [103, 104], 'u5': [100]}
PAIRS = [('u0', 103), ('u0', 104), ('u5', 100)]


@pytest.mark.parametrize(
    'exclude', [EXCLUDE, PAIRS, np.array(PAIRS, dtype=object), [list(x) for x in PAIRS]]
)
@pytest.mark.parametrize('exclude_seen', [True, False])
def test_exclusions_concern_their_user(model, exclude, exclude_seen):
    users = ['u5', 'u0', 'u0', 'u3']
    lists = model.recommend(users, 9, exclude=exclude, exclude_seen=exclude_seen)
    for user, ids in zip(users, lists.ids.tolist(), strict=True):
        rest = set(ITEMS) - set(EXCLUDE.get(user, ()))
        rest -= known(user) if exclude_seen else set()
        assert ids == expected(model, user, 9, rest)


def test_exclusions_join_all_other_options(model):
    options = {'exclude': EXCLUDE, 'deny': [105, 106]}
    ids = model.recommend('u0', 9, **options).ids.tolist()
    assert ids == expected(model, 'u0', 9, {100, 107, 108})
    limited = model.recommend('u0', 9, memory_limit='1MiB', **options)
    assert limited.ids.tolist() == ids
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    index = model.index_items(num_lists=2, nprobe=2)
    assert model.recommend('u0', 9, index=index, **options).ids.tolist() == ids


CANDIDATES = {'u0': [108, 100, 101, 104, 104], 'u3': [108]}


@pytest.mark.parametrize('exclude_seen', [True, False])
def test_only_candidates_are_recommended(model, exclude_seen):
    users = ['u3', 'u0', 'u1', 'u0']
    lists = model.recommend(
        users, 4, candidates=CANDIDATES, exclude_seen=exclude_seen, deny=[107]
    )
    for user, ids in zip(users, lists.ids.tolist(), strict=True):
        rest = set(CANDIDATES.get(user, ()))
        rest -= known(user) if exclude_seen else set()
        assert ids == expected(model, user, 4, rest)
    for user, ids, scores in zip(users, lists.ids, lists.scores, strict=True):
        inside = [x for x in ids if x is not None]
        np.testing.assert_allclose(scores[: len(inside)], model.score(user, inside))
        assert (scores[len(inside) :] == -np.inf).all()


def test_candidates_join_exclusions_and_lists(model):
    options = {'candidates': CANDIDATES, 'exclude_seen': False}
    ids = model.recommend('u0', 4, exclude={'u0': [100]}, **options).ids.tolist()
    assert ids == expected(model, 'u0', 4, {101, 104, 108})
    ids = model.recommend('u0', 4, allow=[100, 101, 102], **options).ids.tolist()
    assert ids == expected(model, 'u0', 4, {100, 101})


def test_candidates_are_scored_alone(model):
    index = 'index'
    for options in ({'memory_limit': '1GiB'}, {'index': index}):
        with pytest.raises(ValueError, match="'candidates' must be given without"):
            model.recommend('u0', candidates=CANDIDATES, **options)


@pytest.mark.parametrize('pairs', ['u0', [('u0', 103, 1)], ['u0', 103], [{}]])
def test_pairs_are_two_ids_each(model, pairs):
    with pytest.raises(ValueError, match="'exclude' must contain item ids by user id"):
        model.recommend('u0', exclude=pairs)


def test_candidates_of_equal_scores_are_in_the_order_of_items():
    x = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]])
    users = torch.tensor([1, 1])
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5)).t()
    candidates = SeenItems.from_edge_index(every, 5, 5)
    seen = SeenItems.from_edge_index(torch.tensor([[1], [2]]), 5, 5)
    mask = torch.tensor([True, True, True, True, False])
    for options in ({}, {'seen': seen}):
        first = rank_candidates(x, x, users, 3, candidates, mask=mask, **options)
        second = rank_items((x, x), users, 3, candidates=mask, **options)
        assert first.item_index.tolist() == second.item_index.tolist()
        assert first.scores.tolist() == second.scores.tolist()


def test_scores_are_inner_products_in_single_precision(monkeypatch):
    monkeypatch.setattr('promptmm_pyg.ranking.lists._BLOCK', 6)  # Two rows.
    generator = torch.Generator().manual_seed(0)
    user_x, item_x = (torch.randn(n, 3, generator=generator).half() for n in (4, 7))
    users, items = torch.tensor([0, 3, 3, 1, 0]), torch.tensor([6, 0, 6, 2, 2])
    scores = score_pairs(user_x, item_x, users, items)
    product = user_x.float() @ item_x.float().t()
    assert scores.dtype == torch.float
    torch.testing.assert_close(scores, product[users, items])
    with pytest.raises(ValueError, match="'items' must contain indices below 7"):
        score_pairs(user_x, item_x, users, items + 1)


def test_one_id_is_scored_with_each_of_the_others(model):
    scores = model.user_x @ model.item_x.t()
    np.testing.assert_allclose(model.score('u2', [108, 100]), scores[2, [8, 0]])
    np.testing.assert_allclose(model.score(['u2', 'u0'], 103), scores[[2, 0], 3])
    np.testing.assert_allclose(
        model.score(['u2', 'u0'], [103, 104]), scores[[2, 0], [3, 4]]
    )
    assert model.score('u2', 103).shape == ()
    assert model.score([], []).tolist() == []
    with pytest.raises(ValueError, match=r'must have the same length \(got 2 and 3\)'):
        model.score(['u2', 'u0'], [100, 101, 102])


def test_unknown_ids_are_ignored_if_wanted(model):
    ignore = {'unknown': 'ignore'}
    lists = model.recommend(['u0', 'nobody', 'u1'], 3, **ignore)
    exact = model.recommend(['u0', 'u1'], 3)
    assert lists.ids[[0, 2]].tolist() == exact.ids.tolist()
    assert lists.ids[1].tolist() == [None] * 3
    assert lists.scores[1].tolist() == [-np.inf] * 3
    assert model.recommend('nobody', 2, **ignore).ids.tolist() == [None, None]
    for name, ids in (('deny', [100, 7]), ('allow', [7, 100, 101])):
        first = model.recommend('u1', 9, **{name: ids}, **ignore)
        second = model.recommend('u1', 9, **{name: [x for x in ids if x != 7]})
        assert first.ids.tolist() == second.ids.tolist()
    pairs = [('u1', 7), ('nobody', 100), ('u1', 100)]
    for name in ('exclude', 'candidates'):
        first = model.recommend('u1', 9, **{name: pairs}, **ignore)
        second = model.recommend('u1', 9, **{name: pairs[2:]})
        assert first.ids.tolist() == second.ids.tolist()
    assert model.recommend('u1', 2, allow=[7], **ignore).ids.tolist() == [None, None]
    assert model.similar_items([7, 100], 1, **ignore).ids[0].tolist() == [None]
    scores = model.score(['u1', 'nobody', 'u1'], [100, 100, 7], **ignore)
    assert np.isnan(scores).tolist() == [False, True, True]
    first = model.recommend_from_history([100, 7], 3, deny=[8], **ignore)
    assert first.ids.tolist() == model.recommend_from_history([100], 3).ids.tolist()


@pytest.mark.parametrize(
    'options',
    [
        {'allow': [7]},
        {'deny': [7]},
        {'exclude': {'u0': [7]}},
        {'candidates': [('nobody', 100)]},
        {'users': 'nobody'},
    ],
)
def test_unknown_ids_raise_by_default(model, options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"'{name}' must contain known ids"):
        model.recommend(**{'users': 'u0', **options})


def test_similar_items_are_filtered_too(model):
    full = model.similar_items(100, 9).ids.tolist()
    ids = model.similar_items(100, 9, deny=[full[0]]).ids.tolist()
    assert ids == [*full[1:8], None, None]
    few = model.similar_items(100, 2, allow=full[3:6], memory_limit='1MiB')
    assert few.ids.tolist() == full[3:5]


@pytest.mark.parametrize('k', [10**9, 10_001])
def test_a_length_that_would_fill_memory_is_refused(model, k):
    for call in (
        lambda: model.recommend(USERS, k),
        lambda: model.similar_items(100, k),
        lambda: model.recommend_from_history([100], k),
    ):
        with pytest.raises(ValueError, match=r"'k' must be at most 10000: there are 9"):
            call()


@pytest.mark.parametrize('k', [2.0, '2', True, None])
def test_a_length_is_an_integer(model, k):
    with pytest.raises(TypeError, match="'k' must be an integer"):
        model.recommend('u0', k)


def test_tables_are_tensors_or_arrays():
    x = np.eye(3, dtype=np.float32)
    options = {'user_ids': [1, 2, 3], 'item_ids': [1, 2, 3]}
    model = Recommender(x, x, seen=np.array([[0], [0]]), **options)
    assert model.recommend(1, 3).ids.tolist() == [2, 3, None]
    x[:] = 0  # Copied.
    assert model.recommend(2, 1).ids.tolist() == [2]
    with pytest.raises(TypeError, match=r"'user_x' must be a tensor or an array \(got"):
        Recommender([[1.0]], torch.eye(1), user_ids=[1], item_ids=[1], seen=None)
    with pytest.raises(ValueError, match="'item_x' must be a floating point matrix"):
        Recommender(x, x.astype(int), seen=None, **options)
    with pytest.raises(ValueError, match="'item_x' must be a floating point matrix"):
        Recommender(x, x.astype(object), seen=None, **options)
    with pytest.raises(TypeError, match=r"'seen' must be edges \[2, E\], SeenItems or"):
        Recommender(x, x, seen=[(0, 1)], **options)


@pytest.mark.parametrize('users', [None, 1.5, b'u0'])
def test_what_is_no_id_is_a_type_error(model, users):
    for call in (
        lambda: model.recommend(users),
        lambda: model.score(users, 100),
        lambda: model.recommend('u0', deny=users) if users else model.recommend(users),
    ):
        with pytest.raises(
            TypeError, match=r'must be an id or a sequence of ids \(got'
        ):
            call()


@pytest.mark.parametrize('value', [torch.ones(3), 'no', None, 1])
def test_exclude_seen_must_be_a_bool(model, value):
    calls = (
        lambda: model.recommend(USERS[:1], 2, exclude_seen=value),
        lambda: model.recommend_from_history([ITEMS[:1]], 2, exclude_seen=value),
        lambda: TopItems.from_recommender(model, 2, exclude_seen=value),
    )
    for call in calls:
        with pytest.raises(TypeError, match="'exclude_seen' must be True or False"):
            call()
