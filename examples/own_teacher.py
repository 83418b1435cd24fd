"""A teacher of your own: any module that returns a TeacherOutput can teach.

    python examples/own_teacher.py

This one has no ids: an MLP per modality embeds the items, and a user is the mean of its
items. The student has ids only and learns what the content contains.
"""

import argparse

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType

from promptmm_pyg import MatrixFactorization, TeacherOutput, distill, split_per_user
from promptmm_pyg.data import make_synthetic_dataset, modality_x_dict
from promptmm_pyg.nn import CSRPair, propagate_blocks
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.transforms import StandardizeModalities


def total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum(dim=0)


class ContentTeacher(torch.nn.Module):
    """One MLP per modality; users receive the mean of their items."""

    def __init__(self, features: dict[str, Tensor], channels: int = 32) -> None:
        super().__init__()
        self.features = features
        self.encoders = torch.nn.ModuleDict(
            {
                name: torch.nn.Sequential(
                    torch.nn.Linear(x.size(1), 64),
                    torch.nn.ReLU(),
                    torch.nn.Linear(64, channels),
                )
                for name, x in features.items()
            }
        )

    def forward(self, adj_dict: dict[EdgeType, CSRPair]) -> TeacherOutput:
        items = {name: mlp(self.features[name]) for name, mlp in self.encoders.items()}
        blocks = {'item': items, 'user': {}}
        users = propagate_blocks(blocks, adj_dict)['user']
        return TeacherOutput(
            {'user': total(users), 'item': total(items)},
            {name: {'user': users[name], 'item': items[name]} for name in items},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=600)
    parser.add_argument('--items', type=int, default=400)
    parser.add_argument('--epochs', type=int, default=60)
    args = parser.parse_args()
    data = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    data = data.transform(StandardizeModalities())
    features = {name: x['item'] for name, x in modality_x_dict(data.train).items()}
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)

    torch.manual_seed(0)
    teacher = ContentTeacher(features)
    history = train(teacher, data, config=config)
    result = distill(
        MatrixFactorization.from_data(data, embedding_dim=16),
        teacher,
        data,
        config=config,
    )
    assert result.baseline_history is not None
    for name, one in (
        ('teacher', history),
        ('student', result.history),
        ('baseline', result.baseline_history),
    ):
        print(f'{name}: validation Recall@20 {one.best_value:.4f}')


if __name__ == '__main__':
    main()
