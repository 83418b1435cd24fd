import math

import numpy as np
import pytest
import torch

from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving import FeatureMapper, Recommender
from promptmm_pyg.serving._feature_fit import Ridge, mean_gain


def fit(model, features, **options):
    return FeatureMapper.fit(
        features, model.item_x, user_x=model.user_x, seen=model.seen, **options
    )


def data(num_rows, width, channels=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, width, generator=g)
    return x + 2.0, torch.randn(num_rows, channels, generator=g) - 1.0


def explicit(x, y, penalty):
    """Least squares on stacked rows, the intercept free."""
    x, y = x.double().numpy(), y.double().numpy()
    centered = x - x.mean(0)
    # Eigenvalues that are not zero by construction.
    ridge = penalty * np.trace(centered.T @ centered) / min(x.shape)
    zeros = np.zeros((x.shape[1], 1))
    stacked = np.block(
        [[np.ones((len(x), 1)), x], [zeros, math.sqrt(ridge) * np.eye(x.shape[1])]]
    )
    target = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
    found = np.linalg.lstsq(stacked, target, rcond=None)[0]
    return torch.from_numpy(found[1:]).float(), torch.from_numpy(found[0]).float()


@pytest.mark.parametrize('shape', [(30, 5), (6, 12), (8, 8)])
@pytest.mark.parametrize('penalty', [0.01, 1.0, 100.0])
def test_ridge_solves_the_least_squares_problem(shape, penalty, monkeypatch):
    monkeypatch.setattr('promptmm_pyg.serving._feature_fit._CHUNK', 7)
    x, y = data(*shape)
    weight, bias = Ridge(x, y).solve(penalty)
    expected = explicit(x, y, penalty)
    torch.testing.assert_close(weight, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bias, expected[1], rtol=1e-4, atol=1e-5)


def test_constant_inputs_leave_the_mean():
    x, y = torch.full((5, 2), 3.0), data(5, 2)[1]
    weight, bias = Ridge(x, y).solve(1.0)
    assert weight.tolist() == torch.zeros(2, 3).tolist()
    torch.testing.assert_close(bias, y.mean(0))


def naive_gain(user_x, item_x, edges, items):
    gains = []
    for user, item in edges:
        if item not in items:
            continue
        seen = {i for u, i in edges if u == user}
        scores = [float(user_x[user] @ x) for x in item_x]
        better = sum(
            scores[i] > scores[item] for i in range(len(scores)) if i not in seen
        )
        equal = sum(
            scores[i] == scores[item] for i in range(len(scores)) if i not in seen
        )
        gains.append(1 / math.log2(2 + better + equal / 2))
    return sum(gains) / len(gains)


def integers(seed=0):
    g = torch.Generator().manual_seed(seed)
    user_x = torch.randint(-2, 3, (7, 2), generator=g).float()
    item_x = torch.randint(-2, 3, (11, 2), generator=g).float()
    edges = torch.randint(0, 7, (2, 25), generator=g)
    edges[1] = torch.randint(0, 11, (25,), generator=g)
    return user_x, item_x, edges.unique(dim=1)


@pytest.mark.parametrize('block', [1, 2**24])
def test_the_gain_equals_a_naive_loop_with_ties(block, monkeypatch):
    monkeypatch.setattr('promptmm_pyg.serving._feature_fit._BLOCK', block)
    user_x, item_x, edges = integers()
    seen = SeenItems.from_edge_index(edges, 7, 11)
    items = torch.tensor([0, 3, 4, 8])
    found = mean_gain(user_x, item_x, seen, items, seed=0)
    expected = naive_gain(user_x, item_x, edges.t().tolist(), set(items.tolist()))
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_gain_of_a_draw_is_that_of_some_interactions(monkeypatch):
    monkeypatch.setattr('promptmm_pyg.serving._feature_fit._MAX_PAIRS', 1)
    user_x, item_x, edges = integers()
    seen = SeenItems.from_edge_index(edges, 7, 11)
    each = {
        round(
            naive_gain(
                user_x,
                item_x,
                [(u, j) for u, j in edges.t().tolist() if u == user],
                {i},
            ),
            5,
        )
        for user, i in edges.t().tolist()
    }
    found = mean_gain(user_x, item_x, seen, torch.arange(11), seed=3)
    assert round(found, 5) in each


