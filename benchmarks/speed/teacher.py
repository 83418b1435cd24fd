"""The teacher's step beside the formula of the paper and in other precisions."""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed import Graph, Runs
from promptmm_pyg.losses import bpr_loss
from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn import ChunkedFeatures, PromptedModalityEncoder
from promptmm_pyg.nn.csr import CSRPair, csr_pair_dict

# Storage of the features. Half precision is read in blocks of rows, which are converted
# before the product, unless products are in half precision, too; float32 in blocks has
# the cost of the blocks alone.
STORAGE: dict[str, Callable[[Tensor], Tensor | ChunkedFeatures]] = {
    'fast (ours)': lambda x: x,
    'naive': lambda x: x,
    'bfloat16 features': lambda x: x.bfloat16(),
    'bfloat16 features and products': lambda x: ChunkedFeatures(
        x.bfloat16(), products=torch.bfloat16
    ),
    'float32 in row blocks': ChunkedFeatures,
}
# All formulas in plain torch; in `naive` above, only the prompt.
PLAIN = 'naive, torch COO'


class NaiveEncoder(PromptedModalityEncoder):
    """The prompt as in the paper, with the prompted features in full."""

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


def make_teacher(graph: Graph, widths: tuple[int, ...], storage: str) -> PromptMM:
    """The same teacher at every call, with a storage of ``STORAGE``."""
    generator = torch.Generator().manual_seed(0)
    features = {
        f'modality{i}': {
            'item': STORAGE[storage](
                torch.randn(graph.num_items, width, generator=generator)
            )
        }
        for i, width in enumerate(widths)
    }
    num_nodes = {'user': graph.num_users, 'item': graph.num_items}
    start = {
        key: torch.randn(num, 32, generator=generator) for key, num in num_nodes.items()
    }
    torch.manual_seed(0)
    teacher = PromptMM(num_nodes, features, prompt_start_dict=start, embedding_dim=32)
    if storage == 'naive':
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
    """Forward and backward of the reduction layers, and the whole training step."""
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

    def embeddings(teacher: PromptMM) -> tuple[Tensor, Tensor]:
        x_dict = teacher(adj).x_dict
        return x_dict['user'], x_dict['item']

    teachers = {name: make_teacher(graph, widths, name) for name in STORAGE}
    runs: Runs = {
        f'reduction layers, {name}': partial(layers, teacher)
        for name, teacher in teachers.items()
    }
    forwards: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        name: partial(embeddings, teacher) for name, teacher in teachers.items()
    }
    teachers[PLAIN] = make_teacher(graph, widths, 'naive')
    forwards[PLAIN] = ReferenceTeacher(
        teachers[PLAIN], *coo_matrices(adj[('item', 'rev_interacts', 'user')])
    )
    for name, forward in forwards.items():
        optimizer = torch.optim.AdamW(teachers[name].parameters(), fused=True)
        runs[f'whole step, {name}'] = partial(step, forward, optimizer)
    return runs


def coo_matrices(to_user: CSRPair) -> tuple[Tensor, Tensor]:
    """An operator and its transpose in COO, as in research code."""
    forward, transpose = to_user.matrices(torch.float)
    return forward.to_sparse_coo().coalesce(), transpose.to_sparse_coo().coalesce()


class ReferenceTeacher(torch.nn.Module):
    """All formulas of a :class:`~promptmm_pyg.models.PromptMM` with features on
    items, over its parameters, in plain torch: prompted features in full, one
    ``torch.sparse.mm`` of a COO matrix per block, all layers stored for the mean,
    torch's dropout.

    Args:
        teacher: The teacher with parameters, features and options.
        to_user: The weighted adjacency ``[num_users, num_items]``, coalesced.
        to_item: Its transpose, coalesced.
    """

    def __init__(self, teacher: PromptMM, to_user: Tensor, to_item: Tensor) -> None:
        super().__init__()
        self.teacher = teacher
        self.to_user = to_user
        self.to_item = to_item

    def forward(self) -> tuple[Tensor, Tensor]:
        teacher = self.teacher
        assert teacher.prompt is not None
        prompts = teacher.prompt()
        ids = {
            key: x + teacher.prompt_id_weight * F.normalize(prompts[key], dim=-1)
            for key, x in teacher.embeddings().items()
        }
        users, items = [ids['user']], [ids['item']]
        for _ in range(teacher.num_layers):
            user_x = torch.sparse.mm(self.to_user, items[-1])
            item_x = torch.sparse.mm(self.to_item, users[-1])
            users.append(user_x)
            items.append(item_x)
        user_x, item_x = torch.stack(users).mean(0), torch.stack(items).mean(0)
        for modality in teacher.modalities:
            item_f = self.reduced(modality, prompts['item'])
            user_f = torch.sparse.mm(self.to_user, item_f)
            item_f = torch.sparse.mm(self.to_item, user_f)
            user_x = user_x + teacher.modality_weight * F.normalize(user_f, dim=-1)
            item_x = item_x + teacher.modality_weight * F.normalize(item_f, dim=-1)
        return user_x, item_x

    def reduced(self, modality: str, prompt: Tensor) -> Tensor:
        """The reduction layer of one modality, ``[num_items, D]``."""
        key = f'{modality}__item'
        encoder = cast(PromptedModalityEncoder, self.teacher.encoders[key])
        x = self.teacher.get_buffer(f'x_{key}')
        out = reduced_in_full(encoder, x, prompt)
        return F.dropout(out, encoder.dropout.p, self.training)


def reduced_in_full(
    encoder: PromptedModalityEncoder, x: Tensor, prompt: Tensor
) -> Tensor:
    """The reduction layer as in the paper, with the prompted features in full, before
    dropout.
    """
    projected = F.normalize(prompt @ (prompt.t() @ x), dim=-1)
    out: Tensor = encoder.lin(x + encoder.prompt_weight * projected)
    return out
