"""Embedding tables whose rows are divided among processes, and their files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch_geometric.typing import NodeType

from promptmm_pyg._distributed import (
    assert_equal_across_ranks,
    rank_and_size,
    run_on_all,
    run_on_rank0,
    shard,
)
from promptmm_pyg.functional import add_rows
from promptmm_pyg.limits import check_memory
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.shards import Shards

_BLOCK = 2**16  # Rows that are drawn at once; a multiple of 16.
_COPIES = 4  # Values, two moments of Adam, and the best state.


class ShardedEmbeddings(NodeEmbeddings):
    r"""Embedding tables whose rows are divided among the processes of a
    ``torch.distributed`` group: each holds, trains and saves :math:`N_t / P` rows of
    every table.

    A call sends the distinct ids to the processes that hold their rows, and receives
    the rows; its backward sends their gradients back. The gradient of a row is the mean
    over processes, as with :class:`~torch.nn.parallel.DistributedDataParallel`, and
    sparse within :func:`~promptmm_pyg.functional.sparse_gradients`. Every process must
    make the same calls. A call without ids returns whole tables, in every process.

    Without a group these are ordinary tables. A process draws its rows as one process
    would draw them.

    Args:
        num_nodes_dict: The number of nodes per node type.
        embedding_dim: The width of every table.
        init_std: The standard deviation of a normal start. (default: Xavier uniform)

    Raises:
        ValueError: If the processes differ in ``num_nodes_dict``, or the rows of this
            machine do not fit in its free memory.

    Shapes:
        - **input:** ``n_id_dict``, ids :math:`(n_t)` of the rows to look up, one entry
          per node type *(optional: whole tables)*
        - **output:** tables :math:`(N_t, D)`, or their rows :math:`(n_t, D)`, per node
          type
    """

    def __init__(
        self,
        num_nodes_dict: dict[NodeType, int],
        embedding_dim: int,
        init_std: float | None = None,
    ) -> None:
        self.rank, self.num_shards = rank_and_size()
        assert_equal_across_ranks('num_nodes_dict', (num_nodes_dict, embedding_dim))
        run_on_all(lambda: self._check_memory(num_nodes_dict, embedding_dim))
        super().__init__(num_nodes_dict, embedding_dim, init_std)

    def _check_memory(
        self, num_nodes_dict: dict[NodeType, int], embedding_dim: int
    ) -> None:
        """Raises unless the shards of this machine fit, with moments and best state."""
        local = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        rows = sum(-(-num // self.num_shards) for num in num_nodes_dict.values())
        check_memory(
            f"'num_nodes_dict' ({rows:,} rows of width {embedding_dim} per process, "
            f'with moments and best state, {local} processes on this machine)',
            local * _COPIES * 4 * embedding_dim * rows,
            "Use more machines, or a smaller 'embedding_dim'",
        )

    def local_rows(self, node_type: NodeType) -> slice:
        """The rows of a table that this process holds."""
        return shard(self.num_nodes_dict[node_type], self.rank, self.num_shards)

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for key, table in self.tables.items():
            own, number = self.local_rows(key), self.num_nodes_dict[key]
            bound = (6 / (number + self.embedding_dim)) ** 0.5
            for start in range(0, number, _BLOCK):
                stop = min(start + _BLOCK, number)
                x = table.new_empty(stop - start, self.embedding_dim)
                if self.init_std is None:
                    x.uniform_(-bound, bound)
                else:
                    x.normal_(std=self.init_std)
                first, last = max(own.start, start), min(own.stop, stop)
                if first < last:
                    rows = table.detach()[first - own.start : last - own.start]
                    rows.copy_(x[first - start : last - start])

    def forward(
        self, n_id_dict: dict[NodeType, Tensor] | None = None
    ) -> dict[NodeType, Tensor]:
        if rank_and_size() != (self.rank, self.num_shards):
            raise RuntimeError(
                f"'torch.distributed' must have the {self.num_shards} processes that "
                f'the tables were created with (got {rank_and_size()[1]}). Save '
                f'shards, and load them into a new model'
            )
        if self.num_shards == 1:
            return super().forward(n_id_dict)
        tables = dict(self.tables.items())
        if n_id_dict is None:
            n_id_dict = {
                key: torch.arange(self.num_nodes_dict[key], device=table.device)
                for key, table in tables.items()
            }
        self._check_ids(n_id_dict)
        requests = [self._request(key, n_id_dict[key]) for key in tables]
        return dict(zip(tables, _look_up(requests, *tables.values()), strict=True))

    def _request(self, key: NodeType, index: Tensor) -> '_Request':
        number = self.num_nodes_dict[key]
        ids, inverse = index.unique(return_inverse=True)  # Ascending.
        if ids.numel() and not 0 <= int(ids[0]) <= int(ids[-1]) < number:
            raise IndexError(
                f"'n_id_dict['{key}']' must have ids from 0 to {number - 1} (got "
                f'{int(ids[0])} to {int(ids[-1])})'
            )
        stops = [shard(number, r, self.num_shards).stop for r in range(self.num_shards)]
        ends = torch.searchsorted(ids, ids.new_tensor(stops))
        counts = ends.diff(prepend=ends.new_zeros(1))
        sparse = getattr(self.tables[key], 'sparse_grad', False)
        return _Request(ids, inverse, counts, self.local_rows(key).start, sparse)

    def save_shards(self, path: str | Path) -> None:
        """Writes one file per process into a folder that all of them see. The files
        replace those of a former call together, once all are written.

        Args:
            path: The folder, for :meth:`load_shards` or :class:`Shards`.
        """
        run = run_on_rank0(lambda: uuid4().hex[:12])
        files = [
            f'{run}-{rank:05}-of-{self.num_shards:05}.safetensors'
            for rank in range(self.num_shards)
        ]
        sizes = self.num_nodes_dict, self.embedding_dim
        shards = Shards(Path(path), run, files, *sizes)
        start_dict = {key: self.local_rows(key).start for key in self.tables}
        x_dict = {key: x.detach().contiguous() for key, x in self.tables.items()}
        run_on_all(lambda: shards.write(self.rank, start_dict, x_dict))
        run_on_rank0(shards.commit)


def sharded_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The rows of this process in the sharded tables of a module, by parameter name;
    nothing in one process.
    """
    return {
        name: parameter
        for prefix, part in module.named_modules()
        if isinstance(part, ShardedEmbeddings) and part.num_shards > 1
        for name, parameter in part.named_parameters(prefix)
    }


