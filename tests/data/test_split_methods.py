import pytest
import torch

from promptmm_pyg.data import (
    INTERACTS,
    build_graph,
    split_by_time,
    split_cold_items,
    split_leave_one_out,
    split_per_user,
)
from promptmm_pyg.data.split import held_out, part_codes, shared_pairs

METHODS = [split_by_time, split_cold_items, split_leave_one_out, split_per_user]


def leave_one_out_at_random(data):
    return split_leave_one_out(data, by='random')


def make_graph(num_users=30, num_items=40, num_edges=400, seed=0):
    # User 0 has one interaction, user 1 two; users are in no order.
    generator = torch.Generator().manual_seed(seed)
    edges = torch.stack(
        [
            torch.randint(2, num_users, (num_edges,), generator=generator),
            torch.randint(num_items, (num_edges,), generator=generator),
        ]
    )
    few = torch.tensor([[0, 1, 1], [3, 3, 4]])
    edges = torch.cat([edges, few], dim=1)
    edges = edges[:, torch.randperm(edges.size(1), generator=generator)]
    time = torch.randint(50, (edges.size(1),), generator=generator)
    return build_graph(
        edges,
        num_users=num_users,
        num_items=num_items,
        edge_time=time,
        duplicates='first',
    )


def pairs(edge_index):
    return set(map(tuple, edge_index.t().tolist()))


def labels(split):
    return [pairs(graph[INTERACTS].edge_label_index) for graph in split]


def users_of(pairs_):
    return [user for user, _ in pairs_]


@pytest.mark.parametrize('method', METHODS)
def test_the_parts_make_up_the_graph_and_share_nothing(method):
    data = make_graph()
    train, val, test = labels(method(data))
    assert train | val | test == pairs(data[INTERACTS].edge_index)
    assert len(train) + len(val) + len(test) == data[INTERACTS].edge_index.size(1)
    assert val
    assert test


@pytest.mark.parametrize('method', [split_per_user, split_cold_items])
def test_the_seed_decides(method):
    data = make_graph()
    assert labels(method(data, seed=3)) == labels(method(data, seed=3))
    assert labels(method(data, seed=3)) != labels(method(data, seed=4))


@pytest.mark.parametrize('method', [split_by_time, split_cold_items, split_per_user])
def test_a_ratio_of_zero_leaves_the_part_empty(method):
    _, val, test = labels(method(make_graph(), val_ratio=0.0, test_ratio=0.2))
    assert not val
    assert test
    _, val, test = labels(method(make_graph(), val_ratio=0.2, test_ratio=0.0))
    assert val
    assert not test


@pytest.mark.parametrize('ratios', [(0.1, 0.1), (0.25, 0.4), (0.05, 0.9), (0.9, 0.05)])
def test_per_user_holds_out_the_promised_number(ratios):
    data = make_graph()
    train, val, test = (users_of(p) for p in labels(split_per_user(data, *ratios)))
    for user in range(30):
        n = (data[INTERACTS].edge_index[0] == user).sum().item()
        if n < 3:
            assert (train.count(user), val.count(user), test.count(user)) == (n, 0, 0)
            continue
        num_test = min(max(1, int(ratios[1] * n)), n - 2)
        num_val = min(max(1, int(ratios[0] * n)), n - 1 - num_test)
        assert (val.count(user), test.count(user)) == (num_val, num_test)
        assert train.count(user) >= 1


def test_per_user_draws_at_random_not_by_position():
    edges = torch.stack([torch.zeros(100).long(), torch.arange(100)])
    out = split_per_user(build_graph(edges), val_ratio=0.0, test_ratio=0.5)
    items = out.test[INTERACTS].edge_label_index[1].double()
    assert 35 < items.mean() < 65


def test_leave_one_out_holds_out_the_last_two_by_time():
    edges = torch.tensor([[1, 0, 0, 0, 1, 0], [9, 5, 6, 7, 8, 2]])
    data = build_graph(edges, edge_time=[1, 30, 10, 40, 2, 20])
    train, val, test = labels(split_leave_one_out(data))
    assert train == {(0, 6), (0, 2), (1, 9), (1, 8)}
    assert val == {(0, 5)}
    assert test == {(0, 7)}


