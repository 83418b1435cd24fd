import re

import pytest
import torch

from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.ranking._budget import Sizes, parse_memory, plan
from tests.ranking.naive import Allocations

MIB = 2**20


@pytest.mark.parametrize(
    ('text', 'size'),
    [
        (7, 7),
        ('7B', 7),
        ('2GiB', 2 * 2**30),
        ('1.5 kib', 1536),
        ('500 MB', 500_000_000),
        ('3TiB', 3 * 2**40),
    ],
)
def test_bytes_are_read_from_numbers_and_text(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    'wrong', [0, -1, '0GiB', '2', '2G', 'GiB', '-1MiB', '1e3MB', True, 2.5, None]
)
def test_other_budgets_are_refused(wrong):
    with pytest.raises(
        ValueError, match=r"'memory_limit' must be a positive number of bytes"
    ):
        parse_memory(wrong)


def sizes(**changes):
    default = {
        'num_users': 500,
        'num_items': 100_000,
        'k': 20,
        'width': 16,
        'score_size': 4,
        'copied_size': 0,
    }
    return Sizes(**default | changes)


def test_a_large_budget_does_not_change_the_blocks():
    assert plan(sizes(), 2**40, 128, 100_000) == (128, 100_000)
    assert plan(sizes(), 2**40, 1024, 100_000) == (500, 100_000)


def test_items_are_blocked_before_users():
    rows, items = plan(sizes(), 20 * MIB, 128, 100_000)
    assert rows == 128
    assert 1024 <= items < 100_000
    assert sizes().need(rows, items) <= 20 * MIB


def test_blocks_are_of_one_length():
    sized = sizes(num_items=10_000)
    budget = sized.need(128, 9_999)
    assert plan(sized, budget, 128, 10_000) == (128, 5_000)


def test_a_smaller_budget_lowers_the_number_of_users():
    budget = sizes().need(40, 1024)
    rows, items = plan(sizes(), budget, 128, 100_000)
    assert rows == 32
    assert sizes().need(rows, items) <= budget


def test_the_smallest_budget_is_named_and_suffices():
    smallest = sizes().need(1, 1024)
    message = (
        rf"'memory_limit' must be at least {smallest} bytes \(0\.\d\d MiB\) to rank "
        rf'100000 items for 500 users \(got {smallest - 1} bytes, .* MiB\)\. The lists '
        rf'use 0\.11 MiB; with blocks of 128 users and 100000 items the total is .* MiB'
    )
    with pytest.raises(ValueError, match=message):
        plan(sizes(), smallest - 1, 128, 100_000)
    assert plan(sizes(), smallest, 128, 100_000)[0] == 1


def test_what_was_seen_counts_for_the_users_who_are_ranked_together():
    seen = SeenItems.from_edge_index(
        torch.tensor([[0, 0, 0, 1, 3, 3], [0, 1, 2, 0, 3, 4]]), 4, 5
    )
    before = seen.seen_before(torch.tensor([1, 0, 2, 3, 3]))
    assert before.tolist() == [0, 1, 4, 4, 6, 8]
    with_seen = sizes(num_users=5, seen_before=before)
    without = sizes(num_users=5)
    extra = [with_seen.need(r, 9) - without.need(r, 9) for r in (1, 2, 3, 5)]
    # At most 3 of one user, 4 of two (the first two, or the last), 8 of all.
    assert [x * 3 / extra[0] for x in extra] == [3, 4, 4, 8]
    # A last batch that is not full counts, too: that of the user who saw 3.
    last = sizes(num_users=3, seen_before=seen.seen_before(torch.tensor([1, 2, 0])))
    assert last.need(2, 9) - without.need(2, 9) + 2 * 20 * 12 == extra[0]


def tables(num_users, num_items, width, dtype, tied):
    generator = torch.Generator().manual_seed(0)
    # Small integers, so that products are exact in any block.
    user_x = torch.randint(-8, 9, (num_users, width), generator=generator)
    item_x = torch.randint(-8, 9, (num_items, width), generator=generator)
    return user_x.to(dtype), (torch.ones_like(item_x) if tied else item_x).to(dtype)


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ('num_users', 'num_items', 'width', 'k', 'share'),
    [
        (20, 2000, 4, 5, 0.02),
        (20, 1100, 8, 5, 0.8),
        (9, 2000, 64, 500, 0.1),
        (20, 400, 2, 400, 0.0),
        (3, 3000, 2, 1, 0.1),
        (200, 8, 1, 1, 0.5),
    ],
)
def test_the_budget_is_kept(num_users, num_items, width, k, share, dtype, tied):
    pair = tables(num_users, num_items, width, dtype, tied)
    generator = torch.Generator().manual_seed(1)
    dense = torch.rand(num_users, num_items, generator=generator) < share
    seen = SeenItems.from_edge_index(dense.nonzero().t(), num_users, num_items)
    candidates = torch.rand(num_items, generator=generator) < 0.9
    users = torch.arange(num_users)

    def rank(memory):
        return rank_items(
            pair, users, k, seen=seen, candidates=candidates, memory_limit=memory
        )

    with pytest.raises(ValueError, match="'memory_limit' must be at least") as caught:
        rank(1)
    smallest = int(re.search(r'at least (\d+) bytes', str(caught.value))[1])
    expected = rank('1GiB')
    for memory in (smallest, 3 * smallest):
        with Allocations() as made:
            ranking = rank(memory)
        assert made.peak <= memory
        assert torch.equal(ranking.item_index, expected.item_index)
        torch.testing.assert_close(ranking.scores, expected.scores)
    # The estimate is one of this work: within a few times of what is taken.
    assert made.peak > smallest / 6


def test_the_budget_holds_what_ties_take():
    user_x, item_x = torch.ones(64, 1), torch.ones(4000, 1)
    need = Sizes(
        num_users=64,
        num_items=4000,
        k=4,
        width=1,
        score_size=4,
        copied_size=0,
        num_threads=torch.get_num_threads(),
    )
    memory = need.need(64, 2000)
    with Allocations() as made:
        rank_items((user_x, item_x), torch.arange(64), 4, memory_limit=memory)
    assert made.largest == 64 * 2000
    assert 64 * 2000 * 5 < made.peak <= memory


def test_a_budget_too_small_is_refused_before_a_score():
    pair = tables(50, 4000, 4, torch.float32, tied=False)
    with (
        Allocations() as made,
        pytest.raises(ValueError, match="'memory_limit' must be at least"),
    ):
        rank_items(pair, torch.arange(50), 10, memory_limit='10KiB')
    assert made.largest <= 50


def test_smaller_blocks_that_are_asked_for_stay_so():
    pair = tables(50, 4000, 4, torch.float32, tied=False)
    with Allocations() as made:
        rank_items(
            pair,
            torch.arange(50),
            10,
            batch_size=10,
            item_batch_size=100,
            memory_limit='1GiB',
        )
    assert made.largest == 10 * 100


def test_a_function_takes_no_budget():
    with pytest.raises(ValueError, match="require embeddings as 'score'"):
        rank_items(lambda u: torch.ones(3, 3), torch.arange(3), 1, memory_limit='1GiB')
