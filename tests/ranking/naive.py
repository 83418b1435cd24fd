"""What the rankings are compared with, and how their memory is measured."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

INF = float('inf')


def naive_lists(user_x, item_x, users, k, blocked=()):
    """Scores every pair in double precision and sorts (score, item) pairs, one user
    at a time.
    """
    index, values = [], []
    for user in users.tolist():
        pairs = []
        for item in range(item_x.size(0)):
            if (user, item) not in blocked:
                score = float(user_x[user].double() @ item_x[item].double())
                pairs.append((-score, item))
        pairs = sorted(pairs)[:k]
        pad = k - len(pairs)
        index.append([item for _, item in pairs] + [-1] * pad)
        values.append([-value for value, _ in pairs] + [-INF] * pad)
    shape = (users.numel(), k)
    return torch.tensor(index).view(shape), torch.tensor(values).view(shape)


class Allocations(TorchDispatchMode):
    """Every tensor that is made inside: the largest, and the most bytes at a time."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.live = 0
        self.peak = 0
        self._known = set()

    def _forget(self, key, size):
        self._known.discard(key)
        self.live -= size

    def _learn(self, tensor, count):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        if count:
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            self.largest = max(self.largest, size // tensor.element_size())
            weakref.finalize(storage, self._forget, key, size)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._learn(leaf, count=False)
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._learn(leaf, count=True)
        return out
