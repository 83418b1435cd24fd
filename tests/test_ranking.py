import pytest
import torch

from promptmm_pyg.ranking import SeenItems, rank_items, top_items

INF = float('inf')


def naive_top(scores, k, blocked=()):
    """Sorts (score, item) pairs, one (user, scores) row at a time."""
    index, values = [], []
    for user, line in scores:
        pairs = [
            (-float(value), item)
            for item, value in enumerate(line)
            if (user, item) not in blocked and value > -INF
        ]
        pairs = sorted(pairs)[:k]
        pad = k - len(pairs)
        index.append([item for _, item in pairs] + [-1] * pad)
        values.append([-value for value, _ in pairs] + [-INF] * pad)
    return torch.tensor(index), torch.tensor(values)


def rounded_scores(num_users, num_items, levels, seed=0):
    """Scores of both signs with many ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_users, num_items, generator=generator)
    return (scores * levels).round() / levels


def test_seen_items_are_sorted_and_counted_once():
    edge_index = torch.tensor([[2, 0, 2, 2], [3, 1, 0, 3]])
    seen = SeenItems.from_edge_index(edge_index, num_users=4, num_items=5)
    assert seen.rowptr.tolist() == [0, 1, 1, 3, 3]
    assert seen.col.tolist() == [1, 0, 3]
    assert seen.num_seen.tolist() == [1, 0, 2, 0]
    assert seen.num_users == 4


def test_seen_items_without_edges():
    seen = SeenItems.from_edge_index(torch.empty(2, 0, dtype=torch.long), 3, 2)
    scores = torch.ones(2, 2)
    seen.mask_(scores, torch.tensor([2, 0]))
    assert seen.num_seen.tolist() == [0, 0, 0]
    assert scores.eq(1).all()


def test_mask_equals_a_dense_mask_for_repeated_and_unordered_users():
    generator = torch.Generator().manual_seed(1)
    dense = torch.rand(6, 9, generator=generator) < 0.4
    dense[3] = False
    seen = SeenItems.from_edge_index(dense.nonzero().t(), 6, 9)
    users = torch.tensor([5, 3, 0, 5, 1])
    scores = torch.randn(5, 9, generator=generator)
    expected = scores.masked_fill(dense[users], -INF)
    seen.mask_(scores, users)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize('levels', [1, 4, 1000])
@pytest.mark.parametrize('k', [1, 4, 12])
def test_lists_equal_a_sort_by_score_then_item(levels, k):
    scores = rounded_scores(20, 12, levels)
    scores[3] = 0.5  # Everything tied.
    scores[4] = -0.5
    scores[5, 2:] = -INF
    index, values = naive_top(list(enumerate(scores)), k)
    ranking = top_items(scores, k)
    assert torch.equal(ranking.item_index, index)
    torch.testing.assert_close(ranking.scores, values)


@pytest.mark.parametrize('levels', [1, 5, 1000])
@pytest.mark.parametrize(
    ('num_items', 'k'), [(512, 1), (1087, 2), (1536, 3), (2600, 5)]
)
def test_long_rows_equal_a_sort_by_score_then_item(num_items, k, levels):
    scores = rounded_scores(18, num_items, levels)
    scores[0] = 0.5  # Everything tied.
    scores[1] = -INF
    scores[2, 3:] = -INF
    scores[3, : num_items - 2] = -INF
    scores[4] = -0.5
    scores[4, 69::70] = 2.0  # Less than one per run of columns.
    scores[5, ::2] = -INF
    scores[6, 7] = INF
    scores[7] = torch.arange(float(num_items))
    index, values = naive_top(list(enumerate(scores)), k)
    for block in (scores, scores.t().contiguous().t()):
        ranking = top_items(block, k)
        assert torch.equal(ranking.item_index, index)
        torch.testing.assert_close(ranking.scores, values)


def test_a_transposed_block_is_masked_in_place():
    seen = SeenItems.from_edge_index(torch.tensor([[0, 1], [2, 0]]), 2, 3)
    block = torch.zeros(3, 2)
    seen.mask_(block.t(), torch.tensor([1, 0]))
    assert block.tolist() == [[-INF, 0.0], [0.0, 0.0], [0.0, -INF]]


def test_ties_across_the_last_place_go_to_the_lower_item():
    # Wide enough that torch.topk alone returns other items.
    scores = torch.zeros(3, 1000)
    scores[1, 700] = 1.0
    scores[2, 5] = -1.0
    ranking = top_items(scores, k=4)
    assert ranking.item_index.tolist() == [[0, 1, 2, 3], [700, 0, 1, 2], [0, 1, 2, 3]]


def test_ties_between_rows_without_ties_leave_those_alone():
    scores = torch.stack([torch.arange(50.0), torch.full((50,), -2.0)])
    ranking = top_items(scores, k=3)
    assert ranking.item_index.tolist() == [[49, 48, 47], [0, 1, 2]]
    assert ranking.scores.tolist() == [[49, 48, 47], [-2, -2, -2]]


def test_short_rows_end_in_padding():
    scores = torch.tensor([[-INF, -3.0, -INF], [-INF, -INF, -INF]])
    ranking = top_items(scores, k=2)
    assert ranking.item_index.tolist() == [[1, -1], [-1, -1]]
    assert ranking.scores.tolist() == [[-3.0, -INF], [-INF, -INF]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.double])
def test_the_dtype_of_the_scores_is_kept(dtype):
    scores = rounded_scores(4, 30, levels=2).to(dtype)
    ranking = top_items(scores, k=7)
    index, _ = naive_top(list(enumerate(scores)), 7)
    assert ranking.scores.dtype == dtype
    assert torch.equal(ranking.item_index, index)


@pytest.mark.parametrize('batch_size', [1, 3, 100])
@pytest.mark.parametrize('tables', [True, False])
def test_seen_and_other_items_are_left_out_in_batches_of_any_size(batch_size, tables):
    generator = torch.Generator().manual_seed(2)
    # Small integers, so that products are exact and tie often.
    user_x = torch.randint(-2, 3, (8, 3), generator=generator).float()
    item_x = torch.randint(-2, 3, (15, 3), generator=generator).float()
    full = user_x @ item_x.t()
    dense = torch.rand(8, 15, generator=generator) < 0.3
    dense[6] = True
    seen = SeenItems.from_edge_index(dense.nonzero().t(), 8, 15)
    candidates = torch.rand(15, generator=generator) < 0.8
    users = torch.tensor([7, 6, 0, 0, 3, 2, 1])

    dense |= ~candidates
    blocked = {tuple(pair) for pair in dense.nonzero().tolist()}
    index, values = naive_top([(u, full[u]) for u in users.tolist()], 6, blocked)
    ranking = rank_items(
        (user_x, item_x) if tables else full.__getitem__,
        users,
        6,
        seen=seen,
        batch_size=batch_size,
        candidates=candidates,
    )
    assert torch.equal(ranking.item_index, index)
    torch.testing.assert_close(ranking.scores, values)
    assert ranking.item_index[1].tolist() == [-1] * 6


def test_a_table_returned_by_the_function_is_not_modified():
    table = rounded_scores(4, 6, levels=100)
    before = table.clone()
    seen = SeenItems.from_edge_index(torch.tensor([[0, 3], [1, 2]]), 4, 6)
    candidates = torch.arange(6) > 0
    # A slice is a view, unlike a row chosen by index.
    rank_items(lambda users: table[: users.numel()], torch.arange(4), 2, seen=seen)
    rank_items(lambda _: table, torch.arange(4), 2, candidates=candidates)
    assert torch.equal(table, before)


def test_results_may_take_part_in_training():
    user_x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    item_x = torch.nn.Parameter(user_x.clone())
    ranking = rank_items((user_x, item_x), torch.arange(3), 2)
    assert not ranking.scores.requires_grad
    (item_x[ranking.item_index].sum() * ranking.scores.sum()).backward()
    assert item_x.grad is not None


def test_no_users_give_no_rows():
    table = torch.ones(3, 2)
    ranking = rank_items((table, table), torch.empty(0, dtype=torch.long), 2)
    assert ranking.item_index.size() == (0, 2)


def test_k_beyond_the_catalogue_names_both():
    table = torch.ones(3, 2)
    message = r"'k' must be at most the catalogue size of 3 \(got 4\)"
    with pytest.raises(ValueError, match=message):
        rank_items((table, table), torch.arange(3), 4)


@pytest.mark.parametrize('place', [0, 3, 1099])
@pytest.mark.parametrize('size', [1100, 4])
def test_nan_is_refused_wherever_it_stands(place, size):
    scores = torch.arange(float(size)).repeat(2, 1)
    place = min(place, size - 1)
    scores[1, place] = float('nan')
    with pytest.raises(ValueError, match="'scores' must contain numbers"):
        top_items(scores, 2)


def test_errors():
    table = torch.ones(3, 2)
    users = torch.arange(3)
    seen = SeenItems.from_edge_index(torch.tensor([[0], [1]]), 3, 4)
    with pytest.raises(ValueError, match="'k' must be positive"):
        rank_items((table, table), users, 0)
    with pytest.raises(ValueError, match="'batch_size' must be positive"):
        rank_items((table, table), users, 1, batch_size=0)
    with pytest.raises(ValueError, match=r"'users'.*below 3 \(got 0 to 3\)"):
        rank_items((table, table), torch.tensor([0, 3]), 1)
    with pytest.raises(ValueError, match=r"'users'.*below 3 \(got -1 to 0\)"):
        rank_items(lambda u: table[u], torch.tensor([-1, 0]), 1, seen=seen)
    with pytest.raises(ValueError, match=r"'seen'.*\(got 4 and 3 items\)"):
        rank_items((table, table), users, 1, seen=seen)
    with pytest.raises(ValueError, match=r"'score' must.*\[3, num_items\].*int64"):
        rank_items(lambda u: table.long(), users, 1)
    with pytest.raises(ValueError, match=r"'score' must return.*\(got \[2, 2\]"):
        rank_items(lambda u: table[:2], users, 1)
    with pytest.raises(ValueError, match=r"'candidates' must.*\[3\].*int64"):
        rank_items((table, table), users, 1, candidates=users)
    with pytest.raises(ValueError, match=r"'candidates' must.*\(got \[2\]"):
        rank_items((table, table), users, 1, candidates=users[:2] > 0)
    with pytest.raises(
        ValueError, match=r"'edge_index' requires target ids in \[0, 4\)"
    ):
        SeenItems.from_edge_index(torch.tensor([[0], [4]]), 3, 4)
    with pytest.raises(
        ValueError, match=r"'edge_index' requires source ids in \[0, 3\)"
    ):
        SeenItems.from_edge_index(torch.tensor([[3], [0]]), 3, 4)