def test_items_that_were_left_out_are_predicted(synthetic):
    model, features = synthetic(noise=0.0)
    known = torch.arange(60) < 50
    seen = model.seen
    user = torch.repeat_interleave(seen.num_seen)
    kept = known[seen.col]
    path = FeatureMapper.fit(
        features,
        torch.where(known[:, None], model.item_x, 99.0),  # Nothing to be learned here.
        user_x=model.user_x,
        seen=torch.stack([user[kept], seen.col[kept]]),
        penalties=[1e-6],
    )
    found = path({name: x[50:] for name, x in features.items()})
    # Exactly linear, so that all that is left is the ridge.
    torch.testing.assert_close(found, model.item_x[50:], rtol=0.01, atol=0.01)


def test_the_penalty_ranks_held_out_items_best(synthetic):
    model, features = synthetic(noise=2.0)
    penalties = [0.001, 0.1, 10.0, 1000.0]
    best = fit(model, features, penalties=penalties).maps[0]
    alone = [fit(model, features, penalties=[p]).maps[0].gain for p in penalties]
    assert len(set(alone)) > 1
    assert best.gain == max(alone)
    assert best.penalty == penalties[alone.index(max(alone))]


def test_the_gain_is_that_of_items_the_map_was_not_fitted_on(synthetic):
    model, features = synthetic()
    noise = torch.randn(60, 300, generator=torch.Generator().manual_seed(5))
    # In sample a map from 300 columns of noise to 60 rows is perfect.
    part = fit(model, {'noise': noise}, penalties=[1e-6]).maps[0]
    real = fit(model, features).maps[0]
    assert part.gain < 0.5 * real.gain
    assert real.gain > 1.2 * real.baseline


def test_of_equal_penalties_the_largest_is_chosen(synthetic):
    model, _ = synthetic()
    nothing = {'text': torch.ones(60, 3)}
    part = fit(model, nothing, penalties=[0.1, 10.0, 1.0]).maps[0]
    assert part.penalty == 10.0
    assert part.gain == pytest.approx(part.baseline)


def test_every_set_of_modalities_has_a_map(synthetic):
    model, features = synthetic()
    names = [part.modalities for part in fit(model, features).maps]
    assert names == [('text', 'image'), ('text',), ('image',)]


def test_many_modalities_have_all_all_but_one_and_each(synthetic):
    model, features = synthetic()
    x = features['text']
    many = dict.fromkeys('abcd', x[:, :2])
    sizes = [len(part.modalities) for part in fit(model, many).maps]
    assert sizes == [4] + [3] * 4 + [1] * 4
    path = fit(model, many)
    mask = {name: torch.tensor([name in 'ab']) for name in 'abcd'}
    rows = {name: value[:1] for name, value in many.items()}
    # No map for these two: one of its parts serves.
    torch.testing.assert_close(path(rows, mask), path({'a': rows['a']}))


def test_a_missing_modality_is_not_an_average_one(synthetic):
    model, features = synthetic(noise=0.0)
    mask = {'image': torch.arange(60) % 3 > 0}
    path = fit(model, features, modality_mask=mask)
    rows = {name: x[:4] for name, x in features.items()}
    found = path(rows, {'image': torch.tensor([True, False, True, False])})
    whole, text = path(rows), path({'text': rows['text']})
    torch.testing.assert_close(
        found, torch.stack([whole[0], text[1], whole[2], text[3]])
    )
    alone = fit(model, {'text': features['text']})
    torch.testing.assert_close(text, alone({'text': rows['text']}))


def test_absent_rows_are_never_read(synthetic):
    model, features = synthetic()
    mask = {'image': torch.arange(60) % 3 > 0}
    broken = {**features, 'image': features['image'].clone()}
    broken['image'][~mask['image']] = float('nan')
    first, second = (fit(model, x, modality_mask=mask) for x in (features, broken))
    rows = {name: x[:3] for name, x in broken.items()}
    given = {'image': mask['image'][:3]}
    torch.testing.assert_close(first(rows, given), second(rows, given))


def test_items_without_interactions_are_not_learned_from(synthetic):
    model, features = synthetic()
    cold = torch.bincount(model.seen.col, minlength=60) == 0
    assert cold.any()
    item_x = model.item_x.masked_fill(cold[:, None], 1e3)
    x = {
        name: value.masked_fill(cold[:, None], -50.0)
        for name, value in features.items()
    }
    options = {'user_x': model.user_x, 'seen': model.seen, 'penalties': [1.0]}
    rows = {name: value[~cold] for name, value in features.items()}
    first = FeatureMapper.fit(features, model.item_x, **options)(rows)
    torch.testing.assert_close(FeatureMapper.fit(x, item_x, **options)(rows), first)


def test_the_unit_of_a_feature_does_not_matter(synthetic):
    model, features = synthetic()
    other = {'text': features['text'] * 1000 - 7, 'image': features['image']}
    first, second = fit(model, features)(features), fit(model, other)(other)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_the_seed_chooses_what_is_held_out(synthetic):
    model, features = synthetic(noise=1.0)
    gains = [fit(model, features, seed=s).maps[0].gain for s in (0, 0, 1)]
    assert gains[0] == gains[1] != gains[2]


