import pytest
import torch

from promptmm_pyg._distributed import (
    Share,
    _portable,
    assert_equal_across_ranks,
    map_sharded,
    run_on_all,
    run_on_rank0,
)


def slices(size, length, block=1):
    return [Share(rank, size).blocks(length, block) for rank in range(size)]


@pytest.mark.parametrize('size', [1, 2, 3, 7])
@pytest.mark.parametrize('length', [1, 2, 10, 23])
@pytest.mark.parametrize('block', [1, 4, 50])
def test_parts_follow_each_other_in_whole_blocks(size, length, block):
    parts = slices(size, length, block)
    rows = [row for part in parts for row in range(length)[part]]
    assert rows == list(range(length))
    assert all(p.start % block == 0 or p.start == length for p in parts)
    numbers = [-(-(p.stop - p.start) // block) for p in parts]
    assert max(numbers) - min(numbers) <= 1


def test_two_processes_halve_ten_rows():
    assert slices(2, 10) == [slice(0, 5), slice(5, 10)]
    assert slices(2, 10, block=4) == [slice(0, 4), slice(4, 10)]


@pytest.mark.parametrize('size', [1, 2, 5, 9])
@pytest.mark.parametrize('length', [1, 3, 8])
def test_weighted_means_over_parts_add_up_to_the_mean(size, length):
    x = torch.arange(1.0, length + 1, dtype=torch.double) ** 2
    total = 0.0
    for rank in range(size):
        (part, same), fraction = Share(rank, size).part(x, x)
        assert torch.equal(part, same)
        total += fraction * part.mean()
    torch.testing.assert_close(total, x.mean())


def test_alone_a_process_takes_what_it_is_given():
    x = torch.arange(3)
    (part,), fraction = Share().part(x)
    assert part is x
    assert fraction == 1
    assert Share.current() == Share(0, 1)


def test_alone_everything_is_done_here_and_errors_stay_what_they_are():
    def fail():
        raise KeyError('mine')

    for do in (run_on_rank0, run_on_all):
        assert do(lambda: 3) == 3
        with pytest.raises(KeyError, match='mine'):
            do(fail)
    assert_equal_across_ranks('anything', object())
    asked = []

    def work(rows):
        asked.append(rows)
        return [torch.arange(7)[rows]]

    assert map_sharded(work, 7, 2)[0].tolist() == list(range(7))
    assert asked == [slice(0, 7)]


class OddError(Exception):
    def __init__(self, first, second):
        super().__init__(f'{first} and {second}')


def test_errors_that_cannot_be_sent_are_told():
    sent = _portable(OddError('one', 'two'))
    assert type(sent) is RuntimeError
    assert str(sent) == 'OddError: one and two'
    error = ValueError('as it is')
    assert _portable(error) is error
