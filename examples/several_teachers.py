"""Several teachers into one student, with weights fitted on validation.

    python examples/several_teachers.py

One teacher uses interactions only, the other content, too. The ensemble is a teacher
like any other.
"""

import argparse

import torch

from promptmm_pyg import (
    LightGCN,
    SoftTargets,
    TrainingConfig,
    distill,
    evaluate,
    split_per_user,
    train,
)
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.distillation import (
    ensemble_targets,
    fit_ensemble_weights,
    promptmm_losses,
)
from promptmm_pyg.models import FREEDOM
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import soft_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1000)
    parser.add_argument('--items', type=int, default=600)
    parser.add_argument('--epochs', type=int, default=60)
    args = parser.parse_args()
    data = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)

    # 1. The teachers, one after the other.
    torch.manual_seed(0)
    lightgcn = LightGCN.from_data(data, embedding_dim=64)
    freedom = FREEDOM.from_data(data)
    for model in (lightgcn, freedom):
        train(model, data, config=config)
    adj = normalized_adj_dict(data.train)
    teachers = {
        'LightGCN': SoftTargets(get_embeddings(lightgcn, (adj,)), {}),
        'FREEDOM': soft_targets(freedom, adj),
    }

    # 2. The weights that make the validation positives most likely.
    weights = fit_ensemble_weights(teachers, data.train, data.val)
    ensemble = ensemble_targets(teachers, weights, data.train)
    print('weights:', ', '.join(f'{k} {x:.2f}' for k, x in weights.items()))

    # 3. One narrow student of the ensemble, and its baseline.
    result = distill(
        LightGCN.from_data(data, embedding_dim=16),
        ensemble,
        data,
        losses=promptmm_losses(list_views='fused'),
        config=config,
    )
    assert result.baseline is not None
    results = {
        **{name: evaluate(x.x_dict, data.test) for name, x in teachers.items()},
        'ensemble': evaluate(ensemble.x_dict, data.test),
        'truncated': evaluate(result.truncated_teacher, data.test),
        'student': evaluate(result.student, data.test),
        'baseline': evaluate(result.baseline, data.test),
    }
    for name, evaluation in results.items():
        print(f'{name:<9} test Recall@20 {evaluation.metrics["Recall@20"]:.4f}')


if __name__ == '__main__':
    main()
