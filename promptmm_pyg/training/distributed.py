r"""Training by several processes, each of which takes its part of every batch.

All processes draw the same global batch from the same seed and hold the same
parameters. Process :math:`r` computes a loss :math:`\ell_r` such that :math:`\sum_r
\ell_r` is the loss of the global batch; gradients are summed between backward and
step. All draws (dropout on node tables, negatives, candidates) are the same draws in
every process, so the run is that of one process, up to the order in which sums are
taken.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from promptmm_pyg._distributed import (
    Share,
    all_reduce,
    assert_equal_across_ranks,
    broadcast,
)

_BUCKET_BYTES = 2**25
_NONE, _SPARSE, _DENSE = range(3)


@contextmanager
def process_group(
    timeout: timedelta = timedelta(minutes=10),
) -> Iterator[torch.device]:
    """Joins the processes that ``torchrun`` started for the length of a ``with`` block,
    and yields the device of this one: by nccl its GPU where there is one, by gloo the
    CPU otherwise. Without ``torchrun`` the block is run by one process.

    A process that raises leaves the group, and the others raise, too, as soon as they
    miss it: at once where its connection breaks, after ``timeout`` at the latest.

    Args:
        timeout: How long a process waits for another. It has to be longer than what a
            single process does alone, such as reading a large data set.
            (default: ten minutes)

    Raises:
        ValueError: If there are more processes than GPUs on this machine.

    Example:
        >>> with process_group() as device:
        ...     print(device.type in ('cpu', 'cuda'))
        True
    """
    device = _device()
    if 'RANK' not in os.environ or dist.is_initialized():
        yield device
        return
    backend = 'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo'
    dist.init_process_group(backend, timeout=timeout)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over processes of a value, without its gradient."""
    if Share.current().size == 1:
        return x.detach()
    total = x.detach().clone()
    all_reduce(total)
    return total


def broadcast_module(module: torch.nn.Module) -> None:
    """Gives every process the parameters of rank 0, and what else a checkpoint of
    ``module`` holds; features and graphs are not sent.

    Raises:
        ValueError: If another process has parameters of other shapes.
    """
    if Share.current().size == 1:
        return
    state = {key: x for key, x in module.state_dict().items() if isinstance(x, Tensor)}
    named = {**state, **dict(module.named_parameters())}
    assert_equal_across_ranks(
        'module', [(k, tuple(x.shape), str(x.dtype)) for k, x in named.items()]
    )
    with torch.no_grad():
        for x in named.values():
            broadcast(x.detach())


def assert_same_rows_across_ranks(name: str, x: Tensor) -> None:
    """Raises at every rank unless all hold equal rows in ``x``."""
    if Share.current().size > 1:
        flat = x.detach().cpu().contiguous().view(-1).view(torch.uint8)
        assert_equal_across_ranks(
            name, (tuple(x.shape), hashlib.sha256(flat.numpy().data).hexdigest())
        )


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Leaves in every process the sum of all processes' gradients.

    Dense gradients travel in a few flat buckets, sparse ones (of rows) as the rows of
    all processes one after another. A parameter without a gradient in any process is
    left without one.
    """
    if Share.current().size == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    if not parameters:
        return
    kinds = torch.tensor([_kind(p) for p in parameters])
    all_reduce(kinds, dist.ReduceOp.MAX)
    dense = []
    for parameter, kind in zip(parameters, kinds.tolist(), strict=True):
        if kind == _SPARSE:
            parameter.grad = _joined_rows(parameter)
        elif kind == _DENSE:
            dense.append(_dense_gradient(parameter))
    for bucket in _buckets(dense):
        flat = (
            bucket[0] if len(bucket) == 1 else torch.cat([g.view(-1) for g in bucket])
        )
        all_reduce(flat)
        if len(bucket) > 1:
            parts = flat.split([g.numel() for g in bucket])
            for grad, part in zip(bucket, parts, strict=True):
                grad.copy_(part.view_as(grad))


def _kind(parameter: Tensor) -> int:
    if parameter.grad is None:
        return _NONE
    return _SPARSE if parameter.grad.is_sparse else _DENSE


def _dense_gradient(parameter: Tensor) -> Tensor:
    grad = parameter.grad
    if grad is None:
        grad = torch.zeros_like(parameter)
    elif grad.is_sparse:
        grad = grad.to_dense()
    parameter.grad = grad.contiguous()
    return parameter.grad


def _buckets(grads: list[Tensor]) -> list[list[Tensor]]:
    """Gradients of one type and device each, up to a size, in an order all share."""
    buckets: dict[tuple[torch.dtype, torch.device], list[list[Tensor]]] = {}
    for grad in grads:
        same = buckets.setdefault((grad.dtype, grad.device), [[]])
        held = sum(g.nbytes for g in same[-1])
        if same[-1] and held + grad.nbytes > _BUCKET_BYTES:
            same.append([])
        same[-1].append(grad)
    return [bucket for same in buckets.values() for bucket in same]


def _joined_rows(parameter: Tensor) -> Tensor:
    """The sum of sparse gradients that hold other rows in every process."""
    share = Share.current()
    rows = torch.zeros(0, dtype=torch.long, device=parameter.device)
    values = parameter.new_zeros(0, *parameter.shape[1:])
    if parameter.grad is not None:
        grad = parameter.grad.coalesce()
        rows, values = grad.indices()[0], grad.values()
    counts = torch.zeros(share.size, dtype=torch.long)
    counts[share.rank] = rows.numel()
    all_reduce(counts)
    index, content = [], []
    for rank, count in enumerate(counts.tolist()):
        mine = rank == share.rank
        index.append(rows if mine else rows.new_empty(count))
        content.append(values if mine else values.new_empty(count, *values.shape[1:]))
        if count:
            broadcast(index[-1], rank)
            broadcast(content[-1], rank)
    joined = torch.sparse_coo_tensor(
        torch.cat(index)[None],
        torch.cat(content),
        parameter.shape,
        check_invariants=False,
    )
    return joined.coalesce()


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device('cpu')
    local, number = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
    if local >= number:
        raise ValueError(
            f"'LOCAL_RANK' must be below the number of GPUs, {number} (got "
            f'{local}). Start torchrun with --nproc-per-node {number}'
        )
    torch.cuda.set_device(local)
    return torch.device('cuda', local)
