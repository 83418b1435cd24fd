import pytest
import torch

import promptmm_pyg._distributed as distributed
from promptmm_pyg._distributed import (
    _picklable,
    all_reduce_sum,
    assert_equal_across_ranks,
    map_sharded,
    rank_and_size,
    run_on_all,
    run_on_rank0,
    shard,
    shard_rows,
)


def shards(size, length, block=1):
    return [shard(length, rank, size, block) for rank in range(size)]


@pytest.mark.parametrize('size', [1, 2, 3, 7])
@pytest.mark.parametrize('length', [1, 2, 10, 23])
@pytest.mark.parametrize('block', [1, 4, 50])
def test_shards_are_consecutive_whole_blocks(size, length, block):
    parts = shards(size, length, block)
    rows = [row for part in parts for row in range(length)[part]]
    assert rows == list(range(length))
    assert all(p.start % block == 0 or p.start == length for p in parts)
    numbers = [-(-(p.stop - p.start) // block) for p in parts]
    assert max(numbers) - min(numbers) <= 1


def test_two_processes_halve_ten_rows():
    assert shards(2, 10) == [slice(0, 5), slice(5, 10)]
    assert shards(2, 10, block=4) == [slice(0, 4), slice(4, 10)]


@pytest.mark.parametrize('size', [1, 2, 5, 9])
@pytest.mark.parametrize('length', [1, 3, 8])
def test_weighted_means_over_shards_add_up_to_the_mean(monkeypatch, size, length):
    x = torch.arange(1.0, length + 1, dtype=torch.double) ** 2
    total = 0.0
    for rank in range(size):
        monkeypatch.setattr(distributed, 'rank_and_size', lambda r=rank: (r, size))
        (part, same), fraction = shard_rows(x, x)
        assert torch.equal(part, same)
        total += fraction * part.mean()
    torch.testing.assert_close(total, x.mean())


def test_one_process_does_everything_and_errors_are_unchanged():
    def fail():
        raise KeyError('original')

    x = torch.arange(3)
    assert rank_and_size() == (0, 1)
    (part,), fraction = shard_rows(x)
    assert part is x
    assert fraction == 1
    assert torch.equal(all_reduce_sum(x), x)
    for run in (run_on_rank0, run_on_all):
        assert run(lambda: 3) == 3
        with pytest.raises(KeyError, match='original'):
            run(fail)
    assert_equal_across_ranks('anything', object())
    calls = []

    def work(rows):
        calls.append(rows)
        return [torch.arange(7)[rows]]

    assert map_sharded(work, 7, 2)[0].tolist() == list(range(7))
    assert calls == [slice(0, 7)]


class OddError(Exception):
    def __init__(self, first, second):
        super().__init__(f'{first} and {second}')


def test_errors_that_cannot_be_pickled_become_their_text():
    sent = _picklable(OddError('one', 'two'))
    assert type(sent) is RuntimeError
    assert str(sent) == 'OddError: one and two'
    error = ValueError('unchanged')
    assert _picklable(error) is error
