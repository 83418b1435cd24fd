"""The teacher's step beside the formula of the paper and in other precisions; epoch
and evaluation of teacher and LightGCN beside plain loops.

An epoch is composed of its measured parts: drawing the triplets, as many steps as the
batch size requires, and the evaluation of all ranked users.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import EdgeType

from benchmarks.speed import Graph, Runs, Times
from benchmarks.speed.models import REG, Ours, PyG, draw_batches, symmetric_weights
from benchmarks.speed.operators import (
    K,
    evaluation_runs,
    held_out,
    negatives_by_loop,
    seen_sets,
)
from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import bpr_loss
from promptmm_pyg.models import PromptMM
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.nn import ChunkedFeatures, PromptedModalityEncoder
from promptmm_pyg.nn.csr import CSRPair, csr_pair_dict
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.training.loop import StepOutput, step_output, train_step
from promptmm_pyg.training.optim import make_optimizer

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


def make_teacher(
    graph: Graph, widths: tuple[int, ...], storage: str, width: int = 32
) -> PromptMM:
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
    teacher = PromptMM(
        num_nodes, features, prompt_start_dict=start, embedding_dim=width
    )
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


def operators(graph: Graph, weight: Tensor | None = None) -> dict[EdgeType, CSRPair]:
    """The operators of both directions."""
    edges = {INTERACTS: graph.edge_index, REV_INTERACTS: graph.edge_index.flip([0])}
    return csr_pair_dict(
        edges,
        None if weight is None else dict.fromkeys(edges, weight),
        num_nodes_dict={USER: graph.num_users, ITEM: graph.num_items},
    )


def teacher_runs(graph: Graph, widths: tuple[int, ...]) -> Runs:
    """Forward and backward of the reduction layers, and the whole training step."""
    adj = operators(graph)
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
        teachers[PLAIN], *coo_matrices(adj[REV_INTERACTS])
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
        self.views: list[tuple[Tensor, Tensor]] = []  # Prompts, then modalities.

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
        self.views = [(prompts['user'], prompts['item'])]
        for modality in teacher.modalities:
            item_f = self.reduced(modality, prompts['item'])
            user_f = torch.sparse.mm(self.to_user, item_f)
            item_f = torch.sparse.mm(self.to_item, user_f)
            user_x = user_x + teacher.modality_weight * F.normalize(user_f, dim=-1)
            item_x = item_x + teacher.modality_weight * F.normalize(item_f, dim=-1)
            self.views.append((user_f, item_f))
        return user_x, item_x

    def loss(self, batch: Triplets) -> Tensor:
        """The weighted losses of a batch."""

        def bpr(users: Tensor, items: Tensor) -> Tensor:
            positive = (users[batch.user] * items[batch.positive]).sum(-1)
            negative = (users[batch.user] * items[batch.negative]).sum(-1)
            return -F.logsigmoid(positive - negative).mean()

        users, items = self()
        looked_up = (users[batch.user], items[batch.positive], items[batch.negative])
        squares = sum(x.pow(2).sum() for x in looked_up) / (2 * batch.user.numel())
        (prompt, *modalities), weights = self.views, self.teacher.loss_weights
        norms = [x.pow(2).sum(-1).mean() / 2 for view in modalities for x in view]
        view_bpr = torch.stack([bpr(*view) for view in modalities]).mean()
        total: Tensor = (
            weights['bpr'] * bpr(users, items)
            + weights['l2'] * squares
            + weights['prompt_bpr'] * bpr(*prompt)
            + weights['modality_bpr'] * view_bpr
            + weights['modality_l2'] * torch.stack(norms).mean()
        )
        return total

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


RELEASED_BATCH = 1024
PARTS = ('drawing', 'step', 'evaluation')


def epoch_runs(graph: Graph, num_ranked: int, device: str = 'cpu') -> dict[str, Runs]:
    """The parts of an epoch by contestant, ours first; every contestant has its batch
    size in its name.
    """
    graph = graph._replace(edge_index=graph.edge_index.to(device))
    default = int(TrainingConfig().resolve(graph.num_edges).batch_size)
    contestants: dict[str, Runs] = {}
    for size in (RELEASED_BATCH, default):
        batch = draw_batches(graph, size)[0]
        draw = {'drawing': lambda size=size: draw_batches(graph, size)}
        contestants[f'teacher, batch {size} (ours)'] = draw | _teacher(
            graph, batch, num_ranked
        )
        contestants[f'teacher, batch {size}, plain loop'] = _plain_teacher(
            graph, batch, num_ranked
        )
    for size in (2048, default):
        batch = draw_batches(graph, size)[0]
        draw = {'drawing': lambda size=size: draw_batches(graph, size)}
        contestants[f'LightGCN, batch {size} (ours)'] = draw | _light_gcn(
            graph, batch, num_ranked
        )
        contestants[f'LightGCN, batch {size}, PyG edge_index'] = draw | _pyg(
            graph, batch, num_ranked
        )
    return contestants


def epoch_times(times: Times, batch_size: int, num_edges: int, key: str) -> float:
    """The time of an epoch and an evaluation from the times of its parts."""
    steps = math.ceil(num_edges / batch_size)
    parts = {name: times[name][key] for name in PARTS}
    return parts['drawing'] + steps * parts['step'] + parts['evaluation']


def _teacher(graph: Graph, batch: Triplets, num_ranked: int) -> Runs:
    """The library's own step and evaluation."""
    device = batch.user.device
    adj = operators(graph, symmetric_weights(graph).float())
    teacher = make_teacher(graph, (128, 128), 'fast (ours)', 64).to(device)
    optimizer = make_optimizer(teacher.parameters(), TrainingConfig(learning_rate=1e-3))
    data = held_out(graph, num_ranked).to(str(device))

    def step(batch: Triplets, _: object) -> StepOutput:
        return step_output(teacher.losses(teacher(adj), batch), teacher.loss_weights)

    def evaluation() -> None:
        evaluate(get_embeddings(teacher, (adj,)), data, ks=(K,))

    return {
        'step': lambda: train_step(optimizer, step, batch),
        'evaluation': evaluation,
    }


