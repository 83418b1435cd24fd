import numpy as np
import pytest
import torch

from promptmm_pyg.serving import FoldIn, Recommender

HISTORIES = [[1, 4, 2], [0], [5, 5, 3, 6]]


def table(num_items=9, width=4, dtype=torch.double, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(num_items, width, generator=g, dtype=torch.double).to(dtype)


def explicit(x, history, weights, alpha, rho):
    """Least squares on stacked rows, with no closed form of ours in it."""
    x = x.double().numpy()
    width = x.shape[1]
    penalty = alpha * rho * np.trace(x.T @ x) / width
    rows = [np.sqrt(w) * x[i] for i, w in zip(history, weights, strict=True)]
    rows += [np.sqrt(alpha) * row for row in x]
    rows += list(np.sqrt(penalty) * np.eye(width))
    target = [*np.sqrt(weights), *np.zeros(len(x) + width)]
    return np.linalg.lstsq(np.array(rows), np.array(target), rcond=None)[0]


def rows(histories):
    return [torch.tensor(history) for history in histories]


@pytest.mark.parametrize(('alpha', 'rho'), [(0.1, 10.0), (1.0, 0.01), (3.0, 2.0)])
def test_the_vector_solves_the_least_squares_problem(alpha, rho):
    x = table()
    found = FoldIn(x, unseen_weight=alpha, ridge=rho)(rows(HISTORIES))
    for vector, history in zip(found, HISTORIES, strict=True):
        expected = explicit(x, history, np.ones(len(history)), alpha, rho)
        torch.testing.assert_close(vector, torch.from_numpy(expected))


def test_weights_are_those_of_the_least_squares_problem():
    x = table()
    weights = [[0.5, 2.0, 1.0], [7.0], [1.0, 0.1, 3.0, 1.0]]
    found = FoldIn(x)(rows(HISTORIES), [torch.tensor(w) for w in weights])
    for vector, history, w in zip(found, HISTORIES, weights, strict=True):
        expected = explicit(x, history, np.array(w), 0.1, 10.0)
        torch.testing.assert_close(
            vector, torch.from_numpy(expected), rtol=1e-6, atol=1e-8
        )


def test_with_an_endless_ridge_the_direction_is_that_of_the_mean():
    x = table()
    found = FoldIn(x, ridge=1e9)(rows(HISTORIES))
    mean = torch.stack([x[h].mean(0) for h in HISTORIES])
    unit = [x / x.norm(dim=1, keepdim=True) for x in (found, mean)]
    torch.testing.assert_close(unit[0], unit[1])


def test_the_scale_of_the_table_does_not_change_a_score():
    x = table()
    scores = FoldIn(x)(rows(HISTORIES)) @ x.t()
    scaled = FoldIn(1000 * x)(rows(HISTORIES)) @ (1000 * x).t()
    torch.testing.assert_close(scaled, scores)


def test_blocks_of_users_do_not_change_their_vectors(monkeypatch):
    x = table()
    many = rows([[n % 9, (n * 2) % 9] for n in range(7)])
    whole = FoldIn(x)(many)
    monkeypatch.setattr('promptmm_pyg.serving.fold_in._BLOCK', 2 * 4**2)
    monkeypatch.setattr('promptmm_pyg.serving.fold_in._CHUNK', 2)
    weights = [torch.tensor([1.0, 2.0])] * 7
    torch.testing.assert_close(FoldIn(x)(many), whole)
    assert not torch.equal(FoldIn(x)(many, weights), whole)


def test_a_table_of_zeros_gives_zeros():
    assert FoldIn(torch.zeros(3, 2))(rows([[1]])).tolist() == [[0.0, 0.0]]


def test_no_users_give_no_vectors():
    assert FoldIn(table())([]).shape == (0, 4)


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.float])
def test_low_precision_is_solved_in_high(dtype):
    x = table(dtype=dtype)
    found = FoldIn(x)(rows(HISTORIES))
    assert found.dtype == torch.float
    expected = FoldIn(x.double())(rows(HISTORIES)).float()
    torch.testing.assert_close(found, expected)


def test_a_table_need_not_be_contiguous():
    x = table()
    found = FoldIn(x.t().contiguous().t())(rows(HISTORIES))
    torch.testing.assert_close(found, FoldIn(x)(rows(HISTORIES)))


@pytest.mark.parametrize('name', ['unseen_weight', 'ridge'])
@pytest.mark.parametrize('value', [0.0, -1.0, float('nan')])
def test_what_would_make_it_singular_is_refused(name, value):
    with pytest.raises(ValueError, match=f"'{name}' must be positive"):
        FoldIn(table(), **{name: value})


