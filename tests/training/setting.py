"""A small synthetic data set and models on it, shared by the training tests."""

import torch

from promptmm_pyg.data import (
    make_synthetic_dataset,
    modality_x_dict,
    num_nodes_dict,
    split_per_user,
)
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.training import Schedule
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities

QUICK = Schedule(epochs=3, patience=5, progress=False)


def make_split(num_users=60, num_items=40):
    split = split_per_user(make_synthetic_dataset(num_users, num_items, 4, seed=0))
    train = AddModalityPCA(4)(StandardizeModalities()(split.train))
    return train, split.val, split.test


def make_teacher(train, seed=0, **kwargs):
    torch.manual_seed(seed)
    start = {key: train[key].prompt_start for key in ('user', 'item')}
    kwargs.setdefault('prompt_start_dict', start)
    return PromptMM(
        num_nodes_dict(train), modality_x_dict(train), embedding_dim=8, **kwargs
    )


def make_student(train, width=4, seed=1, cls=MatrixFactorization):
    torch.manual_seed(seed)
    return cls(num_nodes_dict(train), embedding_dim=width)


__all__ = ['QUICK', 'LightGCN', 'make_split', 'make_student', 'make_teacher']
