"""This process among those of a group, and what they exchange; torch only.

Without an initialized ``torch.distributed`` group there is one process, and every
function here gives back what it was given.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar('T')


class Share(NamedTuple):
    """Which part of the work is this process's."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> 'Share':
        """That of the default group; all of the work where there is no group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def blocks(self, length: int, block: int = 1) -> slice:
        """A contiguous part of ``length`` rows, in whole blocks but for the last; the
        parts of all ranks follow each other and differ by one block at most.
        """
        number = -(-length // block)
        start, stop = (
            min(rank * number // self.size * block, length)
            for rank in (self.rank, self.rank + 1)
        )
        return slice(start, stop)

    def part(self, *tensors: Tensor) -> tuple[tuple[Tensor, ...], float]:
        """This process's rows of tensors that all processes hold, and which fraction
        of the rows that is: the factor under which means over parts add up to the
        mean. A part is never empty, since the mean of nothing is NaN: where there are
        fewer rows than processes, some hold a row that counts zero.
        """
        length = tensors[0].size(0)
        if self.size == 1:
            return tensors, 1.0
        mine = self.blocks(length)
        if mine.start == mine.stop:
            return tuple(x[:1] for x in tensors), 0.0
        return tuple(x[mine] for x in tensors), (mine.stop - mine.start) / length


def all_reduce(x: Tensor, op: Any = None) -> None:
    """Leaves in ``x`` the sum over processes, or another reduction."""
    wire = _on_wire(x)
    dist.all_reduce(wire, dist.ReduceOp.SUM if op is None else op)
    if wire is not x:
        x.copy_(wire)


def broadcast(x: Tensor, rank: int = 0) -> None:
    """Leaves in ``x`` what it is at ``rank``."""
    wire = _on_wire(x)
    dist.broadcast(wire, rank)
    if wire is not x:
        x.copy_(wire)


def _on_wire(x: Tensor) -> Tensor:
    if dist.get_backend() == 'nccl' and not x.is_cuda:
        return x.to(torch.device('cuda', torch.cuda.current_device()))
    return x.contiguous()


def run_on_rank0(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises at rank 0, at every rank; no other calls it."""
    share = Share.current()
    if share.size == 1:
        return work()
    told: list[Any] = [None]
    if share.rank == 0:
        try:
            told[0] = (work(), None)
        except Exception as error:
            told[0] = (None, _portable(error))
    dist.broadcast_object_list(told, 0)
    result, raised = told[0]
    if raised is not None:
        raise raised
    return result  # type: ignore[no-any-return]


def run_on_all(work: Callable[[], T]) -> T:
    """What ``work`` returns here, once it has returned everywhere: where it raises at
    some rank, no other goes on to wait for it.

    Raises:
        RuntimeError: If it raised, but not here.
    """
    share = Share.current()
    if share.size == 1:
        return work()
    result, raised = None, None
    try:
        result = work()
    except Exception as error:
        raised = error
    told: list[str | None] = [None] * share.size
    dist.all_gather_object(told, None if raised is None else repr(raised))
    if raised is not None:
        raise raised
    failed = [f'{rank}: {text}' for rank, text in enumerate(told) if text is not None]
    if failed:
        raise RuntimeError(f'other processes failed ({"; ".join(failed)})')
    return result  # type: ignore[return-value]


def assert_equal_across_ranks(name: str, value: Any) -> None:
    """Raises at every rank unless all hold an equal ``value``, which is small.

    Raises:
        ValueError: Naming the ranks that differ from rank 0.
    """
    share = Share.current()
    if share.size == 1:
        return
    told: list[Any] = [None] * share.size
    dist.all_gather_object(told, value)
    differ = [rank for rank, other in enumerate(told) if other != told[0]]
    if differ:
        raise ValueError(
            f"'{name}' must be the same in all processes (got another one at ranks "
            f'{differ} than at rank 0). Make it of the same files, options and seeds'
        )


def map_sharded(
    work: Callable[[slice], Sequence[Tensor]], length: int, block: int
) -> list[Tensor]:
    """The rows ``[length, ...]`` of several tensors, each process computing its part
    of them and getting them all, in their order.

    Args:
        work: Returns the tensors of the rows in a slice, on the CPU.
        length: How many rows there are; one at least.
        block: Rows that are computed at once: the parts start at its multiples, so
            that one process makes the same blocks as several.
    """
    share = Share.current()
    slices = [share._replace(rank=r).blocks(length, block) for r in range(share.size)]
    mine = slices[share.rank]
    if share.size == 1:
        return list(work(mine))
    assert_equal_across_ranks('length', (length, block))
    parts = run_on_all(lambda: list(work(mine)) if mine.start < mine.stop else [])
    # Every rank needs to know what comes, and only the last one is sure to have rows.
    kinds: list[Any] = [[(x.dtype, x.shape[1:]) for x in parts]]
    dist.broadcast_object_list(kinds, share.size - 1)
    wholes = []
    for i, (dtype, shape) in enumerate(kinds[0]):
        whole = torch.empty((length, *shape), dtype=dtype)
        if parts:
            whole[mine] = parts[i]
        for rank, rows in enumerate(slices):
            if rows.start < rows.stop:
                broadcast(whole[rows], rank)
        wholes.append(whole)
    return wholes


def _portable(error: Exception) -> Exception:
    """``error``, or what can be sent of it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f'{type(error).__name__}: {error}')
    return error
