import pytest
import torch

from promptmm_pyg.data import Split, build_graph
from promptmm_pyg.distillation import distill, ensemble_targets, promptmm_losses
from promptmm_pyg.distillation.ensemble import score_std
from promptmm_pyg.targets import SoftTargets, load_targets, save_targets, topk_targets
from promptmm_pyg.training import TrainingConfig
from tests.training.setting import make_split, make_student

USERS, ITEMS = 7, 9


def make_targets(seed, width, *, users=USERS, items=ITEMS, dtype=torch.double):
    g = torch.Generator().manual_seed(seed)
    return SoftTargets(
        {
            'user': torch.randn(users, width, generator=g, dtype=dtype) + 0.3,
            'item': 2 * torch.randn(items, width, generator=g, dtype=dtype) - 0.5,
        },
        {},
    )


def make_teachers():
    return {'wide': make_targets(0, 5), 'narrow': make_targets(1, 2)}


def with_views(targets, width):
    views = make_targets(9, width, users=targets.x_dict['user'].size(0)).x_dict
    return targets._replace(modality_x_dict={'text': views})


def scores(targets):
    return targets.x_dict['user'] @ targets.x_dict['item'].t()


def spread(dense):
    return dense.var(dim=1, correction=0).mean().sqrt()


def standardized(targets):
    dense = scores(targets)
    return dense / spread(dense)


def make_graph():
    edge_index = torch.tensor([[0, 0, 1, 3, 6], [0, 8, 4, 4, 2]])
    return build_graph(edge_index, num_users=USERS, num_items=ITEMS)


def test_the_spread_is_that_of_the_dense_scores_within_a_user():
    x_dict = make_targets(0, 5).x_dict
    dense = x_dict['user'] @ x_dict['item'].t()
    assert score_std('a', x_dict) == pytest.approx(float(spread(dense)), rel=1e-12)


def test_a_level_of_a_users_own_changes_no_spread():
    # It must neither count nor swallow the digits of what differs.
    x_dict = make_targets(0, 5).x_dict
    expected = score_std('a', x_dict)
    level = 1e5 * torch.arange(USERS, dtype=torch.double).unsqueeze(1)
    x_dict['user'] = torch.cat([x_dict['user'], level], dim=1)
    x_dict['item'] = torch.cat([x_dict['item'], torch.ones(ITEMS, 1)], dim=1)
    assert score_std('a', x_dict) == pytest.approx(expected, rel=1e-12)


def test_scores_are_the_weighted_sum_of_the_standardized_ones():
    teachers = make_teachers()
    mixed = ensemble_targets(teachers, {'narrow': 0.3, 'wide': 1.5})
    expected = 1.5 * standardized(teachers['wide'])
    expected += 0.3 * standardized(teachers['narrow'])
    torch.testing.assert_close(scores(mixed), expected)
    assert mixed.x_dict['user'].shape == (USERS, 7)
    assert mixed.x_dict['item'].shape == (ITEMS, 7)


def test_how_a_teacher_shares_its_scale_between_users_and_items_does_not_matter():
    teachers = make_teachers()
    x_dict = teachers['wide'].x_dict
    other = {'user': 100 * x_dict['user'], 'item': x_dict['item'] / 7}
    weights = {'wide': 1.0, 'narrow': 2.0}
    mixed = ensemble_targets(teachers, weights)
    torch.testing.assert_close(
        ensemble_targets({**teachers, 'wide': SoftTargets(other, {})}, weights).x_dict,
        mixed.x_dict,
    )
    for part in (slice(0, 5), slice(5, 7)):
        user_x, item_x = (mixed.x_dict[key][:, part] for key in ('user', 'item'))
        torch.testing.assert_close(user_x.square().mean(), item_x.square().mean())


def test_columns_stand_in_the_order_of_the_teachers():
    teachers = make_teachers()
    a = ensemble_targets(teachers, {'wide': 0.4, 'narrow': 0.6})
    b = ensemble_targets(teachers, {'narrow': 0.6, 'wide': 0.4})
    assert torch.equal(a.x_dict['user'], b.x_dict['user'])


