"""Work shared by the processes of a ``torch.distributed`` group; torch only.

Without an initialized group there is one process, and every function here runs its
work in it and returns its input.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar('T')


def rank_and_size() -> tuple[int, int]:
    """The rank of this process and the number of processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def shard(length: int, rank: int, size: int, block: int = 1) -> slice:
    """The contiguous rows of ``rank`` out of ``length``, in whole blocks except for the
    last; the shards of all ranks differ by at most one block.
    """
    number = -(-length // block)
    start, stop = (min(r * number // size * block, length) for r in (rank, rank + 1))
    return slice(start, stop)


def shard_rows(*tensors: Tensor) -> tuple[tuple[Tensor, ...], float]:
    """This process's rows of tensors that all processes hold, and their fraction of all
    rows: the factor under which the means over shards add up to the mean.

    A shard is never empty, since the mean of nothing is NaN: with fewer rows than
    processes, some hold a row with the fraction zero.
    """
    rank, size = rank_and_size()
    if size == 1:
        return tensors, 1.0
    length = tensors[0].size(0)
    rows = shard(length, rank, size)
    if rows.start == rows.stop:
        return tuple(x[:1] for x in tensors), 0.0
    return tuple(x[rows] for x in tensors), (rows.stop - rows.start) / length


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of a value over processes, without its gradient."""
    if rank_and_size()[1] == 1:
        return x.detach()
    total = _on_backend(x.detach().clone())
    dist.all_reduce(total)
    return total.to(x.device)


def broadcast(x: Tensor, rank: int = 0) -> None:
    """Copies ``x`` of ``rank`` into ``x`` of all processes."""
    sent = _on_backend(x)
    dist.broadcast(sent, rank)
    if sent is not x:
        x.copy_(sent)


def _on_backend(x: Tensor) -> Tensor:
    if dist.get_backend() == 'nccl' and not x.is_cuda:
        return x.to(torch.device('cuda', torch.cuda.current_device()))
    return x.contiguous()


def run_on_rank0(work: Callable[[], T]) -> T:
    """Calls ``work`` on rank 0 only, and returns its result, or raises its error, on
    every rank.
    """
    rank, size = rank_and_size()
    if size == 1:
        return work()
    outcome: list[Any] = [None]
    if rank == 0:
        try:
            outcome[0] = (work(), None)
        except Exception as error:
            outcome[0] = (None, _picklable(error))
    dist.broadcast_object_list(outcome, 0)
    result, raised = outcome[0]
    if raised is not None:
        raise raised
    return result  # type: ignore[no-any-return]


def run_on_all(work: Callable[[], T]) -> T:
    """Calls ``work`` on every rank and returns its result here; if it raises on some
    rank, it raises on all, so that no process waits for another.

    Raises:
        RuntimeError: If it raised on other ranks only.
    """
    _, size = rank_and_size()
    if size == 1:
        return work()
    result, raised = None, None
    try:
        result = work()
    except Exception as error:
        raised = error
    texts: list[str | None] = [None] * size
    dist.all_gather_object(texts, None if raised is None else repr(raised))
    if raised is not None:
        raise raised
    failed = [f'{rank}: {text}' for rank, text in enumerate(texts) if text is not None]
    if failed:
        raise RuntimeError(f'other processes failed ({"; ".join(failed)})')
    return result  # type: ignore[return-value]


def assert_equal_across_ranks(name: str, value: Any) -> None:
    """Raises on every rank unless all hold an equal ``value``, which must be small.

    Raises:
        ValueError: With the ranks that differ from rank 0.
    """
    _, size = rank_and_size()
    if size == 1:
        return
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    differ = [rank for rank, other in enumerate(values) if other != values[0]]
    if differ:
        raise ValueError(
            f"'{name}' must be the same in all processes (got another one at ranks "
            f'{differ} than at rank 0). Use the same files, options and seeds'
        )


def map_sharded(
    work: Callable[[slice], Sequence[Tensor]], length: int, block: int
) -> list[Tensor]:
    """The rows ``[length, ...]`` of several tensors, in order: every process computes
    its shard and receives all of them.

    Args:
        work: Returns the tensors of the rows in a slice, on the CPU.
        length: The number of rows, at least one.
        block: Rows that are computed at once: shards start at its multiples, so one
            process computes the same blocks as several.
    """
    rank, size = rank_and_size()
    slices = [shard(length, r, size, block) for r in range(size)]
    local = slices[rank]
    if size == 1:
        return list(work(local))
    assert_equal_across_ranks('length', (length, block))
    parts = run_on_all(lambda: list(work(local)) if local.start < local.stop else [])
    # Every rank needs the types, and only the last one always has rows.
    kinds: list[Any] = [[(x.dtype, x.shape[1:]) for x in parts]]
    dist.broadcast_object_list(kinds, size - 1)
    results = []
    for i, (dtype, shape) in enumerate(kinds[0]):
        result = torch.empty((length, *shape), dtype=dtype)
        if parts:
            result[local] = parts[i]
        for owner, rows in enumerate(slices):
            if rows.start < rows.stop:
                broadcast(result[rows], owner)
        results.append(result)
    return results


def _picklable(error: Exception) -> Exception:
    """``error``, or its text where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f'{type(error).__name__}: {error}')
    return error
