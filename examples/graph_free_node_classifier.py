"""Node classification: a prompted graph network is distilled into an MLP without graph.

    python examples/graph_free_node_classifier.py

The teacher is a GCN that was trained for an easier task. It is frozen; a prompt on its
input and a new head are trained. Its class scores are the targets of an MLP that reads
one node at a time.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import GCN, MLP
from torch_geometric.utils import stochastic_blockmodel_graph

from promptmm_pyg.losses import ListwiseKDLoss
from promptmm_pyg.nn import PromptedEncoder


def make_graph(size: int, num_classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbors often share their class; features are noisy."""
    torch.manual_seed(0)
    probs = torch.full((num_classes, num_classes), 0.01) + 0.09 * torch.eye(num_classes)
    edge_index = stochastic_blockmodel_graph([size] * num_classes, probs)
    y = torch.arange(num_classes).repeat_interleave(size)
    x = 0.5 * torch.randn(num_classes, 32)[y] + torch.randn(y.numel(), 32)
    return x, edge_index, y


def fit(
    model: torch.nn.Module,
    head: torch.nn.Module,
    inputs: tuple[Tensor, Tensor],
    y: Tensor,
    train: Tensor,
    epochs: int,
) -> None:
    parts = torch.nn.ModuleList([model, head])
    trained = [p for p in parts.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    for _ in range(epochs):
        parts.train()
        loss = F.cross_entropy(head(model(*inputs))[train], y[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, default=150, help='nodes per class')
    parser.add_argument('--epochs', type=int, default=150)
    args = parser.parse_args()
    x, edge_index, y = make_graph(args.size)
    train = torch.rand(y.numel()) < 0.05

    # 1. The encoder learns an easier task first: which half of the classes.
    encoder = GCN(32, 32, num_layers=2)
    fit(encoder, torch.nn.Linear(32, 2), (x, edge_index), y // 2, train, args.epochs)

    # 2. The encoder is frozen; a prompt on its input adapts it to the new task.
    prompted = PromptedEncoder(encoder, 32, conditioned=True, freeze_encoder=True)
    head = torch.nn.Linear(32, 4)
    fit(prompted, head, (x, edge_index), y, train, args.epochs)
    print(f'prompt: {prompted.prompt_kilobytes:.1f} kB beside a frozen encoder')
    with torch.no_grad():
        prompted.eval()
        teacher_logits = head(prompted(x, edge_index))

    # 3. The student reads features only; its lists are the classes.
    accuracy = {'teacher': (teacher_logits.argmax(-1) == y)[~train].float().mean()}
    for weight in (1.0, 0.0):
        torch.manual_seed(1)
        student = MLP([32, 32, 4], norm=None, dropout=0.2)
        list_loss = ListwiseKDLoss(temperature=2.0)
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
        for _ in range(args.epochs):
            student.train()
            logits = student(x)
            loss = F.cross_entropy(logits[train], y[train])
            loss = loss + weight * list_loss(logits, teacher_logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        student.eval()
        name = 'student' if weight else 'baseline'
        accuracy[name] = (student(x).argmax(-1) == y)[~train].float().mean()
    for name, value in accuracy.items():
        print(f'{name}: accuracy {value:.3f} on unlabelled nodes')


if __name__ == '__main__':
    main()
