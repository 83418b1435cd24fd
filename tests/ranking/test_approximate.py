import builtins

import pytest
import torch

from promptmm_pyg.ranking import ApproximateItems, SeenItems, rank_items
from tests.ranking.naive import naive_lists

pytest.importorskip('faiss', reason="requires the extra 'ann'")


def tables(num_users=30, num_items=400, width=8, seed=0):
    """Users and items about a few topics; some items have far longer vectors."""
    generator = torch.Generator().manual_seed(seed)
    topics = torch.randn(6, width, generator=generator)

    def near(size):
        topic = torch.randint(6, (size,), generator=generator)
        return topics[topic] + 0.5 * torch.randn(size, width, generator=generator)

    length = torch.rand(num_items, 1, generator=generator).clamp(min=0.02).rsqrt()
    return near(num_users), near(num_items) * length


def seen_by(num_users, num_items, share, seed=1):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(num_users, num_items, generator=generator) < share
    return dense, SeenItems.from_edge_index(dense.nonzero().t(), num_users, num_items)


@pytest.mark.parametrize('batch_size', [1, 7, 1024])
def test_comparing_all_clusters_gives_the_exact_lists(batch_size):
    user_x, item_x = tables()
    dense, _ = seen_by(30, 400, 0.05)
    dense[4] = torch.arange(400) > 2  # More than is left of the catalogue.
    seen = SeenItems.from_edge_index(dense.nonzero().t(), 30, 400)
    candidates = torch.rand(400, generator=torch.Generator().manual_seed(2)) < 0.7
    users = torch.tensor([4, 29, 3, 3, 0, 17])
    blocked = {tuple(pair) for pair in (dense | ~candidates).nonzero().tolist()}
    index, values = naive_lists(user_x, item_x, users, 9, blocked)
    approximate = ApproximateItems(item_x, num_lists=20, nprobe=20)
    ranking = approximate.rank_items(
        user_x, users, 9, seen=seen, batch_size=batch_size, candidates=candidates
    )
    assert torch.equal(ranking.item_index, index)
    torch.testing.assert_close(ranking.scores, values)


def test_few_clusters_find_most():
    user_x, item_x = tables(num_items=2000)
    few, every = (
        ApproximateItems(item_x, num_lists=100, nprobe=nprobe)
        .recall_against_exact(user_x, torch.arange(30), 10)
        .mean()
        for nprobe in (8, 100)
    )
    # Items as they are, not lifted to a sphere, give 0.91; users of any length less.
    assert 0.95 < few < 1
    assert every == 1


def test_recall_is_the_share_of_the_exact_list():
    user_x, item_x = tables(num_items=300)
    users = torch.arange(30)
    dense, _ = seen_by(30, 300, 0.1)
    dense[7] = True
    dense[8] = torch.arange(300) > 1  # Two are left, and a list of six.
    seen = SeenItems.from_edge_index(dense.nonzero().t(), 30, 300)
    approximate = ApproximateItems(item_x, num_lists=60, nprobe=2)
    found = approximate.rank_items(user_x, users, 6, seen=seen, batch_size=9)
    exact = rank_items((user_x, item_x), users, 6, seen=seen)
    recall = approximate.recall_against_exact(user_x, users, 6, seen=seen)
    expected = [
        len(set(a) & set(b)) / 6
        for a, b in zip(
            exact.item_index.tolist(), found.item_index.tolist(), strict=True
        )
    ]
    expected[7] = expected[8] = 1.0  # Nothing to find, or nothing missed.
    assert recall.tolist() == pytest.approx(expected)
    assert 0 < recall.min() < 1


def test_no_list_is_shorter_than_the_exact_one_nor_holds_what_is_left_out():
    user_x, item_x = tables()
    dense, seen = seen_by(30, 400, 0.5)
    candidates = torch.rand(400, generator=torch.Generator().manual_seed(3)) < 0.2
    candidates[:5] = True
    users = torch.arange(30)
    approximate = ApproximateItems(item_x, num_lists=80, nprobe=1)
    ranking = approximate.rank_items(
        user_x, users, 12, seen=seen, candidates=candidates
    )
    index = ranking.item_index
    assert (index >= 0).all()
    assert candidates[index].all()
    assert not dense.gather(1, index).any()
    assert all(len(set(row)) == 12 for row in index.tolist())
    assert (ranking.scores.diff(dim=1) <= 0).all()
    expected = (user_x @ item_x.t()).gather(1, index)
    torch.testing.assert_close(ranking.scores, expected)


def test_no_candidate_gives_padding():
    user_x, item_x = tables(num_items=30)
    ranking = ApproximateItems(item_x).rank_items(
        user_x, torch.arange(2), 3, candidates=torch.zeros(30, dtype=torch.bool)
    )
    assert ranking.item_index.tolist() == [[-1] * 3] * 2
    assert ranking.scores.tolist() == [[-float('inf')] * 3] * 2


def test_ties_among_the_items_found_go_to_the_lower_item():
    item_x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [0, -1], [1, 0]])
    approximate = ApproximateItems(item_x, num_lists=2, nprobe=2)
    ranking = approximate.rank_items(torch.tensor([[2.0, 1.0]]), torch.tensor([0]), 6)
    assert ranking.item_index.tolist() == [[0, 2, 3, 5, 1, 4]]


