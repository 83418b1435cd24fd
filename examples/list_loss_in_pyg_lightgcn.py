"""Distillation in a loop of your own: PyG's LightGCN learns from a teacher's scores.

    python examples/list_loss_in_pyg_lightgcn.py

The three marked lines are all it takes; the rest is an ordinary training loop.
"""

import argparse

import torch
from torch import Tensor
from torch_geometric.nn import LightGCN

from promptmm_pyg.data import (
    INTERACTS,
    make_synthetic_dataset,
    split_per_user,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.functional import score_lists
from promptmm_pyg.loader import ExactNegativeSampler, TripletLoader, uniform_candidates
from promptmm_pyg.losses import ListwiseKDLoss, bpr_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=40)
    args = parser.parse_args()
    split = split_per_user(make_synthetic_dataset(seed=0))
    num_users = split.train['user'].num_nodes
    num_items = split.train['item'].num_nodes
    edges = split.train[INTERACTS].edge_index
    stacked = torch.stack([edges[0], edges[1] + num_users])
    stacked = torch.cat([stacked, stacked.flip([0])], dim=1)

    # Any scores will do as a teacher. Here: text alone, the mean of what users took.
    text = split.train['item'].x_text
    taste = torch.zeros(num_users, text.size(1)).index_add_(0, edges[0], text[edges[1]])
    teacher_user = torch.nn.functional.normalize(taste, dim=-1)
    teacher_item = torch.nn.functional.normalize(text, dim=-1)

    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = LightGCN(num_users + num_items, embedding_dim=16, num_layers=2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        loader = TripletLoader(edges, num_users, num_items, batch_size=512)
        sampler = ExactNegativeSampler(edges, num_users, num_items)
        list_loss = ListwiseKDLoss(temperature=0.2)  # 1

        def tables(model: LightGCN = model) -> tuple[Tensor, Tensor]:
            x = model.get_embedding(stacked)
            return x[:num_users], x[num_users:]

        for _ in range(args.epochs):
            for user, positive, negative in loader:
                user_x, item_x = tables()
                lists = torch.stack([positive, negative], dim=1)
                scores = score_lists(user_x, item_x, user, lists)
                loss = bpr_loss(scores[:, 0], scores[:, 1])
                items = uniform_candidates(sampler, user, positive).item_index  # 2
                loss = loss + weight * list_loss(  # 3
                    score_lists(user_x, item_x, user, items),
                    score_lists(teacher_user, teacher_item, user, items),
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        with torch.no_grad():
            user_x, item_x = tables()
        recall = evaluate({'user': user_x, 'item': item_x}, split.val, ks=(20,))
        print(
            f'weight {weight}: Recall@20 {recall.metrics["Recall@20"]:.4f} (validation)'
        )


if __name__ == '__main__':
    main()