def test_a_teacher_of_weight_zero_is_left_out_with_its_modalities():
    teachers = make_teachers()
    teachers['narrow'] = with_views(teachers['narrow'], 3)
    mixed = ensemble_targets(teachers, {'wide': 1.0, 'narrow': 0.0})
    torch.testing.assert_close(scores(mixed), standardized(teachers['wide']))
    assert mixed.x_dict['user'].size(1) == 5
    assert mixed.modality_x_dict == {}


def test_a_left_out_teacher_may_have_nothing_to_say():
    teachers = make_teachers()
    teachers['narrow'].x_dict['user'].zero_()
    ensemble_targets(teachers, {'wide': 1.0, 'narrow': 0.0})


def test_modality_vectors_are_carried_under_both_names():
    teachers = {k: with_views(x, 3) for k, x in make_teachers().items()}
    mixed = ensemble_targets(teachers, {'wide': 1.0, 'narrow': 1.0})
    assert list(mixed.modality_x_dict) == ['wide/text', 'narrow/text']
    for name, target in teachers.items():
        selected = mixed.modality_x_dict[f'{name}/text']
        assert torch.equal(selected['item'], target.modality_x_dict['text']['item'])


def test_the_best_items_are_ranked_without_training_items():
    teachers, train = make_teachers(), make_graph()
    teachers['wide'] = teachers['wide']._replace(
        top=topk_targets(teachers['wide'], train, 4)
    )
    weights = {'wide': 1.0, 'narrow': 2.0}
    assert ensemble_targets(teachers, weights).top is None
    mixed = ensemble_targets(teachers, weights, train, top_k=4)
    expected = topk_targets(mixed, train, 4)
    assert torch.equal(mixed.top.item_index, expected.item_index)
    assert torch.equal(mixed.top.scores, expected.scores)
    assert 0 not in mixed.top.item_index[0]


def test_no_more_than_the_catalogue_is_ranked():
    mixed = ensemble_targets(
        make_teachers(), {'wide': 1.0, 'narrow': 2.0}, make_graph()
    )
    assert mixed.top.item_index.shape == (USERS, ITEMS)


def test_tables_keep_their_type_and_the_teachers_are_left_alone():
    teachers = {
        'a': make_targets(0, 3, dtype=torch.float),
        'b': make_targets(1, 2, dtype=torch.float),
    }
    before = {
        k: {s: x.clone() for s, x in t.x_dict.items()} for k, t in teachers.items()
    }
    mixed = ensemble_targets(teachers, {'a': 1.0, 'b': 1.0})
    assert mixed.x_dict['item'].dtype == torch.float
    after = {name: target.x_dict for name, target in teachers.items()}
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_mixture_of_one_teacher_ranks_as_it_does():
    teacher, train = make_targets(0, 4), make_graph()
    mixed = ensemble_targets({'a': teacher}, {'a': 0.2}, train)
    expected = topk_targets(teacher, train, ITEMS).item_index
    assert torch.equal(mixed.top.item_index, expected)


def test_a_mixture_can_be_mixed_again():
    teachers = make_teachers()
    inner = ensemble_targets(teachers, {'wide': 1.0, 'narrow': 1.0})
    outer = ensemble_targets(
        {'inner': inner, 'c': make_targets(2, 3)}, {'inner': 1, 'c': 1}
    )
    expected = standardized(inner) + standardized(make_targets(2, 3))
    torch.testing.assert_close(scores(outer), expected)


def small_world():
    train, val, _ = make_split()
    size = {'users': train['user'].num_nodes, 'items': train['item'].num_nodes}
    teachers = {}
    for seed, (name, width) in enumerate({'a': 8, 'b': 3}.items()):
        views = {'text': make_targets(seed, 5, **size, dtype=torch.float).x_dict}
        target = make_targets(10 + seed, width, **size, dtype=torch.float)
        teachers[name] = target._replace(modality_x_dict=views)
    return train, val, ensemble_targets(teachers, {'a': 0.5, 'b': 0.5}, train)


def test_a_student_learns_from_the_mixture_as_from_one_teacher():
    train, val, mixed = small_world()
    losses = promptmm_losses()
    out = distill(
        make_student(train),
        mixed,
        Split(train, val, val),
        losses=losses,
        baseline=False,
        config=TrainingConfig(epochs=2, progress=False),
    )
    widths = {key: x.out_features for key, x in losses[2].projectors.items()}
    assert widths == {'a/text': 5, 'b/text': 5, 'fused': 11}
    assert out.targets is mixed
    assert len(out.history.records) == 2
    first, last = (record['losses'] for record in out.history.records)
    assert last['embedding'] < first['embedding']


