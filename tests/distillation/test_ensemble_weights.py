import pytest
import torch
from scipy.optimize import minimize

from promptmm_pyg.data import build_graph
from promptmm_pyg.distillation import ensemble_targets, fit_ensemble_weights
from promptmm_pyg.distillation.ensemble import _make_problem, negative_log_likelihood
from promptmm_pyg.targets import SoftTargets

USERS, ITEMS = 40, 30


def make_world(seed=0):
    """Users whose choices follow the first table of tastes, and somewhat the second."""
    g = torch.Generator().manual_seed(seed)
    tables = [
        {
            'user': torch.randn(USERS, 3, generator=g, dtype=torch.double),
            'item': torch.randn(ITEMS, 3, generator=g, dtype=torch.double) + 0.5,
        }
        for _ in range(4)
    ]
    dense = [x['user'] @ x['item'].t() for x in tables]
    chosen = torch.multinomial(
        (1.5 * dense[0] + 0.7 * dense[1]).softmax(dim=1), 6, generator=g
    )
    users = torch.arange(USERS).repeat_interleave(6)
    edges = torch.stack([users, chosen.flatten()])
    place = torch.arange(6).repeat(USERS)
    # User 0 has nothing to find, some have one item, user 1 was never seen.
    held = (place >= 4 + (users % 3 == 2).long()) & (users != 0)
    train_edges = edges[:, (place < 4) & (users != 1)]
    return tables, graphs(train_edges, edges[:, held])


def graphs(train_edges, held, **sizes):
    sizes = {'num_users': USERS, 'num_items': ITEMS, **sizes}
    train, val = build_graph(train_edges, **sizes), build_graph(train_edges, **sizes)
    val['user', 'interacts', 'item'].edge_label_index = held
    return train, val


def as_targets(*tables):
    names = 'abcd'[: len(tables)]
    return {k: SoftTargets(x, {}) for k, x in zip(names, tables, strict=True)}


def dense_scores(targets):
    every = []
    for target in targets.values():
        dense = target.x_dict['user'] @ target.x_dict['item'].t()
        every.append(dense / dense.var(dim=1, correction=0).mean().sqrt())
    return torch.stack(every)


def naive(targets, train, val, scale, top_k=None):
    """User by user, positive by positive, over the list of unseen items, or of those
    that are among a teacher's best.
    """
    edges = set(map(tuple, train['user', 'interacts', 'item'].edge_index.t().tolist()))
    held = val['user', 'interacts', 'item'].edge_label_index.t().tolist()
    every = dense_scores(targets)
    dense = torch.einsum('t,tui->ui', scale, every)
    losses = []
    for user, item in held:
        unseen = [j for j in range(dense.size(1)) if (user, j) not in edges]
        if top_k is not None:
            best = [sorted(unseen, key=lambda j: -x[user][j])[:top_k] for x in every]
            unseen = sorted(set().union(*best))
        if item in unseen:
            losses.append(dense[user, unseen].logsumexp(0) - dense[user, item])
    return torch.stack(losses).mean()


def likelihood(problem, scale, batch_size):
    """Its value and its gradient."""
    scale = scale.detach().clone().requires_grad_()
    return negative_log_likelihood(problem, scale, batch_size), scale.grad


def value(targets, train, val, scale, top_k=None):
    scale = torch.tensor(scale, dtype=torch.double)
    return likelihood(_make_problem(targets, train, val, top_k), scale, 128)[0]


@pytest.mark.parametrize('batch_size', [1, 7, 1000])
@pytest.mark.parametrize('top_k', [None, 3, 100])
def test_likelihood_and_derivatives_equal_a_loop_over_positives(batch_size, top_k):
    tables, (train, val) = make_world()
    targets = as_targets(*tables[:3])
    scale = torch.tensor([0.8, 0.0, 2.5], dtype=torch.double, requires_grad=True)
    expected = naive(targets, train, val, scale, top_k)
    (gradient,) = torch.autograd.grad(expected, scale)
    expected = expected.detach()
    problem = _make_problem(targets, train, val, top_k)
    result, own_gradient = likelihood(problem, scale, batch_size)
    assert result == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(own_gradient, gradient)


