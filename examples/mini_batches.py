"""A teacher trained on neighborhoods, and a student that needs no graph to train.

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
from promptmm_pyg.data import make_synthetic_dataset, modality_x_dict
from promptmm_pyg.loader import TripletNeighborLoader
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import soft_targets
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.transforms import AddBipartiteNorm, AddModalityPCA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=600)
    parser.add_argument('--items', type=int, default=400)
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--neighbors', type=int, default=5)
    args = parser.parse_args()

    # 1. Weights of the whole graph: a batch has no other.
    split = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    split = split._replace(train=AddBipartiteNorm()(AddModalityPCA(16)(split.train)))
    num_nodes = split.train.num_nodes_dict
    hops = [args.neighbors, args.neighbors]

    # 2. What one step holds, whatever the size of the graph.
    loader = TripletNeighborLoader(split.train, hops, batch_size=64)
    batch = next(iter(loader))
    found = {key: batch[key].num_sampled_nodes for key in num_nodes}
    print(f'64 triplets and the nodes they found in each hop: {found}')

    # 3. The teacher; with `lazy`, a step updates the rows it looked up.
    torch.manual_seed(0)
    teacher = PromptMM(
        num_nodes,
        modality_x_dict(split.train),
        prompt_start_dict={key: split.train[key].prompt_start for key in num_nodes},
        self_loop_weight=1.0,
    )
    config = TrainingConfig(
        optimizer='lazy', learning_rate=0.01, epochs=args.epochs, patience=5
    )
    train(teacher, split, config=replace(config, num_neighbors=hops, batch_size=512))

    # 4. The student's steps look up tables and never see an edge.
    operators = normalized_adj_dict(split.train)
    torch.manual_seed(0)
    student = MatrixFactorization(num_nodes, embedding_dim=16)
    out = distill(
        student,
        soft_targets(teacher, operators),
        split,
        inputs=(),
        baseline=False,
        config=config,
    )

    # 5. The whole graph, layer by layer, in blocks of nodes.
    tables = {
        'teacher': teacher.inference(operators, block_size=256),
        'student': get_embeddings(out.student, ()),
    }
    for name, x_dict in tables.items():
        recall = evaluate(x_dict, split.test).metrics['Recall@20']
        print(f'{name} Recall@20 {recall:.4f}')


if __name__ == '__main__':
    main()
