"""The teacher's step beside the formula of the paper and in other precisions."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.naive_teacher import NaiveTeacher, reduced_in_full
from benchmarks.speed_graphs import Graph, Runs
from promptmm_pyg.losses import bpr_loss
from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn import ChunkedFeatures, PromptedModalityEncoder
from promptmm_pyg.nn.csr import CSRPair, csr_pair_dict

# How features are held. Half precision is read in blocks of rows, each of which is
# widened before it is multiplied, unless products are in half precision as well;
# float32 in blocks tells what the blocks alone cost.
HELD: dict[str, Callable[[Tensor], Tensor | ChunkedFeatures]] = {
    'fast (ours)': lambda x: x,
    'naive': lambda x: x,
    'bfloat16 features': lambda x: x.bfloat16(),
    'bfloat16 features and products': lambda x: ChunkedFeatures(
        x.bfloat16(), products=torch.bfloat16
    ),
    'float32 in row blocks': ChunkedFeatures,
}
# All formulas in plain torch; `naive` above is the prompt alone.
PLAIN = 'naive, torch COO'


class NaiveEncoder(PromptedModalityEncoder):
    """The prompt as the paper writes it, with the prompted features in full."""

    def forward(
        self,
        x: Tensor | ChunkedFeatures,
        prompt: Tensor | None = None,
        recall: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        assert isinstance(x, Tensor)
        assert prompt is not None
        out: Tensor = self.dropout(reduced_in_full(self, x, prompt))
        return out


def make_teacher(graph: Graph, widths: tuple[int, ...], how: str) -> PromptMM:
    """The same teacher at every call, with its features held as ``how`` says."""
    generator = torch.Generator().manual_seed(0)
    features = {
        f'modality{i}': {
            'item': HELD[how](torch.randn(graph.num_items, width, generator=generator))
        }
        for i, width in enumerate(widths)
    }
    num_nodes = {'user': graph.num_users, 'item': graph.num_items}
    start = {
        key: torch.randn(num, 32, generator=generator) for key, num in num_nodes.items()
    }
    torch.manual_seed(0)
    teacher = PromptMM(num_nodes, features, prompt_start_dict=start, embedding_dim=32)
    if how == 'naive':
        for encoder in teacher.encoders.values():
            encoder.__class__ = NaiveEncoder
    return teacher


def encode(teacher: PromptMM) -> Tensor:
    """The reduction layers, ``[modalities, N, D]``."""
    assert teacher.prompt is not None
    prompts = teacher.prompt()
    return torch.stack(
        [
            teacher._encode(key, node_type, prompts.get(node_type))
            for _, node_type, key in teacher._features()
        ]
    )


def teacher_runs(graph: Graph, widths: tuple[int, ...]) -> Runs:
    """The reduction layers under a loss, forward and backward; and the whole step."""
    user_item = graph.edge_index
    adj = csr_pair_dict(
        {
            ('user', 'interacts', 'item'): user_item,
            ('item', 'rev_interacts', 'user'): user_item.flip([0]),
        },
        num_nodes_dict={'user': graph.num_users, 'item': graph.num_items},
    )
    user = torch.randint(graph.num_users, (2048,))
    positive, negative = torch.randint(graph.num_items, (2, 2048))

    def layers(teacher: PromptMM) -> None:
        encode(teacher).sum().backward()

    def step(
        forward: Callable[[], tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer
    ) -> None:
        users, items = forward()
        users = users[user]
        loss = bpr_loss(
            (users * items[positive]).sum(-1), (users * items[negative]).sum(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def embedded(teacher: PromptMM) -> tuple[Tensor, Tensor]:
        x_dict = teacher(adj).x_dict
        return x_dict['user'], x_dict['item']

    teachers = {how: make_teacher(graph, widths, how) for how in HELD}
    runs: Runs = {
        f'reduction layers, {how}': partial(layers, teacher)
        for how, teacher in teachers.items()
    }
    forwards: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        how: partial(embedded, teacher) for how, teacher in teachers.items()
    }
    teachers[PLAIN] = make_teacher(graph, widths, 'naive')
    forwards[PLAIN] = NaiveTeacher(
        teachers[PLAIN], *coo_matrices(adj[('item', 'rev_interacts', 'user')])
    )
    for how, forward in forwards.items():
        optimizer = torch.optim.AdamW(teachers[how].parameters(), fused=True)
        runs[f'whole step, {how}'] = partial(step, forward, optimizer)
    return runs


def coo_matrices(to_user: CSRPair) -> tuple[Tensor, Tensor]:
    """An operator and its transpose as research code holds them."""
    forward, transpose = to_user.matrices(torch.float)
    return forward.to_sparse_coo().coalesce(), transpose.to_sparse_coo().coalesce()
