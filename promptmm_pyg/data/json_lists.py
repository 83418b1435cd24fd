"""Interactions as json: the items of each user."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np


def read_user_lists(path: Path) -> np.ndarray[Any, Any]:
    """The pairs ``[2, E]`` in a file ``{"user": [item, ...]}`` of numbers.

    Raises:
        ValueError: If the file is not such an object.
    """
    try:
        lists = json.loads(path.read_bytes())
        users = np.array([int(user) for user in lists], dtype=np.int64)
        counts = [len(items) for items in lists.values()]
        items = np.array(list(chain.from_iterable(lists.values())))
        if not len(items):
            return np.zeros((2, 0), dtype=np.int64)
        if items.dtype.kind not in 'iu' or items.ndim != 1:
            raise ValueError('items that are not whole numbers')
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{path}' must contain '{{\"user\": [item, ...]}}' with whole numbers "
            f'(got {error}). If it is truncated, fetch the file again'
        ) from error
    return np.stack([np.repeat(users, counts), items.astype(np.int64)])