def served(dtype=torch.float):
    x = table(dtype=dtype)
    return Recommender(
        x[:2], x, user_ids=['a', 'b'], item_ids=[f'i{n}' for n in range(9)], seen=None
    )


def named(histories):
    return [[f'i{n}' for n in history] for history in histories]


def test_a_batch_ranks_by_the_vectors_and_leaves_the_history_out():
    model = served()
    ids, scores = model.recommend_from_history(named(HISTORIES), k=5)
    expected = model.fold_in(named(HISTORIES)) @ model.item_x.t()
    for row, history in enumerate(HISTORIES):
        expected[row, history] = -torch.inf
    values, index = expected.sort(dim=1, descending=True)
    assert ids.tolist() == named(index[:, :5].tolist())
    np.testing.assert_allclose(scores, values[:, :5].numpy(), rtol=1e-5, atol=1e-7)


def test_one_history_equals_its_row_of_a_batch():
    model = served()
    batch = model.recommend_from_history(named(HISTORIES), k=12)
    for row, history in enumerate(named(HISTORIES)):
        one = model.recommend_from_history(history, k=12)
        assert one.ids.shape == (12,)
        assert one.ids.tolist() == batch.ids[row].tolist()
    assert batch.ids[1].tolist()[8:] == [None] * 4  # One taken, eight left.


@pytest.mark.parametrize(
    'form', [tuple, np.array, set, iter, lambda ids: dict.fromkeys(ids)]
)
def test_a_history_may_be_any_iterable(form):
    model, ids = served(), ['i1', 'i4', 'i2']
    found = model.recommend_from_history(form(ids), k=3)
    assert found.ids.tolist() == model.recommend_from_history(ids, k=3).ids.tolist()


def test_histories_may_be_rows_of_an_array_or_tensor():
    x = table(dtype=torch.float)
    model = Recommender(x[:1], x, user_ids=[0], item_ids=list(range(9)), seen=None)
    expected = model.recommend_from_history([[1, 4], [2, 3]], k=3).ids.tolist()
    for form in (np.array, torch.tensor):
        found = model.recommend_from_history(form([[1, 4], [2, 3]]), k=3)
        assert found.ids.tolist() == expected
    listed = [torch.tensor([1, 4]), torch.tensor([2, 3])]
    assert model.recommend_from_history(listed, k=3).ids.tolist() == expected
    one = model.recommend_from_history(torch.tensor([1, 4]), k=3)
    assert one.ids.tolist() == expected[0]


def test_one_id_is_a_history_of_one():
    model = served()
    one = model.recommend_from_history('i0', k=3)
    assert one.ids.tolist() == model.recommend_from_history(['i0'], k=3).ids.tolist()


def test_with_seen_items_the_history_comes_back():
    ids, _ = served().recommend_from_history(['i3'], k=9, exclude_seen=False)
    assert sorted(ids) == [f'i{n}' for n in range(9)]


def test_a_repeated_id_counts_twice():
    model = served()
    twice = model.fold_in(['i1', 'i2', 'i2'])
    torch.testing.assert_close(twice, model.fold_in(['i1', 'i2'], weights=[1, 2]))
    assert not torch.allclose(twice, model.fold_in(['i1', 'i2']))


def test_parameters_reach_the_solver():
    model = served()
    # Each call changes one parameter of the one before, which is cached.
    for weight, ridge in [(2.0, 0.5), (2.0, 2.0), (0.5, 2.0)]:
        vector = model.fold_in(['i1', 'i2'], unseen_weight=weight, ridge=ridge)
        solve = FoldIn(model.item_x, unseen_weight=weight, ridge=ridge)
        torch.testing.assert_close(vector, solve(rows([[1, 2]]))[0])
    lists = [
        model.recommend_from_history(['i1', 'i2'], 1, unseen_weight=w).scores.item()
        for w in (0.1, 10.0)
    ]
    assert lists[0] > lists[1]


def test_weights_change_the_ranking():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    model = Recommender(x[:1], x, user_ids=[0], item_ids=[0, 1, 2, 3], seen=None)
    first = model.recommend_from_history([0, 1], k=1, weights=[5.0, 1.0])
    other = model.recommend_from_history([0, 1], k=1, weights=[1.0, 5.0])
    assert first.ids.tolist() == [2]
    assert other.ids.tolist() == [3]
    both = model.recommend_from_history(
        [[0, 1], [0, 1]], k=1, weights=np.array([[5.0, 1.0], [1.0, 5.0]])
    )
    assert both.ids.tolist() == [[2], [3]]


