"""From made-up data to recommendations: teacher, student, baseline, serving.

python examples/quickstart.py
"""

import argparse
from pathlib import Path

import torch

from promptmm_pyg import (
    LightGCN,
    PromptMM,
    Recommender,
    TrainingConfig,
    distill,
    evaluate,
    paired_test,
    split_per_user,
    train,
)
from promptmm_pyg.data import make_synthetic_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1000)
    parser.add_argument('--items', type=int, default=600)
    parser.add_argument('--epochs', type=int, default=60)
    parser.add_argument('--out', type=Path, help='folder to save the recommender in')
    args = parser.parse_args()
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)
    torch.manual_seed(0)

    # 1. Data: three graphs. With data of your own: load_dataset('path').
    data = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))

    # 2. A teacher that reads every modality, and a student of id embeddings.
    teacher = PromptMM.from_data(data, embedding_dim=64, self_loop_weight=1.0)
    train(teacher, data, config=config)
    student = LightGCN.from_data(data, embedding_dim=16)
    result = distill(student, teacher, data, config=config)
    assert result.baseline is not None

    # 3. Test is read once, by the restored models.
    models = {
        'teacher': evaluate(teacher, data.test),
        'student': evaluate(result.student, data.test),
        'baseline': evaluate(result.baseline, data.test),
        'truncated': evaluate(result.truncated_teacher, data.test),
    }
    for name, evaluation in models.items():
        print(f'{name:<9} Recall@20 {evaluation.metrics["Recall@20"]:.4f}')
    gain = paired_test(
        models['student'].per_user['Recall@20'],
        models['baseline'].per_user['Recall@20'],
    )
    print(
        f'student - baseline {gain.difference:+.4f} '
        f'[{gain.low:+.4f}, {gain.high:+.4f}] (95 %)'
    )

    # 4. Serving needs torch and numpy only.
    recommender = Recommender.from_model(result.student, data)
    print('for u0:', *recommender.recommend('u0', k=5).ids)
    if args.out is not None:
        recommender.save(args.out)


if __name__ == '__main__':
    main()
