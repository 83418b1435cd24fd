"""Embedding tables, one per node type."""

from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_positive
from promptmm_pyg.functional import rows
from promptmm_pyg.nn.shards import Shards


class NodeEmbeddings(torch.nn.Module):
    r"""One embedding table per node type.

    Values start from Xavier's uniform distribution, as in LightGCN and most of its
    successors, :math:`U(-a, a)` with :math:`a = \sqrt{6 / (N_t + D)}`: the more nodes,
    the smaller. With ``init_std`` they start from :math:`\mathcal{N}(0, \sigma^2)`.

    Args:
        num_nodes_dict: The number of nodes per node type.
        embedding_dim: The width of every table.
        init_std: The standard deviation :math:`\sigma`. (default: Xavier uniform)

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
        super().__init__()
        check_positive('embedding_dim', embedding_dim)
        if init_std is not None:
            check_positive('init_std', init_std)
        for node_type, num_nodes in num_nodes_dict.items():
            check_positive(f"num_nodes_dict['{node_type}']", num_nodes)
        self.num_nodes_dict = dict(num_nodes_dict)
        self.embedding_dim = embedding_dim
        self.init_std = init_std
        self.tables = torch.nn.ParameterDict()
        for key in num_nodes_dict:
            rows = self.local_rows(key)
            table = torch.empty(rows.stop - rows.start, embedding_dim)
            self.tables[key] = torch.nn.Parameter(table)
        self.reset_parameters()

    def local_rows(self, node_type: NodeType) -> slice:
        """The rows of a table that this process holds: all of them."""
        return slice(0, self.num_nodes_dict[node_type])

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for table in self.tables.values():
            if self.init_std is None:
                torch.nn.init.xavier_uniform_(table)
            else:
                torch.nn.init.normal_(table, std=self.init_std)

    def load_tables(self, x_dict: dict[NodeType, Tensor]) -> None:
        """Copies the values of ``x_dict`` into the tables; no memory is shared.

        Raises:
            ValueError: If node types or shapes differ.
        """
        if set(x_dict) != set(self.tables):
            raise ValueError(
                f"'x_dict' must have the node types {sorted(self.tables)} "
                f'(got {sorted(x_dict)})'
            )
        for key, num_nodes in self.num_nodes_dict.items():
            shape = [num_nodes, self.embedding_dim]
            if list(x_dict[key].shape) != shape:
                raise ValueError(
                    f"'x_dict['{key}']' must have shape {shape} (got "
                    f'{list(x_dict[key].shape)})'
                )
        with torch.no_grad():
            for key, table in self.tables.items():
                table.copy_(x_dict[key][self.local_rows(key)])

    def load_shards(self, path: str | Path) -> None:
        """Copies saved shards (:class:`~promptmm_pyg.nn.Shards`), of any number of
        processes, into the tables; one shard at a time is in memory.

        Raises:
            ValueError: If a shard is missing or of another run, or sizes differ.
        """
        shards = Shards.open(path)
        sizes = self.num_nodes_dict, self.embedding_dim
        if sizes != (shards.num_nodes_dict, shards.embedding_dim):
            raise ValueError(
                f"'path' must have shards of tables {sizes[0]} of width {sizes[1]} "
                f'(got {shards.num_nodes_dict} of width {shards.embedding_dim})'
            )
        with torch.no_grad():
            for start_dict, x_dict in shards:
                for key, table in self.tables.items():
                    own, start = self.local_rows(key), start_dict[key]
                    first = max(own.start, start)
                    last = min(own.stop, start + x_dict[key].size(0))
                    if first < last:
                        x = x_dict[key][first - start : last - start]
                        table[first - own.start : last - own.start] = x

    def forward(
        self, n_id_dict: dict[NodeType, Tensor] | None = None
    ) -> dict[NodeType, Tensor]:
        if n_id_dict is None:
            return dict(self.tables.items())
        self._check_ids(n_id_dict)
        return {key: rows(x, n_id_dict[key]) for key, x in self.tables.items()}

    def _check_ids(self, n_id_dict: dict[NodeType, Tensor]) -> None:
        missing = sorted(set(self.tables) - set(n_id_dict))
        if missing:
            raise ValueError(
                f"'n_id_dict' must have ids of every node type (got none of {missing})"
            )

    def __repr__(self) -> str:
        sizes = ', '.join(f'{key}={num}' for key, num in self.num_nodes_dict.items())
        return f'{self.__class__.__name__}({sizes}, embedding_dim={self.embedding_dim})'
