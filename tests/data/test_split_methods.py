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

METHODS = [split_by_time, split_cold_items, split_leave_one_out, split_per_user]


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


def test_per_user_draws_by_chance_not_by_position():
    edges = torch.stack([torch.zeros(100).long(), torch.arange(100)])
    out = split_per_user(build_graph(edges), val_ratio=0.0, test_ratio=0.5)
    items = out.test[INTERACTS].edge_label_index[1].double()
    assert 35 < items.mean() < 65


def test_leave_one_out_takes_the_last_two_by_time():
    edges = torch.tensor([[1, 0, 0, 0, 1, 0], [9, 5, 6, 7, 8, 2]])
    data = build_graph(edges, edge_time=[1, 30, 10, 40, 2, 20])
    train, val, test = labels(split_leave_one_out(data))
    assert train == {(0, 6), (0, 2), (1, 9), (1, 8)}
    assert val == {(0, 5)}
    assert test == {(0, 7)}


def test_leave_one_out_breaks_ties_by_mention():
    edges = torch.tensor([[0, 0, 0], [2, 0, 1]])
    data = build_graph(edges, edge_time=[5, 5, 5])
    assert labels(split_leave_one_out(data)) == [{(0, 2)}, {(0, 0)}, {(0, 1)}]


def test_leave_one_out_by_chance_needs_no_time_and_follows_the_seed():
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
def test_time_is_asked_for(method):
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
