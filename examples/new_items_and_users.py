"""Recommend new items, and recommend to new users, without training.

    python examples/new_items_and_users.py

A tenth of the users and a fifth of the items are hidden until the student is served.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from promptmm_pyg import (
    LightGCN,
    PromptMM,
    Recommender,
    TrainingConfig,
    distill,
    split_per_user,
    train,
)
from promptmm_pyg.data import (
    INTERACTS,
    build_graph,
    make_synthetic_dataset,
    modality_mask_dict,
    modality_x_dict,
)


def recall(lists: list[list[int]], relevant: list[set[int]]) -> float:
    pairs = [({*a}, b) for a, b in zip(lists, relevant, strict=True) if b]
    return sum(len(a & b) / len(b) for a, b in pairs) / len(pairs)


def rows(tables: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: x[index] for name, x in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1000)
    parser.add_argument('--items', type=int, default=500)
    parser.add_argument('--epochs', type=int, default=40)
    args = parser.parse_args()

    full = make_synthetic_dataset(args.users, args.items, seed=0)
    edges = full[INTERACTS].edge_index
    users, items = args.users * 9 // 10, args.items * 4 // 5
    features = {name: x['item'] for name, x in modality_x_dict(full).items()}
    masks = {name: x['item'] for name, x in modality_mask_dict(full).items()}
    old = torch.arange(items)
    graph = build_graph(
        edges[:, (edges[0] < users) & (edges[1] < items)],
        num_users=users,
        item_features=rows(features, old),
        item_masks=rows(masks, old),
    )
    data = split_per_user(graph)
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)
    torch.manual_seed(0)
    teacher = PromptMM.from_data(data)
    train(teacher, data, config=config)
    student = LightGCN.from_data(data, embedding_dim=16)
    distill(student, teacher, data, config=config)
    model = Recommender.from_model(student, data)

    # New users: half of their interactions is the history, the other half is relevant.
    late = edges[:, (edges[0] >= users) & (edges[1] < items)]
    by_user = [late[1, late[0] == user].tolist() for user in late[0].unique()]
    histories, relevant = [x[::2] for x in by_user], [set(x[1::2]) for x in by_user]
    lists = model.recommend_from_history(histories, k=20).ids.tolist()
    counts = data.train[INTERACTS].edge_index[1].bincount(minlength=items)
    order = counts.argsort(descending=True).tolist()
    popular = [[item for item in order if item not in x][:20] for x in histories]
    print(f'new users: Recall@20 {recall(lists, relevant):.4f}', end=', ')
    print(f'most popular {recall(popular, relevant):.4f}')

    # New items: their embeddings are predicted from their features.
    known = torch.stack(list(masks.values()))[:, items:].any(0)
    new = known.nonzero().view(-1) + items
    ids = new.tolist()
    model.add_items(ids, rows(features, new), modality_mask=rows(masks, new))
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, card={'data': 'synthetic'})
        print('saved:', sorted(path.name for path in Path(folder).iterdir()))
        model = Recommender.load(folder)
    relevant = [{*edges[1, edges[0] == n].tolist()} & {*ids} for n in range(users)]
    lists = model.recommend(range(users), k=20, allow=ids).ids.tolist()
    print(f'new items: Recall@20 {recall(lists, relevant):.4f}', end=', ')
    print(f'random {min(1, 20 / len(ids)):.4f}')


if __name__ == '__main__':
    main()
