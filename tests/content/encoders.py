"""A small encoder of each kind, which notes what it was asked."""

import numpy as np


class Lengths:
    """Rows of a text's length and its number of a's."""

    takes = 'text'
    width = 2

    def __init__(self, fingerprint='lengths'):
        self.fingerprint = fingerprint
        self.batches = []

    def encode(self, batch):
        self.batches.append(list(batch))
        return np.array([[len(x), x.count('a')] for x in batch], np.float64)

    @property
    def seen(self):
        return sorted(x for batch in self.batches for x in batch)


class Sizes(Lengths):
    """The same for files, by their bytes."""

    takes = 'files'

    def encode(self, batch):
        self.batches.append([path.name for path in batch])
        data = [path.read_bytes() for path in batch]
        return np.array([[len(x), x.count(b'a')] for x in data], np.float16)
