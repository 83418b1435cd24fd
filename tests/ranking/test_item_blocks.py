import pytest
import torch

from promptmm_pyg.ranking import SeenItems, rank_items
from tests.ranking.naive import Allocations, naive_lists


def random_case(seed):
    """Tables whose scores tie often and have both signs, and what to leave out."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    num_users, num_items = draw(1, 9), draw(1, 30)
    # Small integers, so that products are exact in any block.
    levels = draw(0, 2)
    user_x = torch.randint(-levels, levels + 1, (num_users, 3), generator=generator)
    item_x = torch.randint(-levels, levels + 1, (num_items, 3), generator=generator)
    share = float(torch.rand((), generator=generator))
    dense = torch.rand(num_users, num_items, generator=generator) < share
    dense[draw(0, num_users - 1)] = True
    candidates = torch.rand(num_items, generator=generator) < 0.8
    users = torch.randint(num_users, (draw(1, 12),), generator=generator)
    k = [1, draw(1, num_items), max(1, num_items - 1), num_items][draw(0, 3)]
    return user_x.float(), item_x.float(), dense, candidates, users, k


def as_seen(dense):
    return SeenItems.from_edge_index(dense.nonzero().t(), *dense.size())


def pairs_of(dense):
    return {tuple(pair) for pair in dense.nonzero().tolist()}


@pytest.mark.parametrize('seed', range(40))
def test_lists_equal_a_full_sort_in_blocks_of_any_size(seed):
    user_x, item_x, dense, candidates, users, k = random_case(seed)
    index, values = naive_lists(user_x, item_x, users, k, pairs_of(dense | ~candidates))
    num_items = item_x.size(0)
    for item_batch_size in {1, 2, 7, max(1, num_items - 1), num_items, 1000}:
        ranking = rank_items(
            (user_x, item_x),
            users,
            k,
            seen=as_seen(dense),
            batch_size=4,
            candidates=candidates,
            item_batch_size=item_batch_size,
        )
        assert torch.equal(ranking.item_index, index), item_batch_size
        torch.testing.assert_close(ranking.scores, values)


@pytest.mark.parametrize('item_batch_size', [1, 3, 4, 9, 10])
def test_ties_across_blocks_go_to_the_lower_item(item_batch_size):
    user_x = torch.tensor([[1.0], [-1.0], [0.0]])
    item_x = torch.tensor([0.0, 2, 2, -1, 2, 0, 2, -1, 2, 2]).view(-1, 1)
    users = torch.arange(3)
    ranking = rank_items((user_x, item_x), users, 4, item_batch_size=item_batch_size)
    expected = [[1, 2, 4, 6], [3, 7, 0, 5], [0, 1, 2, 3]]
    assert ranking.item_index.tolist() == expected


@pytest.mark.parametrize('seed', range(3))
def test_real_numbers_give_the_lists_of_a_full_sort(seed):
    generator = torch.Generator().manual_seed(seed)
    user_x = torch.randn(6, 8, generator=generator)
    item_x = torch.randn(50, 8, generator=generator)
    users = torch.arange(6)
    index, values = naive_lists(user_x, item_x, users, 20)
    ranking = rank_items((user_x, item_x), users, 20, item_batch_size=7)
    assert torch.equal(ranking.item_index, index)
    torch.testing.assert_close(ranking.scores, values)


def test_infinite_scores_keep_their_places():
    user_x = torch.ones(1, 1)
    inf = float('inf')
    item_x = torch.tensor([[1.0], [inf], [-inf], [inf], [-2.0]])
    ranking = rank_items(
        (user_x, item_x), torch.zeros(1, dtype=torch.long), 5, item_batch_size=2
    )
    assert ranking.item_index.tolist() == [[1, 3, 0, 4, -1]]
    assert ranking.scores.tolist() == [[inf, inf, 1.0, -2.0, -inf]]


def test_tables_need_not_be_contiguous():
    user_x, item_x, dense, _, users, _ = random_case(seed=5)
    wide = torch.stack([item_x, -item_x], dim=2)  # A stride of two between numbers.
    expected = rank_items((user_x, item_x), users, 1, seen=as_seen(dense))
    ranking = rank_items(
        (user_x.t().contiguous().t(), wide[..., 0]),
        users,
        1,
        seen=as_seen(dense),
        item_batch_size=3,
    )
    assert torch.equal(ranking.item_index, expected.item_index)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('item_batch_size', [None, 4])
def test_half_tables_are_scored_in_single_precision(dtype, item_batch_size):
    generator = torch.Generator().manual_seed(0)
    user_x = torch.randn(5, 16, generator=generator).to(dtype)
    item_x = torch.randn(40, 16, generator=generator).to(dtype)
    # The second wins by less than a step of half precision at 512.
    user_x[0], item_x[:2] = 16, 2
    item_x[1, 0] = 2.015625
    users = torch.arange(5)
    index, values = naive_lists(user_x, item_x, users, 10)
    ranking = rank_items((user_x, item_x), users, 10, item_batch_size=item_batch_size)
    assert ranking.scores.dtype == torch.float32
    assert torch.equal(ranking.item_index, index)
    torch.testing.assert_close(ranking.scores, values)


def test_half_tables_do_not_overflow():
    table = torch.full((2, 4), 300.0, dtype=torch.float16)
    table[1] = 299
    ranking = rank_items((table, table), torch.tensor([0]), 2)
    assert ranking.item_index.tolist() == [[0, 1]]
    assert ranking.scores.tolist() == [[360_000.0, 358_800.0]]


def test_autocast_does_not_round_the_scores():
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(30, 16, generator=generator)
    users = torch.arange(3)
    expected = rank_items((table, table), users, 30)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        ranking = rank_items((table, table), users, 30)
    assert ranking.scores.dtype == torch.float32
    assert torch.equal(ranking.item_index, expected.item_index)


def test_the_finer_of_two_precisions_is_that_of_the_scores():
    half, double = torch.ones(2, 3).half(), torch.ones(4, 3).double() / 3
    ranking = rank_items((half, double), torch.arange(2), 2, item_batch_size=3)
    assert ranking.scores.dtype == torch.double
    expected = torch.ones(2, 2, dtype=torch.double)
    torch.testing.assert_close(ranking.scores, expected)


@pytest.mark.parametrize('tied', [True, False])
def test_no_tensor_exceeds_the_stated_bound(tied):
    generator = torch.Generator().manual_seed(2)
    user_x = torch.randn(40, 2, generator=generator)
    item_x = torch.ones(300, 2) if tied else torch.randn(300, 2, generator=generator)
    users, batch_size, item_batch_size, k = torch.arange(40), 10, 50, 3
    with Allocations() as made:
        rank_items(
            (user_x, item_x),
            users,
            k,
            batch_size=batch_size,
            candidates=torch.arange(300) > 0,
            item_batch_size=item_batch_size,
        )
    assert made.largest <= batch_size * (item_batch_size + 2 * k)
    # It would see a larger one.
    with Allocations() as made:
        rank_items((user_x, item_x), users, k, batch_size=batch_size)
    assert made.largest == batch_size * 300


def test_a_seen_item_beyond_all_numbers_is_left_out_of_its_block():
    user_x = torch.ones(1, 1)
    item_x = torch.tensor([[1.0], [2.0], [float('nan')], [3.0]])
    seen = SeenItems.from_edge_index(torch.tensor([[0], [2]]), 1, 4)
    users = torch.tensor([0])
    ranking = rank_items((user_x, item_x), users, 2, seen=seen, item_batch_size=2)
    assert ranking.item_index.tolist() == [[3, 1]]
    with pytest.raises(ValueError, match="'scores' must contain numbers"):
        rank_items((user_x, item_x), users, 2, item_batch_size=2)


def test_no_users_give_no_rows():
    table = torch.ones(5, 2)
    empty = torch.empty(0, dtype=torch.long)
    seen = SeenItems.from_edge_index(torch.tensor([[0], [1]]), 5, 5)
    ranking = rank_items((table, table), empty, 2, seen=seen, item_batch_size=2)
    assert ranking.item_index.size() == (0, 2)


def test_errors_come_before_any_score():
    table = torch.ones(3, 2)
    users = torch.arange(3)
    with pytest.raises(ValueError, match=r"'item_batch_size' must be positive"):
        rank_items((table, table), users, 1, item_batch_size=0)
    with pytest.raises(ValueError, match="require embeddings as 'score'"):
        rank_items(lambda u: table, users, 1, item_batch_size=2)
    with pytest.raises(ValueError, match=r"'k' must be at most.*of 3 \(got 4\)"):
        rank_items((table, table), users, 4, item_batch_size=2)
    with pytest.raises(ValueError, match=r"'item_x' must contain floating.*int64"):
        rank_items((table, table.long()), users, 1)
    with pytest.raises(ValueError, match=r"'user_x' must contain floating.*bool"):
        rank_items((table > 0, table), users, 1)
    with pytest.raises(ValueError, match=r"'user_x' and 'item_x' must.*one width"):
        rank_items((table, table[:, :1]), users, 1)
    nan = torch.full((3, 2), float('nan'))
    late = torch.tensor([0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"'users'.*below 3 \(got 0 to 3\)"):
        rank_items((nan, nan), late, 1, batch_size=1, item_batch_size=1)
