"""Several teachers into one student, their weights learned on validation.

    python examples/several_teachers.py

One teacher knows interactions alone, the other content too. A mixture of teachers is
again one teacher, so the student is distilled as ever.
"""

import argparse

import torch

from promptmm_pyg import LightGCN, SoftTargets, distill, evaluate, split_per_user
from promptmm_pyg.data import (
    INTERACTS,
    make_synthetic_dataset,
    modality_x_dict,
)
from promptmm_pyg.distillation import (
    ensemble_targets,
    fit_ensemble_weights,
    promptmm_losses,
    truncate_embeddings,
)
from promptmm_pyg.models import FREEDOM
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import soft_targets
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.transforms import StandardizeModalities

WIDTH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1000)
    parser.add_argument('--items', type=int, default=600)
    parser.add_argument('--epochs', type=int, default=60)
    args = parser.parse_args()
    split = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    split = split.transform(StandardizeModalities())
    num_nodes, inputs = split.train.num_nodes_dict, (normalized_adj_dict(split.train),)
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)

    # 1. Each teacher on its own; test positives are not looked at.
    torch.manual_seed(0)
    lightgcn = LightGCN(num_nodes, embedding_dim=64)
    freedom = FREEDOM(num_nodes, modality_x_dict(split.train), edge_type=INTERACTS)
    for model in (lightgcn, freedom):
        train(model, split, config=config)
    teachers = {
        'LightGCN': SoftTargets(get_embeddings(lightgcn, inputs), {}),
        'FREEDOM': soft_targets(freedom, *inputs),
    }

    # 2. How much each counts is what makes validation most likely.
    learned = fit_ensemble_weights(teachers, split.train, split.val)
    mixture = ensemble_targets(teachers, learned, split.train)
    print('weights:', ', '.join(f'{k} {x:.2f}' for k, x in learned.items()))

    # 3. One narrow student of the mixture, and its baseline without a teacher.
    out = distill(
        LightGCN(num_nodes, embedding_dim=WIDTH),
        mixture,
        split,
        losses=promptmm_losses(list_views='fused'),
        config=config,
    )
    assert out.baseline is not None
    tables = {name: target.x_dict for name, target in teachers.items()}
    tables['mixture'] = mixture.x_dict
    tables['truncated'] = truncate_embeddings(mixture.x_dict, WIDTH)
    tables['student'] = get_embeddings(out.student, inputs)
    tables['baseline'] = get_embeddings(out.baseline, inputs)
    for name, x_dict in tables.items():
        metrics = evaluate(x_dict, split.test).metrics
        print(f'{name:<8} width {x_dict["item"].size(1):>3}', end='  ')
        print(f'test Recall@20 {metrics["Recall@20"]:.4f}')


if __name__ == '__main__':
    main()
