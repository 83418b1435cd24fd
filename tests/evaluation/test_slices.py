import math

import pytest
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.evaluation import (
    evaluate,
    slice_by_cold_start,
    slice_by_history,
    slice_by_item_popularity,
)

KS = (2, 5)


def make_graph(num_positives, seed=0):
    """30 users and 25 items, items 20 to 24 without an interaction."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(30, 25, generator=generator)
    held_out = torch.zeros(30, 25, dtype=torch.bool)
    held_out.scatter_(1, order.topk(num_positives).indices, True)
    # Users 0 to 3 have no history; later ones have more and more.
    density = torch.linspace(-0.1, 0.9, 30).unsqueeze(1)
    seen = (torch.rand(30, 25, generator=generator) < density) & ~held_out
    seen[:, 20:] = False
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 30, 25
    data[INTERACTS].edge_index = seen.nonzero().t()
    data[INTERACTS].edge_label_index = held_out.nonzero().t()
    scores = torch.randn(30, 25, generator=generator)
    return data, seen, held_out, scores


def test_history_slices_recombine_to_the_whole():
    data, _, _, scores = make_graph(num_positives=3)
    full = evaluate(scores.__getitem__, data, ks=KS)
    slices = slice_by_history(full, data, bounds=(1, 5, 10))
    assert list(slices) == ['0', '1-4', '5-9', '10+']
    assert all(part.users.numel() > 0 for part in slices.values())
    for key, value in full.metrics.items():
        total = sum(p.metrics[key] * p.users.numel() for p in slices.values())
        assert total / full.users.numel() == pytest.approx(value)


def test_history_slices_hold_the_users_they_name():
    data, seen, _, scores = make_graph(num_positives=3)
    full = evaluate(scores.__getitem__, data, ks=KS)
    slices = slice_by_history(full, data, bounds=(1, 5))
    length = seen.sum(1)
    assert torch.equal(slices['0'].users, (length == 0).nonzero().view(-1))
    assert torch.equal(slices['5+'].users, (length >= 5).nonzero().view(-1))
    rows = slices['1-4'].users  # Every user has positives here: row == user.
    assert torch.equal(slices['1-4'].ranking.item_index, full.ranking.item_index[rows])
    for key, value in slices['1-4'].per_user.items():
        assert torch.equal(value, full.per_user[key][rows])


def test_popularity_slices_hold_the_positives_they_name():
    data, seen, held_out, scores = make_graph(num_positives=3)
    full = evaluate(scores.__getitem__, data, ks=KS)
    count = seen.sum(0)
    slices = slice_by_item_popularity(full, data, bounds=(1, 14))
    assert list(slices) == ['0', '1-13', '14+']
    inside = (count == 0, (count > 0) & (count < 14), count >= 14)
    for part, items in zip(slices.values(), inside, strict=True):
        relevant = held_out & items
        assert torch.equal(part.users, relevant.any(1).nonzero().view(-1))
        for row, user in enumerate(part.users.tolist()):
            listed = full.ranking.item_index[user, :5]
            expected = relevant[user, listed].sum() / relevant[user].sum()
            assert part.per_user['Recall@5'][row] == pytest.approx(float(expected))


def test_item_slices_recombine_where_each_user_has_one_positive():
    data, _, _, scores = make_graph(num_positives=1)
    full = evaluate(scores.__getitem__, data, ks=KS)
    slices = slice_by_item_popularity(full, data, bounds=(1, 14)).values()
    assert sum(part.users.numel() for part in slices) == 30
    for key, value in full.metrics.items():
        total = sum(
            part.metrics[key] * part.users.numel()
            for part in slices
            if part.users.numel() > 0
        )
        assert total / 30 == pytest.approx(value)


def test_hits_of_item_slices_add_up():
    data, _, _, scores = make_graph(num_positives=4)
    full = evaluate(scores.__getitem__, data, ks=KS)
    hits = sum(
        float(part.per_user['Precision@5'].sum())
        for part in slice_by_cold_start(full, data).values()
    )
    assert hits == pytest.approx(float(full.per_user['Precision@5'].sum()))


def test_cold_positives_are_those_never_seen_in_training():
    data, seen, _, scores = make_graph(num_positives=3)
    # Cold items always come last: whoever ranks by popularity does that.
    scores = scores.masked_fill(seen.sum(0) == 0, -9.0)
    parts = slice_by_cold_start(evaluate(scores.__getitem__, data, ks=KS), data)
    assert list(parts) == ['warm', 'cold']
    assert parts['cold'].users.numel() > 0
    assert parts['cold'].metrics['Recall@5'] < parts['warm'].metrics['Recall@5']


def test_an_empty_slice_has_no_users_and_no_mean():
    data, _, _, scores = make_graph(num_positives=3)
    full = evaluate(scores.__getitem__, data, ks=KS)
    part = slice_by_history(full, data, bounds=(100,))['100+']
    assert part.users.numel() == 0
    assert math.isnan(part.metrics['Recall@5'])
    part = slice_by_item_popularity(full, data, bounds=(100,))['100+']
    assert part.users.numel() == 0
    assert set(part.metrics) == set(full.metrics)
    assert math.isnan(part.metrics['NDCG@2'])


def test_users_without_positives_shift_no_row():
    data, _, held_out, scores = make_graph(num_positives=3)
    held_out[:7] = False
    data[INTERACTS].edge_label_index = held_out.nonzero().t()
    full = evaluate(scores.__getitem__, data, ks=KS)
    part = slice_by_item_popularity(full, data, bounds=(1,))['1+']
    listed = full.ranking.item_index[part.users - 7]
    assert torch.equal(part.ranking.item_index, listed)


@pytest.mark.parametrize('slice_by', [slice_by_history, slice_by_item_popularity])
def test_errors(slice_by):
    data, _, _, scores = make_graph(num_positives=3)
    full = evaluate(scores.__getitem__, data, ks=KS)
    for bounds in ((), (0, 5), (5, 5), (-1,)):
        with pytest.raises(ValueError, match=r"'bounds' must contain positive"):
            slice_by(full, data, bounds=bounds)
    data['item'].num_nodes = 26
    with pytest.raises(ValueError, match=r"'data'.*\(got 26 items instead of 25\)"):
        slice_by(full, data)