def test_half_precision_and_arrays_are_accepted(synthetic):
    model, features = synthetic()
    path = fit(model, features)
    rows = {name: x[:5] for name, x in features.items()}
    expected = path(rows)
    assert expected.dtype == torch.float
    torch.testing.assert_close(path({k: x.numpy() for k, x in rows.items()}), expected)
    rough = path({name: x.half() for name, x in rows.items()})
    torch.testing.assert_close(rough, expected, rtol=0.2, atol=0.2)


def test_state_comes_back_as_it_went(synthetic):
    model, features = synthetic()
    path = fit(model, features)
    again = FeatureMapper.from_state(*path.state())
    torch.testing.assert_close(again(features), path(features))
    assert again.maps[0].penalty == path.maps[0].penalty
    assert str(again) == 'FeatureMapper({text: 6, image: 8} -> 4)'


def test_a_state_that_does_not_fit_is_refused(synthetic):
    model, features = synthetic()
    tensors, rest = fit(model, features).state()
    bias = tensors['feature_mapper.bias.0']
    for changed in (
        {'feature_mapper.weight.0': torch.zeros(3, 4)},
        {'feature_mapper.scale.1': torch.zeros(9)},
        {'feature_mapper.bias.1': bias[:1]},
        {'feature_mapper.bias.0': bias.double()},
        {'feature_mapper.bias.0': bias * float('nan')},
    ):
        with pytest.raises(ValueError, match='mapper do not match'):
            FeatureMapper.from_state({**tensors, **changed}, rest)
    missing = {key: x for key, x in tensors.items() if key != 'feature_mapper.bias.2'}
    for state in ((missing, rest), (tensors, {}), (tensors, None), (tensors, 3)):
        with pytest.raises(ValueError, match='a part of the feature mapper is missing'):
            FeatureMapper.from_state(*state)
    with pytest.raises(ValueError, match='mapper do not match'):
        FeatureMapper.from_state(tensors, {**rest, 'maps': []})


def test_what_does_not_fit_is_refused(synthetic):
    model, features = synthetic()
    text = features['text']
    with pytest.raises(ValueError, match="'modality_x' must contain at least one"):
        fit(model, {})
    with pytest.raises(
        ValueError, match=r"'modality_x\['text'\]'.*60 items \(got 59\)"
    ):
        fit(model, {'text': text[:59]})
    with pytest.raises(ValueError, match=r'floating point matrix.*torch.int64'):
        fit(model, {'text': text.long()})
    with pytest.raises(ValueError, match=r"row 2\)\. Mark absent.*'modality_mask'"):
        fit(model, {'text': text.index_fill(0, torch.tensor([2]), float('inf'))})
    with pytest.raises(ValueError, match=r"'modality_mask' must.*only \(got \['x'\]\)"):
        fit(model, features, modality_mask={'x': torch.ones(60).bool()})
    with pytest.raises(ValueError, match=r"'modality_mask\['text'\]'.*\[60\]"):
        fit(model, features, modality_mask={'text': torch.ones(60)})
    with pytest.raises(ValueError, match="'penalties' must contain at least one"):
        fit(model, features, penalties=[])
    with pytest.raises(ValueError, match=r"'penalties' must be positive \(got 0"):
        fit(model, features, penalties=[1.0, 0.0])
    with pytest.raises(ValueError, match=r"'held_out'.*\(0, 1\) \(got 1.0\)"):
        fit(model, features, held_out=1.0)
    nine = torch.arange(60) < 9
    with pytest.raises(ValueError, match='a modality of at least 10 items with'):
        fit(model, {'text': text}, modality_mask={'text': nine})
    seen = SeenItems(model.seen.rowptr, model.seen.col.clamp_max(58), 59)
    with pytest.raises(ValueError, match=r"'seen'.*\(got 40 x 59 instead of 40 x 60\)"):
        FeatureMapper.fit(features, model.item_x, user_x=model.user_x, seen=seen)


def test_rows_that_do_not_fit_the_path_are_refused(synthetic):
    model, features = synthetic()
    path = fit(model, features)
    with pytest.raises(ValueError, match=r'6 channels, as in training \(got 7\)'):
        path({'text': torch.ones(2, 7)})
    with pytest.raises(
        ValueError, match=r"modalities of \['image', 'text'\] only \(got \['so"
    ):
        path({'sound': torch.ones(2, 7)})
    with pytest.raises(ValueError, match=r"equally many rows \(got \{'text': 2, 'ima"):
        path({'text': torch.ones(2, 6), 'image': torch.ones(1, 8)})
    with pytest.raises(ValueError, match=r'none in row 1, 1 such rows in all'):
        path({'text': torch.ones(2, 6)}, {'text': torch.tensor([True, False])})


