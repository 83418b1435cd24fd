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
    distill,
    evaluate,
    paired_bootstrap,
    split_per_user,
)
from promptmm_pyg.data import (
    INTERACTS,
    make_synthetic_dataset,
    modality_x_dict,
    validate,
)
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1000)
    parser.add_argument('--items', type=int, default=600)
    parser.add_argument('--epochs', type=int, default=60)
    parser.add_argument('--out', type=Path, help='folder to save the recommender in')
    args = parser.parse_args()

    # 1. Data: one graph, three splits that share the training edges as messages.
    split = split_per_user(make_synthetic_dataset(args.users, args.items, seed=0))
    validate(split, raise_on_error=True)
    split = split.transform(StandardizeModalities(), AddModalityPCA(32))
    num_nodes = split.train.num_nodes_dict

    # 2. The teacher reads every modality; its prompt starts from their components.
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)
    torch.manual_seed(0)
    teacher = PromptMM(
        num_nodes,
        modality_x_dict(split.train),
        prompt_start_dict={key: split.train[key].prompt_start for key in num_nodes},
        self_loop_weight=1.0,
    )
    train(teacher, split, config=config)

    # 3. The student is two small tables; its baseline learns without the teacher.
    torch.manual_seed(0)
    student = LightGCN(num_nodes, embedding_dim=16)
    out = distill(student, teacher, split, config=config)
    assert out.baseline is not None

    # 4. The test positives are read once, by the restored models.
    inputs = (normalized_adj_dict(split.train),)
    models = {'teacher': teacher, 'student': out.student, 'baseline': out.baseline}
    results = {
        name: evaluate(get_embeddings(model, inputs), split.test)
        for name, model in models.items()
    }
    for name, result in results.items():
        print(f'{name:<8} Recall@20 {result.metrics["Recall@20"]:.4f}')
    gain = paired_bootstrap(
        results['student'].per_user['Recall@20'],
        results['baseline'].per_user['Recall@20'],
    )
    print(
        f'student - baseline {gain.difference:+.4f} '
        f'[{gain.low:+.4f}, {gain.high:+.4f}] (95 %)'
    )

    # 5. Serving needs the tables and the ids, nothing else.
    x_dict = get_embeddings(out.student, inputs)
    recommender = Recommender(
        x_dict['user'],
        x_dict['item'],
        user_ids=split.train['user'].raw_id.tolist(),
        item_ids=split.train['item'].raw_id.tolist(),
        seen=split.train[INTERACTS].edge_index,
    )
    print('for u0:', *recommender.recommend('u0', k=5).ids)
    if args.out is not None:
        recommender.save(args.out)


if __name__ == '__main__':
    main()
