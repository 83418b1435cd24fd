r"""Training by several processes, by the semantics of
:class:`~torch.nn.parallel.DistributedDataParallel`.

All processes draw the same global batch from the same seed and hold the same
parameters. Process :math:`r` computes the losses :math:`\ell_r` of its shard, a
fraction :math:`f_r` of the batch, and the gradient of a step is :math:`\sum_r f_r
\nabla \ell_r`. For losses that are means over the examples this is the gradient of the
global batch; losses between the examples of a batch see those of their shard.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import HeteroData

from promptmm_pyg._distributed import (
    _on_backend,
    assert_equal_across_ranks,
    broadcast,
    rank_and_size,
)
from promptmm_pyg.data.schema import INTERACTS, modality_x_dict
from promptmm_pyg.nn.sharded_embeddings import sharded_parameters


@contextmanager
def process_group(
    timeout: timedelta = timedelta(minutes=10),
) -> Iterator[torch.device]:
    """Initializes the process group of ``torchrun`` within a ``with`` block, and yields
    the device of this process: its GPU with nccl, or else the CPU with gloo. Without
    ``torchrun`` the block runs in one process.

    If a process raises, the others raise, too, after ``timeout`` at the latest.

    Args:
        timeout: The longest wait for another process. It must be longer than what one
            process does alone, such as reading a large data set.
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


def broadcast_module(module: torch.nn.Module) -> None:
    """Copies the parameters and the persistent buffers of rank 0 to every process,
    but for the rows of sharded tables.

    Raises:
        ValueError: If another process has parameters of other shapes.
    """
    if rank_and_size()[1] == 1:
        return
    state = {key: x for key, x in module.state_dict().items() if isinstance(x, Tensor)}
    named = {**state, **dict(module.named_parameters())}
    for name in sharded_parameters(module):
        del named[name]
    assert_equal_across_ranks(
        'module', [(k, tuple(x.shape), str(x.dtype)) for k, x in named.items()]
    )
    with torch.no_grad():
        for x in named.values():
            broadcast(x.detach())


def assert_same_rows_across_ranks(name: str, x: Tensor) -> None:
    """Raises on every rank unless all hold equal rows in ``x``."""
    if rank_and_size()[1] > 1:
        flat = x.detach().cpu().contiguous().view(-1).view(torch.uint8)
        assert_equal_across_ranks(
            name, (tuple(x.shape), hashlib.sha256(flat.numpy().data).hexdigest())
        )


def assert_same_data_across_ranks(train: HeteroData, val: HeteroData) -> None:
    """Raises on every rank unless all have the same held-out interactions, and equal
    features in a sample of rows; training interactions are compared by their loader.
    """
    if rank_and_size()[1] == 1:
        return
    if 'edge_label_index' in val[INTERACTS]:
        assert_same_rows_across_ranks('val', val[INTERACTS].edge_label_index)
    for modality, x_dict in sorted(modality_x_dict(train).items()):
        for key, x in sorted(x_dict.items()):
            rows = x[:: max(1, x.size(0) // 100)]
            assert_same_rows_across_ranks(f'{modality} features of {key}', rows)


class _Step(torch.nn.Module):
    """The module that DDP wraps: its forward returns the losses of a batch."""

    def __init__(self, module: torch.nn.Module, step: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.step = step

    def forward(self, *args: Any) -> Any:
        return self.step(*args)


def data_parallel(
    module: torch.nn.Module, step: Callable[..., Any]
) -> tuple[Callable[..., Any], list[torch.nn.Parameter]]:
    """Returns ``step`` with gradients of ``module`` averaged over processes in its
    backward, and the parameters for :func:`average_sparse_gradients` after it: tables
    with sparse gradients, which DDP does not support on every backend. Sharded tables
    average their gradients themselves.
    """
    if rank_and_size()[1] == 1:
        return step, []
    wrapped = _Step(module, step)
    named = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    sharded = sharded_parameters(wrapped)
    sparse = {
        name: p
        for name, p in named.items()
        if getattr(p, 'sparse_grad', False) and name not in sharded
    }
    if named.keys() == sparse.keys() | sharded.keys():
        return step, list(sparse.values())
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        wrapped, [*sparse, *sharded]
    )
    # A step may not use all parameters, such as those of a disabled prompt.
    parallel = DistributedDataParallel(
        wrapped, broadcast_buffers=False, find_unused_parameters=True
    )
    return parallel, list(sparse.values())


def average_sparse_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replaces gradients by their mean over processes; sparse gradients stay sparse,
    with the rows of all processes. A parameter without a gradient counts as zero.
    """
    _, size = rank_and_size()
    for p in parameters:
        grad = p.grad
        if grad is not None and not grad.is_sparse:  # Not only looked up by id.
            dist.all_reduce(grad)
            p.grad = grad / size
            continue
        rows = torch.zeros(0, dtype=torch.long, device=p.device)
        values = p.new_zeros(0, *p.shape[1:])
        if grad is not None:
            grad = grad.coalesce()
            rows, values = grad.indices()[0], grad.values()
        rows, values = _all_gather_rows(rows), _all_gather_rows(values)
        p.grad = torch.sparse_coo_tensor(
            rows[None], values / size, p.shape, check_invariants=False
        ).coalesce()


def _all_gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, whose numbers may differ."""
    rank, size = rank_and_size()
    counts = torch.zeros(size, dtype=torch.long)
    counts[rank] = x.size(0)
    counts = _on_backend(counts)
    dist.all_reduce(counts)
    longest = int(counts.max())
    padded = x.new_zeros(longest, *x.shape[1:])
    padded[: x.size(0)] = x
    gathered = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(gathered, padded)
    return torch.cat(
        [part[:count] for part, count in zip(gathered, counts.tolist(), strict=True)]
    )