def _plain_teacher(graph: Graph, batch: Triplets, num_ranked: int) -> Runs:
    """The same formulas as in research code, with loops over users."""
    device = batch.user.device
    adj = operators(graph, symmetric_weights(graph).float())
    teacher = make_teacher(graph, (128, 128), 'naive', 64).to(device)
    reference = ReferenceTeacher(teacher, *coo_matrices(adj[REV_INTERACTS]))
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-3)
    seen, users = seen_sets(graph), graph.edge_index[0].tolist()

    def step() -> None:
        loss = reference.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    def evaluation() -> None:
        with torch.no_grad():
            user_x, item_x = reference()
        evaluation_runs(graph, user_x, item_x, num_ranked)['one user at a time']()

    return {
        'drawing': lambda: negatives_by_loop(seen, users, graph.num_items),
        'step': step,
        'evaluation': evaluation,
    }


def _light_gcn(graph: Graph, batch: Triplets, num_ranked: int) -> Runs:
    device = batch.user.device
    ours = Ours(graph, 64, 3)
    ours.model.to(device)
    optimizer = make_optimizer(
        ours.model.parameters(), TrainingConfig(learning_rate=1e-3)
    )
    weights = {'bpr': 1.0, 'l2': 2 * REG}
    data = held_out(graph, num_ranked).to(str(device))

    def step(batch: Triplets, _: object) -> StepOutput:
        return step_output(ours.model.losses(ours.model(ours.adj), batch), weights)

    def evaluation() -> None:
        evaluate(get_embeddings(ours.model, (ours.adj,)), data, ks=(K,))

    return {
        'step': lambda: train_step(optimizer, step, batch),
        'evaluation': evaluation,
    }


def _pyg(graph: Graph, batch: Triplets, num_ranked: int) -> Runs:
    """PyG's model with ``edge_index``, Adam, and dense blocks of scores."""
    device = batch.user.device
    theirs = PyG(graph, 64, 3)
    theirs.model.to(device)
    optimizer = torch.optim.Adam(theirs.model.parameters(), lr=1e-3)
    users, positives = held_out(graph, num_ranked)[INTERACTS].edge_label_index.to(
        device
    )

    def step() -> None:
        loss = theirs.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    @torch.no_grad()
    def evaluation() -> None:
        x = theirs.model.get_embedding(theirs.edges)
        hits = torch.zeros((), device=device)
        row, col = graph.edge_index
        for block in users.split(2048):
            first, last = int(block[0]), int(block[-1])
            scores = x[block] @ x[graph.num_users :].t()
            inside = (row >= first) & (row <= last)
            scores[row[inside] - first, col[inside]] = -torch.inf
            hits += (scores.topk(K).indices == positives[block][:, None]).sum()
        hits.item()

    return {'step': step, 'evaluation': evaluation}