def test_leave_one_out_orders_equal_times_at_random():
    edges = torch.stack([torch.arange(3).repeat(200), torch.arange(600)])
    data = build_graph(edges, edge_time=[5] * 600)
    held = {seed: labels(split_leave_one_out(data, seed=seed)) for seed in (0, 0, 1)}
    assert held[0] == labels(split_leave_one_out(data, seed=0)) != held[1]


def test_leave_one_out_at_random_needs_no_time_and_follows_the_seed():
    data = make_graph()
    del data[INTERACTS].time
    first = labels(split_leave_one_out(data, by='random', seed=0))
    assert first == labels(split_leave_one_out(data, by='random', seed=0))
    assert first != labels(split_leave_one_out(data, by='random', seed=1))
    held = sorted(users_of(first[1]))
    assert held == sorted(users_of(first[2])) == sorted(set(held))
    assert set(range(30)) - set(held) == {0, 1}


def test_time_split_puts_the_later_into_the_later_part():
    out = split_by_time(make_graph(), val_ratio=0.2, test_ratio=0.3)
    train, val, test = (graph[INTERACTS].edge_label_time for graph in out)
    assert train.max() < val.min()
    assert val.max() < test.min()


def test_time_split_meets_the_ratios_where_times_differ():
    data = make_graph()
    data[INTERACTS].time = torch.randperm(data[INTERACTS].edge_index.size(1))
    n = data[INTERACTS].edge_index.size(1)
    sizes = [len(part) for part in labels(split_by_time(data, 0.2, 0.3))]
    assert sizes == [n - int(0.2 * n) - int(0.3 * n), int(0.2 * n), int(0.3 * n)]


def test_time_split_keeps_one_moment_together():
    edges = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]])
    data = build_graph(edges, edge_time=[1, 2, 2, 2])
    _, _, test = labels(split_by_time(data, val_ratio=0.0, test_ratio=0.25))
    assert test == {(1, 1), (2, 2), (3, 3)}