def test_new_items_are_ranked_among_the_others(synthetic):
    model, features = synthetic(noise=0.0)
    model.fit_feature_mapper(features)
    model.titles[100] = 'The first'
    user_x = model.user_x[:1]
    # The copy of a user's favorite is among the favorites.
    best = int((user_x @ model.item_x.t()).argmax())
    before = model.recommend(model.user_ids, k=60)
    model.add_items(
        ['copy', 7],
        {name: x[[best, 0]] for name, x in features.items()},
        titles={'copy': 'A copy'},
    )
    assert model.num_items == 62
    assert model.num_added == 2
    assert model.item_ids[60:] == ['copy', 7]
    assert model.titles == {100: 'The first', 'copy': 'A copy'}
    after = model.recommend(model.user_ids, k=62)
    assert after.ids[0].tolist().index('copy') < 2
    old = [[i for i in row if i not in ('copy', 7)] for row in after.ids.tolist()]
    assert [row[:52] for row in old] == [row[:52] for row in before.ids.tolist()]
    assert model.recommend('u0', k=1, allow=['copy']).ids.tolist() == ['copy']


def test_new_items_are_known_everywhere(synthetic):
    model, features = synthetic(noise=0.0)
    model.fit_feature_mapper(features)
    model.similar_items(100, k=1)  # Keeps tables of the old size.
    model.recommend_from_history([100], k=1)
    model.add_items('copy', {name: x[:1] for name, x in features.items()})
    assert model.similar_items(100, k=1).ids.tolist() == ['copy']
    # Beside the original in every list, and as good a history.
    first = model.recommend_from_history([100], k=61, exclude_seen=False)
    places = [first.ids.tolist().index(raw) for raw in (100, 'copy')]
    assert abs(places[0] - places[1]) == 1
    other = model.recommend_from_history('copy', k=61, exclude_seen=False)
    np.testing.assert_allclose(other.scores, first.scores, rtol=0.1, atol=1e-3)
    torch.testing.assert_close(
        model.fold_in('copy'),
        Recommender(
            model.user_x,
            model.item_x,
            user_ids=model.user_ids,
            item_ids=model.item_ids,
            seen=None,
        ).fold_in('copy'),
    )


def test_new_items_take_the_precision_of_the_table(synthetic):
    model, features = synthetic()
    half = Recommender(
        model.user_x.half(),
        model.item_x.half(),
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        seen=model.seen,
        feature_mapper=fit(model, features),
    )
    half.add_items([1, 2], {'text': features['text'][:2].numpy()})
    assert half.item_x.dtype == torch.half
    assert half.recommend('u1', k=62).ids.shape == (62,)


def test_items_are_added_whole_or_not_at_all(synthetic):
    model, features = synthetic()
    with pytest.raises(
        ValueError, match=r"feature mapper.*Fit it with 'fit_feature_mapper'"
    ):
        model.add_items([1], {'text': features['text'][:1]})
    model.fit_feature_mapper(features)
    two = {name: x[:2] for name, x in features.items()}
    for ids, message in (
        ([1, 100], r"'ids'.*not in the catalogue \(got 100, 1 known in all\)"),
        ([1, 1], r"'ids' must be unique \(got 1 twice\)"),
        ([1], r"'ids' must contain one id for each of 2 rows.*\(got 1\)"),
        ([1, 2.5], r"'ids' must contain strings or integers \(got 2.5"),
    ):
        with pytest.raises(ValueError, match=message):
            model.add_items(ids, two)
    with pytest.raises(ValueError, match=r"'titles' must contain known ids \(got 3"):
        model.add_items([1, 2], two, titles={3: 'x'})
    with pytest.raises(ValueError, match='8 channels'):
        model.add_items([1, 2], {'image': two['text']})
    with pytest.raises(ValueError, match='none in row 0'):
        model.add_items([1], {'text': two['text'][:1]}, modality_mask={'text': [False]})
    assert model.num_items == len(model.item_ids) == model.seen.num_items == 60
    assert model.num_added == 0


def test_a_path_of_another_width_is_refused(synthetic):
    model, features = synthetic()
    other = synthetic(channels=3)[0]
    with pytest.raises(ValueError, match=r"'feature_mapper'.*\(got 3 instead of 4\)"):
        Recommender(
            model.user_x,
            model.item_x,
            user_ids=model.user_ids,
            item_ids=model.item_ids,
            seen=None,
            feature_mapper=fit(other, features),
        )
