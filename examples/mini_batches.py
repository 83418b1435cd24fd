"""A teacher trained on neighborhoods, and a student without a graph.

python examples/mini_batches.py
"""

import argparse
from dataclasses import replace

import torch

from promptmm_pyg import (
    MatrixFactorization,
    PromptMM,
    distill,
    evaluate,
    split_per_user,
)
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.loader import TripletNeighborLoader
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import soft_targets
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.transforms import AddBipartiteNorm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=600)
    parser.add_argument('--items', type=int, default=400)
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--neighbors', type=int, default=5)
    args = parser.parse_args()

    # 1. Edge weights of the whole graph, for all batches.
    data = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    data = data._replace(train=AddBipartiteNorm()(data.train))
    hops = [args.neighbors, args.neighbors]

    # 2. The nodes of one step; their number does not grow with the graph.
    loader = TripletNeighborLoader(data.train, hops, batch_size=64)
    batch = next(iter(loader))
    sampled = {key: batch[key].num_sampled_nodes for key in ('user', 'item')}
    print(f'sampled nodes per hop for 64 triplets: {sampled}')

    # 3. The teacher. 'lazy' updates only the rows of the batch.
    torch.manual_seed(0)
    teacher = PromptMM.from_data(data, self_loop_weight=1.0)
    config = TrainingConfig(
        optimizer='lazy', learning_rate=0.01, epochs=args.epochs, patience=5
    )
    train(teacher, data, config=replace(config, num_neighbors=hops, batch_size=512))

    # 4. The student looks up its tables; it has no edges.
    adj = normalized_adj_dict(data.train)
    torch.manual_seed(0)
    student = MatrixFactorization.from_data(data, embedding_dim=16)
    result = distill(
        student,
        soft_targets(teacher, adj),
        data,
        inputs=(),
        baseline=False,
        config=config,
    )

    # 5. The whole graph, layer by layer, in blocks of nodes.
    tables = {
        'teacher': teacher.inference(adj, block_size=256),
        'student': result.student(),
    }
    for name, x_dict in tables.items():
        recall = evaluate(x_dict, data.test).metrics['Recall@20']
        print(f'{name} Recall@20 {recall:.4f}')


if __name__ == '__main__':
    main()