def other_solver(targets, train, val, top_k=None):
    actual = minimize(
        lambda x: float(naive(targets, train, val, torch.from_numpy(x), top_k)),
        [0.5] * len(targets),
        bounds=[(0, None)] * len(targets),
        options={'ftol': 1e-15, 'gtol': 1e-8},
    )
    return dict(zip(targets, (actual.x / actual.x.sum()).tolist(), strict=True))


@pytest.mark.parametrize('top_k', [None, 6])
def test_weights_are_where_another_solver_finds_the_minimum(top_k):
    tables, (train, val) = make_world()
    targets = as_targets(*tables)
    weights = fit_ensemble_weights(targets, train, val, top_k=top_k)
    expected = other_solver(targets, train, val, top_k)
    assert weights == pytest.approx(expected, abs=1e-4)  # The other solver's accuracy.
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights['a'] > weights['b'] > 0.1


def test_a_depth_of_the_whole_catalogue_leaves_nothing_out():
    tables, (train, val) = make_world()
    targets = as_targets(*tables[:3])
    expected = fit_ensemble_weights(targets, train, val, top_k=None)
    for top_k in (ITEMS, 10 * ITEMS):
        weights = fit_ensemble_weights(targets, train, val, top_k=top_k)
        assert weights == pytest.approx(expected, abs=1e-8)


def test_what_is_far_down_every_list_does_not_matter():
    tables, (train, val) = make_world()
    far = [{k: x.clone() for k, x in table.items()} for table in tables[:2]]
    edges, held = (
        x[:, x[1] != 29]
        for x in (
            train['user', 'interacts', 'item'].edge_index,
            val['user', 'interacts', 'item'].edge_label_index,
        )
    )
    train, val = graphs(edges, held)
    for table in far:  # The last item is the worst of both.
        level = torch.zeros(ITEMS, 1, dtype=torch.double)
        level[29] = -50.0
        table['user'] = torch.cat([table['user'], torch.ones(USERS, 1).double()], 1)
        table['item'] = torch.cat([table['item'], level], 1)
    problem = _make_problem(as_targets(*far), train, val, 3)
    assert not (problem.lists == 29).any()
    # Without it, but in the same units.
    scale = torch.tensor([0.8, 2.5], dtype=torch.double)
    changed = [(x, y.index_fill(0, torch.tensor([29]), 9.0)) for x, y in problem.tables]
    expected, _ = likelihood(problem, scale, 128)
    result, _ = likelihood(problem._replace(tables=changed), scale, 128)
    assert result == pytest.approx(expected, rel=1e-12)


def test_the_minimum_is_reached_where_full_steps_overshoot():
    # Each teacher points at one item of fifty, mostly the right one; both are wrong
    # about user 8. Once the softmax is decided, nothing curves.
    users = torch.arange(10)
    train, val = graphs(
        torch.stack([users, torch.full_like(users, 49)]),
        torch.stack([users, users]),
        num_users=10,
        num_items=50,
    )
    every = torch.eye(50, dtype=torch.double)
    pointed = users + torch.tensor([0] * 8 + [10, 20])
    other = users + torch.tensor([20] * 3 + [0] * 5 + [20, 0])
    targets = as_targets(
        {'user': every[pointed], 'item': every}, {'user': every[other], 'item': every}
    )
    weights = fit_ensemble_weights(targets, train, val, top_k=None)
    assert weights == pytest.approx(other_solver(targets, train, val), abs=1e-4)


def test_nearly_all_weight_goes_to_the_informative_teacher():
    tables, (train, val) = make_world()
    weights = fit_ensemble_weights(as_targets(tables[2], tables[0]), train, val)
    assert weights['b'] > 0.9


