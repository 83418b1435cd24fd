"""A small synthetic data set and models on it, shared by the training tests."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import promptmm_pyg.training.loop as loop
from promptmm_pyg.data import (
    make_synthetic_dataset,
    modality_x_dict,
    split_per_user,
)
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.training import Callback, TrainingConfig
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities

QUICK = TrainingConfig(epochs=3, validate_every=1, progress=False)


class Stop(Callback):
    """Ends every training at an epoch."""

    def __init__(self, epoch=1):
        self.epoch, self.epochs = epoch, []

    def on_epoch(self, name, record):
        self.epochs.append(record['epoch'])
        return record['epoch'] >= self.epoch


def make_split(num_users=60, num_items=40):
    """A split whose training graph has standardized features and a prompt start."""
    split = split_per_user(make_synthetic_dataset(num_users, num_items, 4, seed=0))
    train = AddModalityPCA(4)(StandardizeModalities()(split.train))
    return split._replace(train=train)


def make_teacher(train, seed=0, **kwargs):
    torch.manual_seed(seed)
    start = {key: train[key].prompt_start for key in ('user', 'item')}
    kwargs.setdefault('prompt_start_dict', start)
    return PromptMM(
        train.num_nodes_dict, modality_x_dict(train), embedding_dim=8, **kwargs
    )


def make_student(train, width=4, seed=1, cls=MatrixFactorization):
    torch.manual_seed(seed)
    options = {'num_layers': 2} if cls is LightGCN else {}
    return cls(train.num_nodes_dict, embedding_dim=width, **options)


class Interrupted:
    """Within the block, ``train_step`` raises at its call number ``cut``."""

    def __init__(self, cut):
        self.left = cut

    def __enter__(self):
        self.step = loop.train_step
        loop.train_step = self

    def __call__(self, *args):
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt
        return self.step(*args)

    def __exit__(self, *_):
        loop.train_step = self.step


class Watch(TorchDispatchMode):
    """The largest dense tensor, and the longest axis, of all new memory."""

    def __init__(self, *known):
        super().__init__()
        self.known = {_address(x) for x in known}
        self.largest = self.longest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # Views, and results in place, are no new memory.
        known = self.known | {_address(x) for x in _dense_tensors(args)}
        for x in _dense_tensors(out):
            if _address(x) not in known:
                self.largest = max(self.largest, x.numel())
                self.longest = max([self.longest, *x.shape])
        return out


def _dense_tensors(tree):
    leaves = torch.utils._pytree.tree_leaves(tree)
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    return [x for x in tensors if x.layout == torch.strided]


def _address(x):
    return x.untyped_storage().data_ptr()


__all__ = [
    'QUICK',
    'Interrupted',
    'LightGCN',
    'Stop',
    'Watch',
    'make_split',
    'make_student',
    'make_teacher',
]