def test_a_mixture_is_saved_as_any_targets(tmp_path):
    train, _, mixed = small_world()
    save_targets(tmp_path / 'mix', mixed, train)
    loaded = load_targets(tmp_path / 'mix', train)
    assert torch.equal(loaded.x_dict['item'], mixed.x_dict['item'])
    assert torch.equal(
        loaded.modality_x_dict['b/text']['user'],
        mixed.modality_x_dict['b/text']['user'],
    )
    assert torch.equal(loaded.top.item_index, mixed.top.item_index)


@pytest.mark.parametrize(
    ('weights', 'match'),
    [
        ({'wide': 1.0}, r"one weight for each teacher of \['narrow', 'wide'\]"),
        ({'wide': 1.0, 'narrow': 1.0, 'x': 1.0}, r"\(got \['narrow', 'wide', 'x'\]\)"),
        ({'wide': 1.0, 'narrow': -0.1}, r"zero or more \(got -0.1 for 'narrow'\)"),
        ({'wide': float('nan'), 'narrow': 1.0}, r"finite .* \(got nan for 'wide'\)"),
        ({'wide': float('inf'), 'narrow': 1.0}, r"finite .* \(got inf for 'wide'\)"),
        ({'wide': 0.0, 'narrow': 0.0}, 'at least one weight above zero'),
    ],
)
def test_errors_of_weights(weights, match):
    with pytest.raises(ValueError, match=match):
        ensemble_targets(make_teachers(), weights)


def spoilt(value):
    targets = make_targets(1, 2)
    targets.x_dict['item'][3, 1] = value
    return targets


@pytest.mark.parametrize(
    ('other', 'match'),
    [
        (make_targets(1, 2, items=8), r"9 for 'item' \(got 8 of teacher 'b'\)"),
        (make_targets(1, 2, users=8), r"7 for 'user' \(got 8 of teacher 'b'\)"),
        (spoilt(float('nan')), "finite embeddings .* for 'item' of teacher 'b'"),
        (spoilt(float('inf')), "finite embeddings .* for 'item' of teacher 'b'"),
        (SoftTargets({'user': torch.ones(7, 2)}, {}), 'users and items of one width'),
        (
            SoftTargets({'user': torch.ones(7, 2), 'item': torch.ones(9, 3)}, {}),
            r"one width \(got .*\[9, 3\].* of teacher 'b'\)",
        ),
        (
            SoftTargets({'user': torch.ones(7), 'item': torch.ones(9)}, {}),
            'users and items of one width',
        ),
        (
            # Their mean is not exactly a third.
            SoftTargets(
                {
                    'user': torch.ones(7, 1, dtype=torch.double),
                    'item': torch.ones(9, 1, dtype=torch.double) / 3,
                },
                {},
            ),
            "scores that differ between items .* of teacher 'b'",
        ),
        (
            SoftTargets({'user': torch.zeros(7, 1), 'item': torch.ones(9, 1)}, {}),
            'scores that differ',
        ),
    ],
)
def test_errors_of_teachers(other, match):
    with pytest.raises(ValueError, match=match):
        ensemble_targets({'a': make_targets(0, 5), 'b': other}, {'a': 1.0, 'b': 1.0})


def test_error_without_a_teacher():
    with pytest.raises(ValueError, match="'targets' must have at least one teacher"):
        ensemble_targets({}, {})


@pytest.mark.parametrize('name', ['', 'a/b', 'a.b'])
def test_error_of_a_name(name):
    with pytest.raises(
        ValueError, match=r"'targets' must have names without '/' and '.'"
    ):
        ensemble_targets({name: make_targets(0, 2)}, {name: 1.0})


def test_error_of_another_graph():
    train = build_graph(torch.tensor([[0], [0]]), num_users=USERS, num_items=8)
    with pytest.raises(ValueError, match=r"8 for 'item' .got 9 of teacher 'a'"):
        ensemble_targets({'a': make_targets(0, 2)}, {'a': 1.0}, train)


def test_error_of_the_depth():
    with pytest.raises(ValueError, match="'top_k' must be positive"):
        ensemble_targets({'a': make_targets(0, 2)}, {'a': 1.0}, top_k=0)