def test_a_teacher_that_is_wrong_gets_exactly_nothing():
    tables, (train, val) = make_world()
    wrong = {'user': -tables[1]['user'], 'item': tables[1]['item']}
    assert fit_ensemble_weights(as_targets(tables[0], wrong), train, val) == {
        'a': 1.0,
        'b': 0.0,
    }


def test_equal_teachers_share_and_are_as_likely_as_one():
    tables, (train, val) = make_world()
    first, second = as_targets(tables[0]), as_targets(tables[0], tables[0])
    weights = fit_ensemble_weights(second, train, val)
    assert weights == pytest.approx({'a': 0.5, 'b': 0.5})
    both = [2.0 * weight for weight in weights.values()]
    expected = value(first, train, val, [2.0])
    assert value(second, train, val, both) == pytest.approx(expected)


def test_the_mixture_predicts_better_than_each_of_its_teachers():
    tables, (train, val) = make_world()
    targets = as_targets(*tables[:2])
    weights = fit_ensemble_weights(targets, train, val)
    mixed = {'mix': ensemble_targets(targets, weights)}

    def best(teachers):
        grid = torch.linspace(0.1, 6, 60).tolist()
        return min(value(teachers, train, val, [scale]) for scale in grid)

    singles = [best({name: target}) for name, target in targets.items()]
    assert best(mixed) < min(singles) - 0.01


def test_units_of_a_teacher_and_levels_of_its_users_do_not_matter():
    tables, (train, val) = make_world()
    expected = fit_ensemble_weights(as_targets(*tables[:2]), train, val)
    larger = {'user': 50 * tables[1]['user'], 'item': tables[1]['item']}
    weights = fit_ensemble_weights(as_targets(tables[0], larger), train, val)
    assert weights == pytest.approx(expected)
    level = 1e8 * torch.arange(USERS, dtype=torch.double).unsqueeze(1)
    shifted = {
        'user': torch.cat([tables[1]['user'], level], dim=1),
        'item': torch.cat([tables[1]['item'], torch.ones(ITEMS, 1).double()], dim=1),
    }
    weights = fit_ensemble_weights(as_targets(tables[0], shifted), train, val)
    assert weights == pytest.approx(expected)


def test_one_teacher_gets_everything():
    tables, (train, val) = make_world()
    assert fit_ensemble_weights(as_targets(tables[0]), train, val) == {'a': 1.0}


def test_a_teacher_that_makes_no_mistake_does_not_run_away():
    # Its best scale is infinite; the other teacher is half right.
    sizes = {'num_users': 3, 'num_items': 3}
    train, val = graphs(
        torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.tensor([[0, 1, 2]] * 2), **sizes
    )
    eye = torch.eye(3, dtype=torch.double)
    half = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=torch.double)
    teachers = as_targets({'user': eye, 'item': eye}, {'user': half, 'item': eye})
    weights = fit_ensemble_weights(teachers, train, val)
    assert weights['a'] > 0.7
    assert sum(weights.values()) == pytest.approx(1.0)


def test_positives_among_training_items_take_no_part():
    tables, (train, val) = make_world()
    targets = as_targets(*tables[:2])
    expected = fit_ensemble_weights(targets, train, val)
    edges = train['user', 'interacts', 'item'].edge_index
    held = val['user', 'interacts', 'item'].edge_label_index
    _, overlapping = graphs(edges, torch.cat([edges[:, :9], held], dim=1))
    assert fit_ensemble_weights(targets, train, overlapping) == expected


def test_a_run_is_repeated_to_the_bit_and_tables_are_left_alone():
    tables, (train, val) = make_world()
    before = [{key: x.clone() for key, x in table.items()} for table in tables]
    runs = [fit_ensemble_weights(as_targets(*tables), train, val) for _ in range(2)]
    assert runs[0] == runs[1]
    torch.testing.assert_close(tables, before, rtol=0, atol=0)


