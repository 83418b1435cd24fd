"""Times against their alternatives, all in one run; medians and ratios.

    python -m benchmarks.speed

Writes ``benchmarks/results/speed.json``. Everything is synthetic, so nothing but the
package is needed; torch_sparse takes part where it is installed.
"""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import SimpleConv
from torch_geometric.utils import to_torch_csr_tensor

from benchmarks.report import speed_table
from promptmm_pyg.losses import bpr_loss
from promptmm_pyg.nn import (
    CSRPair,
    PromptedModalityEncoder,
    PromptMMTeacher,
    RowBlocks,
)
from promptmm_pyg.nn.csr import csr_pair_dict
from promptmm_pyg.ranking import SeenItems, rank_items

GRAPHS = {
    '9k x 7k, 60k edges': (9_308, 6_710, 60_000),
    '44k x 17k, 435k edges': (44_000, 17_000, 435_000),
    '200k x 60k, 2.7M edges': (200_000, 60_000, 2_700_000),
}
RANKED_USERS = 6_130
FEATURES = {'2 x 128-d': (128, 128), '4096-d + 1024-d': (4096, 1024)}


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, dict[str, float]]:
    """Median and range in milliseconds. All take turns, so that a change of the
    machine's speed meets all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:  # The first turn warms up.
                times[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: {
            'median_ms': statistics.median(values),
            'min_ms': min(values),
            'max_ms': max(values),
        }
        for name, values in times.items()
    }


def random_edges(num_users: int, num_items: int, num_edges: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randint(num_users * num_items, (num_edges,), generator=generator)
    flat = flat.unique()
    return torch.stack([flat // num_items, flat % num_items])


def propagation(
    sizes: tuple[int, int, int], width: int, repeats: int
) -> dict[str, dict[str, float]]:
    """One product and its gradient, users to items."""
    num_users, num_items, num_edges = sizes
    edge_index = random_edges(num_users, num_items, num_edges)
    weight = torch.rand(edge_index.size(1))
    adj_t = to_torch_csr_tensor(
        edge_index.flip([0]), weight, size=(num_items, num_users)
    )
    coo_t = adj_t.to_sparse_coo().coalesce()
    pair = CSRPair.from_edge_index(edge_index, weight, size=(num_users, num_items))
    conv = SimpleConv(aggr='sum')
    x = torch.randn(num_users, width, requires_grad=True)
    size = (num_users, num_items)

    def both(product: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            x.grad = None
            product().sum().backward()

        return run

    runs = {
        'CSR pair (ours)': both(lambda: pair @ x),
        'torch CSR': both(lambda: adj_t @ x),
        'torch COO': both(lambda: torch.sparse.mm(coo_t, x)),
        'PyG scatter': both(lambda: conv((x, None), edge_index, weight, size=size)),
    }
    try:
        from torch_sparse import SparseTensor
    except ImportError:
        pass
    else:
        row, col = edge_index
        sparse = SparseTensor(
            row=col, col=row, value=weight, sparse_sizes=(num_items, num_users)
        )
        sparse.fill_cache_()
        runs['torch_sparse'] = both(lambda: sparse @ x)
    return interleaved(runs, repeats)


class NaiveEncoder(PromptedModalityEncoder):
    """The prompt as the paper writes it, with the prompted features in full."""

    def forward(
        self,
        x: Tensor | RowBlocks,
        prompt: Tensor | None = None,
        recall: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        assert isinstance(x, Tensor)
        assert prompt is not None
        lifted = F.normalize(prompt @ (prompt.t() @ x), dim=-1)
        out: Tensor = self.dropout(self.lin(x + self.prompt_weight * lifted))
        return out


def teacher_step(widths: tuple[int, ...], repeats: int) -> dict[str, dict[str, float]]:
    """The reduction layers under a loss, forward and backward; and the whole step."""
    num_users, num_items, num_edges = GRAPHS['9k x 7k, 60k edges']
    edge_index = random_edges(num_users, num_items, num_edges)
    num_nodes = {'user': num_users, 'item': num_items}
    adj = csr_pair_dict(
        {
            ('user', 'interacts', 'item'): edge_index,
            ('item', 'rev_interacts', 'user'): edge_index.flip([0]),
        },
        num_nodes_dict=num_nodes,
    )
    features = {
        f'modality{i}': {'item': torch.randn(num_items, width)}
        for i, width in enumerate(widths)
    }
    start = {key: torch.randn(num, 32) for key, num in num_nodes.items()}
    batch = torch.randint(num_users, (2048,)), *torch.randint(num_items, (2, 2048))

    def make(naive: bool) -> tuple[PromptMMTeacher, torch.optim.Optimizer]:
        torch.manual_seed(0)
        teacher = PromptMMTeacher(num_nodes, features, start, embedding_dim=32)
        if naive:
            for encoder in teacher.encoders.values():
                encoder.__class__ = NaiveEncoder
        return teacher, torch.optim.AdamW(teacher.parameters())

    def encode(teacher: PromptMMTeacher) -> None:
        assert teacher.prompt is not None
        prompts = teacher.prompt()
        parts = [
            teacher._encode(key, node_type, prompts.get(node_type))
            for _, node_type, key in teacher._features()
        ]
        torch.stack(parts).sum().backward()

    def step(teacher: PromptMMTeacher, optimizer: torch.optim.Optimizer) -> None:
        x = teacher(adj).x_dict
        user, positive, negative = (
            x['user'][batch[0]],
            x['item'][batch[1]],
            x['item'][batch[2]],
        )
        loss = bpr_loss((user * positive).sum(-1), (user * negative).sum(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    fast, naive = make(naive=False), make(naive=True)
    return interleaved(
        {
            'reduction layers, fast (ours)': lambda: encode(fast[0]),
            'reduction layers, naive': lambda: encode(naive[0]),
            'whole step, fast (ours)': lambda: step(*fast),
            'whole step, naive': lambda: step(*naive),
        },
        repeats,
    )


def ranking(repeats: int) -> dict[str, dict[str, float]]:
    """Top-20 of 6,130 users among 6,710 items, seen items masked."""
    num_users, num_items, num_edges = next(iter(GRAPHS.values()))
    edge_index = random_edges(num_users, num_items, num_edges)
    seen = SeenItems.from_edge_index(edge_index, num_users, num_items)
    user_x, item_x = torch.randn(num_users, 64), torch.randn(num_items, 64)
    users = torch.arange(RANKED_USERS)

    def loop() -> None:
        for user in users.tolist():
            scores = item_x @ user_x[user]
            scores[seen.col[seen.rowptr[user] : seen.rowptr[user + 1]]] = -torch.inf
            scores.sort(descending=True).indices[:20]

    return interleaved(
        {
            'blocked top-K (ours)': lambda: rank_items(
                (user_x, item_x), users, 20, seen=seen
            ),
            'one user at a time': loop,
        },
        repeats,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--width', type=int, default=32, help='channels propagated')
    parser.add_argument(
        '--out', type=Path, default=Path('benchmarks/results/speed.json')
    )
    args = parser.parse_args()
    sections: dict[str, dict[str, dict[str, float]]] = {}
    for name, sizes in GRAPHS.items():
        sections[f'propagation, {name}'] = propagation(sizes, args.width, args.repeats)
    for name, widths in FEATURES.items():
        sections[f'teacher, {name}'] = teacher_step(widths, args.repeats)
    sections['full ranking, 6,130 users'] = ranking(args.repeats)
    result: dict[str, Any] = {
        'sections': sections,
        'peak_memory_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        'threads': torch.get_num_threads(),
        'versions': {'torch': torch.__version__, 'python': platform.python_version()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + '\n')
    print(speed_table(result))


if __name__ == '__main__':
    main()