class _Request(NamedTuple):
    """The rows of one table that this process looks up."""

    ids: Tensor
    """Distinct ids, ascending."""
    inverse: Tensor
    """The position in ``ids`` of each looked-up id."""
    counts: Tensor
    """How many ids belong to each process ``[P]``."""
    start: int
    """The first row of this process."""
    sparse: bool
    """Whether the gradient of the table is sparse."""


class _LookUp(torch.autograd.Function):
    """Rows of sharded tables; one call for all, so that every process sends alike."""

    @staticmethod
    def forward(
        ctx: Any, requests: Sequence[_Request], *tables: Tensor
    ) -> tuple[Tensor, ...]:
        sent = torch.stack([request.counts for request in requests], dim=1)
        received = _all_to_all(sent)
        ctx.plans, outputs = [], []
        columns = zip(sent.t().tolist(), received.t().tolist(), strict=True)
        parts = zip(requests, tables, columns, strict=True)
        for request, table, (own, others) in parts:
            local = _all_to_all(request.ids, own, others) - request.start
            rows = _all_to_all(table.index_select(0, local), others, own)
            outputs.append(rows.index_select(0, request.inverse))
            ctx.plans.append((request, table.size(), local, own, others))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = [None]
        for grad, plan in zip(grads, ctx.plans, strict=True):
            request, size, local, own, others = plan
            sums = grad.new_zeros(request.ids.numel(), grad.size(1))
            sums.index_add_(0, request.inverse, grad)
            rows = _all_to_all(sums, own, others) / len(own)
            out.append(add_rows(size, request.sparse, [(local, rows)]))
        return tuple(out)


_look_up: Any = _LookUp.apply


def _all_to_all(
    x: Tensor, sent: list[int] | None = None, received: list[int] | None = None
) -> Tensor:
    """The rows that each process sends to this one: ``sent`` are the numbers of rows
    for each, by default equal.
    """
    number = x.size(0) if received is None else sum(received)
    out = x.new_empty(number, *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent)
    return out
