"""A student of PyG layers, HeteroConv or HGTConv, learns from a PromptMM teacher.

    python examples/hetero_student.py --layer hgt

Any module that returns embeddings per node type can be the student; `inputs` are the
arguments of its forward. The baseline is the same network without distillation.
"""

import argparse

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn import HeteroConv, HGTConv, SAGEConv
from torch_geometric.typing import EdgeType

from promptmm_pyg import PromptMM, distill, split_per_user, train
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.nn import NodeEmbeddings
from promptmm_pyg.training import TrainingConfig


class HeteroStudent(torch.nn.Module):
    """Id tables and one heterogeneous layer on top of them."""

    def __init__(self, train: HeteroData, layer: str, channels: int = 16) -> None:
        super().__init__()
        self.embeddings = NodeEmbeddings(train.num_nodes_dict, channels)
        if layer == 'hgt':
            self.conv = HGTConv(channels, channels, train.metadata(), heads=2)
        else:
            layers = {key: SAGEConv(channels, channels) for key in train.edge_types}
            self.conv = HeteroConv(layers)

    def forward(self, edge_index_dict: dict[EdgeType, Tensor]) -> dict[str, Tensor]:
        x_dict = self.embeddings()
        messages = self.conv(x_dict, edge_index_dict)
        return {key: x + messages[key] for key, x in x_dict.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--layer', choices=('hetero', 'hgt'), default='hetero')
    parser.add_argument('--users', type=int, default=600)
    parser.add_argument('--items', type=int, default=400)
    parser.add_argument('--epochs', type=int, default=60)
    args = parser.parse_args()
    data = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)

    torch.manual_seed(0)
    teacher = PromptMM.from_data(data, self_loop_weight=1.0)
    train(teacher, data, config=config)

    torch.manual_seed(0)
    result = distill(
        HeteroStudent(data.train, args.layer),
        teacher,
        data,
        inputs=(data.train.edge_index_dict,),
        config=config,
    )
    assert result.baseline_history is not None
    print(f'validation Recall@20, one layer of {args.layer}:')
    print(f'  with its teacher {result.history.best_value:.4f}')
    print(f'  without          {result.baseline_history.best_value:.4f}')


if __name__ == '__main__':
    main()