def test_unknown_items_can_be_left_out_with_their_weights():
    model = served()
    found = model.fold_in(
        [['i1', 'new', 'i2'], [True, 'i3']],
        weights=[[1.0, 50.0, 3.0], [1.0, 2.0]],
        unknown='ignore',
    )
    expected = model.fold_in([['i1', 'i2'], ['i3']], weights=[[1.0, 3.0], [2.0]])
    torch.testing.assert_close(found, expected)


def test_allow_and_deny_concern_new_users():
    model = served()
    ids, _ = model.recommend_from_history(['i0'], k=3, allow=['i0', 'i5'])
    assert ids.tolist() == ['i5', None, None]
    ids, _ = model.recommend_from_history(['i0'], k=9, deny=['i5'])
    assert 'i5' not in ids.tolist()


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.double])
def test_any_precision_ranks(dtype):
    model = served(dtype)
    found = model.recommend_from_history(named(HISTORIES), k=4)
    expected = model.fold_in(named(HISTORIES)).double() @ model.item_x.double().t()
    for row, history in enumerate(HISTORIES):
        expected[row, history] = -torch.inf
    index = expected.topk(4, dim=1).indices
    assert found.ids.tolist() == named(index.tolist())


def test_a_known_user_gets_much_the_same_from_the_history(synthetic):
    model, _ = synthetic()
    users = model.user_ids
    taken = model.seen.col.split(model.seen.num_seen.tolist())
    histories = [[model.item_ids[i] for i in items.tolist()] for items in taken]
    known = model.recommend(users, k=10).ids.tolist()
    new = model.recommend_from_history(histories, k=10).ids.tolist()
    shared = [len({*a} & {*b}) / 10 for a, b in zip(known, new, strict=True)]
    # By chance it would be 10 of the 52 that are left.
    assert np.mean(shared) > 0.6


def test_a_user_of_unlike_items_gets_unlike_lists(synthetic):
    model, _ = synthetic()
    first = set(model.recommend('u0', k=8, exclude_seen=False).ids.tolist())
    history = list(first)[:4]
    near = model.recommend_from_history(history, k=4).ids.tolist()
    mirrored = Recommender(
        model.user_x,
        -model.item_x,
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        seen=None,
    )
    # The model with every sign turned has the same inner geometry.
    assert mirrored.recommend_from_history(history, k=4).ids.tolist() == near


@pytest.mark.parametrize('history', [[], (), np.array([]), set()])
def test_an_empty_history_is_refused(history):
    with pytest.raises(ValueError, match=r'at least one item \(got 0 items\)\. For a'):
        served().recommend_from_history(history)


def test_an_empty_history_of_a_batch_is_named():
    with pytest.raises(ValueError, match=r"'histories\[1\]' must contain at least"):
        served().recommend_from_history([['i1'], []])
    with pytest.raises(ValueError, match=r'one known item \(got 2 items\)'):
        served().recommend_from_history(['x', 'y'], unknown='ignore')


def test_an_unknown_item_is_named_with_the_closest_and_a_way_out():
    message = r"'histories\[1\]'.*got 'i77'\).*closest.*Pass unknown='ignore'"
    with pytest.raises(ValueError, match=message):
        served().recommend_from_history([['i1'], ['i77']])


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ([1.0], r'one number for each item.*\(got \[1\] for \[2\]\)'),
        (1.0, r'one number for each item.*\(got \[1\] for \[2\]\)'),
        ([1.0, 0.0], r'positive finite numbers \(got 0.0\)'),
        ([1.0, -2.0], r'positive finite numbers \(got -2.0\)'),
        ([1.0, float('nan')], r'positive finite numbers \(got nan\)'),
        ([float('inf'), 1.0], r'positive finite numbers \(got inf\)'),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=f"'weights' must contain {message}"):
        served().recommend_from_history(['i1', 'i2'], weights=weights)


def test_other_mistakes_are_refused():
    model = served()
    with pytest.raises(TypeError, match=r"'histories' must.*\(got 'float'\)"):
        model.recommend_from_history(1.5)
    with pytest.raises(ValueError, match=r"not both \(got 'i2' beside a sequence\)"):
        model.recommend_from_history([['i1'], 'i2'])
    with pytest.raises(ValueError, match=r"'unknown' must be one of"):
        model.recommend_from_history(['i1'], unknown='skip')
    with pytest.raises(ValueError, match="'k' must be positive"):
        model.recommend_from_history(['i1'], k=0)
    with pytest.raises(ValueError, match=r"'allow' and 'deny'.*\(got both\)"):
        model.recommend_from_history(['i1'], allow=['i1'], deny=['i2'])


def test_the_error_of_an_unknown_user_names_the_fix():
    with pytest.raises(ValueError, match="'recommend_from_history' ranks by the items"):
        served().recommend('zzz')