def test_neither_the_scale_of_users_nor_of_items_matters():
    user_x, item_x = tables()
    users = torch.arange(30)
    one = ApproximateItems(item_x, nprobe=4).rank_items(user_x, users, 10)
    other = ApproximateItems(item_x * 2.0**20, nprobe=4).rank_items(
        user_x * 2.0**-30, users, 10
    )
    assert torch.equal(one.item_index, other.item_index)
    torch.testing.assert_close(one.scores, other.scores * 2.0**10)


@pytest.mark.parametrize('value', [0.0, 2.0])
def test_items_that_are_all_alike_are_listed_in_full(value):
    item_x = torch.full((40, 3), value)
    ranking = ApproximateItems(item_x).rank_items(
        torch.zeros(2, 3), torch.arange(2), 40
    )
    assert ranking.item_index.tolist() == [list(range(40))] * 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.double])
def test_other_precisions(dtype):
    user_x, item_x = (x.to(dtype) for x in tables(num_items=100))
    users = torch.arange(5)
    index, values = naive_lists(user_x, item_x, users, 8)
    approximate = ApproximateItems(item_x, num_lists=5, nprobe=5)
    ranking = approximate.rank_items(user_x, users, 8)
    double = dtype == torch.double
    assert ranking.scores.dtype == (torch.double if double else torch.float32)
    assert torch.equal(ranking.item_index, index)
    torch.testing.assert_close(ranking.scores, values.to(ranking.scores.dtype))


def test_the_same_seed_gives_the_same_lists():
    user_x, item_x = tables()
    users = torch.arange(30)
    one, other = (
        ApproximateItems(item_x, nprobe=2, seed=3).rank_items(user_x, users, 20)
        for _ in range(2)
    )
    assert torch.equal(one.item_index, other.item_index)


def test_a_table_in_training_is_neither_changed_nor_followed():
    user_x, item_x = tables(num_items=50)
    item_x = torch.nn.Parameter(item_x.t().contiguous()).t()  # Not contiguous.
    ranking = ApproximateItems(item_x).rank_items(user_x, torch.arange(3), 4)
    assert not ranking.scores.requires_grad


def test_no_users_give_no_rows():
    user_x, item_x = tables(num_items=50)
    empty = torch.empty(0, dtype=torch.long)
    _, seen = seen_by(30, 50, 0.1)
    approximate = ApproximateItems(item_x)
    ranking = approximate.rank_items(user_x, empty, 4, seen=seen)
    assert ranking.item_index.size() == (0, 4)
    assert approximate.recall_against_exact(user_x, empty, 4).size() == (0,)


def test_repr():
    approximate = ApproximateItems(torch.randn(100, 4))
    assert repr(approximate) == 'ApproximateItems(100, num_lists=40, nprobe=32)'


def test_a_catalogue_of_one_item():
    one = torch.ones(1, 2)
    ranking = ApproximateItems(one).rank_items(one, torch.tensor([0]), 1)
    assert ranking.item_index.tolist() == [[0]]


def test_without_faiss_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name == 'faiss':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', fake)
    with pytest.raises(ImportError, match=r"requires 'faiss'.*\[ann\]"):
        ApproximateItems(torch.ones(2, 2))


def test_errors():
    item_x = torch.ones(3, 2)
    approximate = ApproximateItems(item_x)
    users = torch.arange(3)
    with pytest.raises(ValueError, match="'num_items' must be positive"):
        ApproximateItems(torch.ones(0, 2))
    with pytest.raises(ValueError, match="'num_lists' must be positive"):
        ApproximateItems(item_x, num_lists=0)
    with pytest.raises(ValueError, match=r"'num_lists'.*at most.*of 3 \(got 4\)"):
        ApproximateItems(item_x, num_lists=4)
    with pytest.raises(ValueError, match="'nprobe' must be positive"):
        ApproximateItems(item_x, nprobe=0)
    with pytest.raises(ValueError, match="'item_x' must be finite"):
        ApproximateItems(item_x / 0)
    with pytest.raises(ValueError, match=r"'item_x' must contain floating.*int64"):
        ApproximateItems(item_x.long())
    with pytest.raises(ValueError, match='must be matrices of one width'):
        approximate.rank_items(item_x[:, :1], users, 1)
    with pytest.raises(ValueError, match=r"'k' must be at most.*of 3 \(got 4\)"):
        approximate.rank_items(item_x, users, 4)
    with pytest.raises(ValueError, match=r"'users'.*below 3 \(got 0 to 3\)"):
        approximate.rank_items(item_x, torch.tensor([0, 3]), 1)
    with pytest.raises(ValueError, match="'batch_size' must be positive"):
        approximate.rank_items(item_x, users, 1, batch_size=0)
    with pytest.raises(ValueError, match="'scores' must contain numbers"):
        approximate.rank_items(item_x * float('nan'), users, 1)
    seen = SeenItems.from_edge_index(torch.tensor([[0], [1]]), 2, 3)
    with pytest.raises(ValueError, match=r"'users'.*below 2 \(got 0 to 2\)"):
        approximate.rank_items(item_x, users, 1, seen=seen)
    wide = SeenItems.from_edge_index(torch.tensor([[0], [1]]), 3, 4)
    with pytest.raises(ValueError, match=r"'seen'.*\(got 4 and 3 items\)"):
        approximate.rank_items(item_x, users, 1, seen=wide)
    with pytest.raises(ValueError, match=r"'candidates' must.*\[3\].*int64"):
        approximate.rank_items(item_x, users, 1, candidates=users)