def test_cold_items_have_no_training_interaction_and_stay_in_one_part():
    data = make_graph()
    parts = [{item for _, item in part} for part in labels(split_cold_items(data))]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    used = data[INTERACTS].edge_index[1].unique().numel()
    assert [len(part) for part in parts[1:]] == [used // 10, used // 10]


def test_cold_items_are_drawn_among_those_with_interactions():
    edges = torch.tensor([[0, 1, 2], [50, 60, 70]])
    out = split_cold_items(build_graph(edges, num_items=100), 0.01, 0.01)
    assert [len(part) for part in labels(out)] == [1, 1, 1]


@pytest.mark.parametrize('method', [split_by_time, split_cold_items, split_per_user])
def test_ratios_are_checked(method):
    with pytest.raises(ValueError, match=r"'val_ratio' must be in \[0, 1\)"):
        method(make_graph(), val_ratio=-0.1)
    with pytest.raises(ValueError, match=r"'test_ratio' must be in \[0, 1\)"):
        method(make_graph(), test_ratio=1.0)
    with pytest.raises(ValueError, match=r'add up to less than 1 \(got 0.5 and 0.5\)'):
        method(make_graph(), val_ratio=0.5, test_ratio=0.5)


@pytest.mark.parametrize('method', [split_by_time, split_leave_one_out])
def test_time_is_required(method):
    with pytest.raises(ValueError, match="'data' must have 'time'"):
        method(build_graph(torch.tensor([[0], [0]])))


def test_leave_one_out_checks_by():
    with pytest.raises(ValueError, match="'by' must be one of 'time', 'random'"):
        split_leave_one_out(make_graph(), by='size')


def test_one_moment_for_all_leaves_no_training():
    edges = torch.tensor([[0, 1, 2], [0, 1, 2]])
    data = build_graph(edges, edge_time=[1, 1, 1])
    with pytest.raises(ValueError, match='at least one interaction for training'):
        split_by_time(data, 0.0, 0.4)


def named(seed, raw_id=None):
    """A graph whose rows are shuffled, and whose nodes are numbered accordingly."""
    generator = torch.Generator().manual_seed(seed)
    user = torch.arange(20).repeat_interleave(15)
    pairs_ = torch.stack([user, (user * 7 + torch.arange(300) * 3) % 41])
    time = (torch.arange(300) * 17) % 11
    perm = torch.randperm(300, generator=generator) if seed else torch.arange(300)
    number = torch.randperm(41, generator=generator) if seed else torch.arange(41)
    back = number.argsort()
    pairs_[1] = number[pairs_[1]]
    names = raw_id or (lambda item: f'item {item}')
    return build_graph(
        pairs_[:, perm],
        edge_time=time[perm],
        num_users=20,
        item_ids=[names(item) for item in back.tolist()],
        user_ids=[f'u{user}' for user in range(20)],
        duplicates='first',
    )


def named_labels(data, method):
    ids = data['item'].raw_id
    return [{(u, str(ids[i])) for u, i in part} for part in labels(method(data))]


@pytest.mark.parametrize('method', [*METHODS, leave_one_out_at_random])
def test_the_split_does_not_depend_on_the_order_of_rows_and_nodes(method):
    first = named_labels(named(0), method)
    assert all(first)
    assert named_labels(named(1), method) == first
    assert named_labels(named(2), method) == first


@pytest.mark.parametrize('method', [split_cold_items, split_per_user])
def test_the_split_does_not_depend_on_the_type_of_numbers(method):
    as_text = named_labels(named(1, raw_id=str), method)
    assert named_labels(named(2, raw_id=int), method) == as_text


def test_an_order_of_the_interactions_comes_before_the_ids():
    data = named(0)
    perm = torch.randperm(
        data[INTERACTS].edge_index.size(1), generator=torch.Generator().manual_seed(0)
    )
    data[INTERACTS].order = perm
    first = labels(split_per_user(data))
    assert first != labels(split_per_user(named(0)))
    data[INTERACTS].edge_index = data[INTERACTS].edge_index[:, perm.argsort()]
    data[INTERACTS].order = torch.arange(perm.numel())
    assert labels(split_per_user(data)) == first


def test_the_shares_that_came_out_are_counted():
    # Six interactions: one in ten becomes one in six.
    edges = torch.stack([torch.arange(4).repeat_interleave(6), torch.arange(24)])
    few = torch.tensor([[4, 4], [0, 1]])
    split = split_per_user(build_graph(torch.cat([edges, few], dim=1)))
    result = held_out(split)
    assert result == (pytest.approx(4 / 26), pytest.approx(4 / 26), 5, 1)
    assert str(result) == (
        'held out 15.4% for validation, 15.4% for test; 1 of 5 users have nothing '
        'held out'
    )


def test_names_of_parts_are_read_in_any_case():
    names = ['train', 'Val', ' VALID ', 'validation', 'TEST', 'training', '1']
    codes = part_codes("'part'", names)
    assert codes.tolist() == [0, 1, 1, 1, 2, 0, 1]


def test_other_names_of_parts_are_listed():
    names = ['train', 'Test', 'holdout', None, 'holdout']
    with pytest.raises(ValueError, match=r"'part' must .* \(got 'holdout', None\)"):
        part_codes("'part'", names)


def test_pairs_that_parts_share_are_counted_by_part():
    edges = torch.tensor([[0, 1, 0, 0, 2, 1, 1], [5, 6, 5, 5, 7, 6, 6]])
    part = torch.tensor([2, 0, 0, 1, 1, 0, 2])
    shared = {key: x.tolist() for key, x in shared_pairs(edges, part, 9).items()}
    assert shared == {
        ('train', 'val'): [3],
        ('val', 'test'): [0],
        ('train', 'train'): [5],
        ('train', 'test'): [6],
    }
    assert shared_pairs(edges[:, :2], part[:2], 9) == {}
