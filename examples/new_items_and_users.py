"""Serve people and items that came after training, and hand the model on.

    python examples/new_items_and_users.py

A tenth of the users and a fifth of the items are hidden until the student is served.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from promptmm_pyg import LightGCN, PromptMM, Recommender, data, distill, split_per_user
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.transforms import StandardizeModalities


def recall(lists: list[list[int]], wanted: list[set[int]]) -> float:
    pairs = [({*a}, b) for a, b in zip(lists, wanted, strict=True) if b]
    return sum(len(a & b) / len(b) for a, b in pairs) / len(pairs)


def rows(tables: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: x[index] for name, x in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--users', type=int, default=1000)
    parser.add_argument('--items', type=int, default=500)
    parser.add_argument('--epochs', type=int, default=40)
    args = parser.parse_args()

    world = data.make_synthetic_dataset(args.users, args.items, seed=0)
    edges = world[data.INTERACTS].edge_index
    users, items = args.users * 9 // 10, args.items * 4 // 5
    features = {name: x['item'] for name, x in data.modality_x_dict(world).items()}
    masks = {name: x['item'] for name, x in data.modality_mask_dict(world).items()}
    old = torch.arange(items)
    graph = data.build_graph(
        edges[:, (edges[0] < users) & (edges[1] < items)],
        num_users=users,
        item_features=rows(features, old),
        item_masks=rows(masks, old),
    )
    split = split_per_user(graph)
    split = split._replace(train=StandardizeModalities()(split.train))
    config = TrainingConfig(learning_rate=0.01, epochs=args.epochs, patience=10)
    torch.manual_seed(0)
    teacher = PromptMM(split.train.num_nodes_dict, data.modality_x_dict(split.train))
    train(teacher, split, config=config)
    student = LightGCN(split.train.num_nodes_dict, embedding_dim=16)
    distill(student, teacher, split, config=config)

    x_dict = get_embeddings(student, (normalized_adj_dict(split.train),))
    seen, who, what = split.train[data.INTERACTS].edge_index, range(users), range(items)
    user_x, item_x = x_dict['user'], x_dict['item']
    model = Recommender(user_x, item_x, user_ids=who, item_ids=what, seen=seen)
    # New users: half of what they took is known, the other half is to be found.
    late = edges[:, (edges[0] >= users) & (edges[1] < items)]
    taken = [late[1, late[0] == user].tolist() for user in late[0].unique()]
    hidden = [set(own[1::2]) for own in taken]
    lists = model.recommend_from_history([own[::2] for own in taken], k=20).ids
    best = seen[1].bincount(minlength=items).argsort(descending=True).tolist()
    popular = [[item for item in best if item not in own[::2]][:20] for own in taken]
    found, chance = recall(lists.tolist(), hidden), recall(popular, hidden)
    print(f'new users: Recall@20 {found:.4f}, of the most popular {chance:.4f}')

    # New items: their content is known, who takes them is to be found.
    model.fit_feature_mapper(rows(features, old), rows(masks, old))
    new = torch.stack(list(masks.values()))[:, items:].any(0).nonzero().view(-1) + items
    ids = new.tolist()
    model.add_items(ids, rows(features, new), modality_mask=rows(masks, new))
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, card={'data': 'Made up.'})
        print('saved:', sorted(path.name for path in Path(folder).iterdir()))
        model = Recommender.load(folder)
    wanted = [{*edges[1, edges[0] == n].tolist()} & {*ids} for n in who]
    lists = model.recommend(who, k=20, allow=ids).ids
    found, chance = recall(lists.tolist(), wanted), min(1, 20 / len(ids))
    print(f'new items: Recall@20 {found:.4f}, by chance {chance:.4f}')


if __name__ == '__main__':
    main()