def test_tables_of_single_precision_give_nearly_the_same():
    tables, (train, val) = make_world()
    single = [{key: x.float() for key, x in table.items()} for table in tables]
    weights = fit_ensemble_weights(as_targets(*single), train, val)
    expected = fit_ensemble_weights(as_targets(*tables), train, val)
    assert weights == pytest.approx(expected, abs=1e-5)


def test_error_where_no_teacher_beats_chance():
    tables, (train, val) = make_world()
    wrong = {'user': -tables[0]['user'], 'item': tables[0]['item']}
    with pytest.raises(
        ValueError, match=r"above the average .* \(got none among \['a'"
    ):
        fit_ensemble_weights(as_targets(wrong), train, val)


def test_error_where_nothing_can_be_learned():
    # Every user has one unseen item: chance is always right.
    train, val = graphs(
        torch.tensor([[0, 0, 1, 1], [1, 2, 0, 2]]),
        torch.tensor([[0, 1], [0, 1]]),
        num_users=2,
        num_items=3,
    )
    g = torch.Generator().manual_seed(0)
    table = {
        'user': torch.randn(2, 3, generator=g),
        'item': torch.randn(3, 3, generator=g),
    }
    with pytest.raises(ValueError, match=r"'targets' must include a teacher"):
        fit_ensemble_weights(as_targets(table), train, val)


def test_error_without_positives():
    tables, (train, val) = make_world()
    edges = train['user', 'interacts', 'item'].edge_index
    for held in (edges[:, :0], edges[:, :5]):
        _, val = graphs(edges, held)
        with pytest.raises(ValueError, match="'val' must have positives outside of"):
            fit_ensemble_weights(as_targets(tables[0]), train, val)
    with pytest.raises(ValueError, match="must contain 'edge_label_index'"):
        fit_ensemble_weights(as_targets(tables[0]), train, train)


def test_error_of_graphs_that_do_not_fit():
    tables, (train, val) = make_world()
    other, _ = graphs(torch.tensor([[0], [0]]), torch.tensor([[0], [1]]), num_users=41)
    with pytest.raises(ValueError, match="'train' and 'val' must have the same nodes"):
        fit_ensemble_weights(as_targets(tables[0]), other, val)
    fewer = {'user': tables[1]['user'][1:], 'item': tables[1]['item']}
    with pytest.raises(ValueError, match=r"40 for 'user' .got 39 of teacher 'b'"):
        fit_ensemble_weights(as_targets(tables[0], fewer), train, val)


def test_error_of_scores_that_are_no_numbers():
    tables, (train, val) = make_world()
    tables[1]['user'][2, 0] = float('nan')
    with pytest.raises(ValueError, match=r"finite embeddings .* 'user' of teacher 'b'"):
        fit_ensemble_weights(as_targets(*tables), train, val)


def test_error_of_scores_that_are_all_the_same():
    tables, (train, val) = make_world()
    tables[1]['user'].zero_()
    with pytest.raises(ValueError, match=r"scores that differ .* of teacher 'b'"):
        fit_ensemble_weights(as_targets(*tables), train, val)


def test_error_without_a_teacher():
    _, (train, val) = make_world()
    with pytest.raises(ValueError, match="'targets' must have at least one teacher"):
        fit_ensemble_weights({}, train, val)


def test_error_of_a_depth_that_reaches_no_positive():
    users = torch.arange(3)
    every = torch.eye(4, dtype=torch.double)
    train, val = graphs(
        torch.stack([users, users]),
        torch.stack([users, users + 1]),
        num_users=3,
        num_items=4,
    )
    wrong = {'user': -every[users + 1], 'item': every}
    with pytest.raises(ValueError, match=r"'top_k' must include .* \(got 1,"):
        fit_ensemble_weights(as_targets(wrong), train, val, top_k=1)


@pytest.mark.parametrize('option', ['top_k', 'steps', 'batch_size'])
def test_error_of_an_option(option):
    tables, (train, val) = make_world()
    with pytest.raises(ValueError, match=f"'{option}' must be positive"):
        fit_ensemble_weights(as_targets(tables[0]), train, val, **{option: 0})
