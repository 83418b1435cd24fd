"""From the content of a folder to the arguments of a recommender."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._files import Artifact
from promptmm_pyg.serving.feature_mapper import FeatureMapper


def restore(artifact: Artifact, device: str | torch.device) -> dict[str, Any]:
    """Arguments by name, once everything in the folder fits everything else.

    Raises:
        ValueError: If anything does not.
    """
    tensors, ids = artifact.tensors, artifact.ids
    user_x, item_x = (_embeddings(tensors, name) for name in ('user_x', 'item_x'))
    lists = {name: _list(ids, name) for name in ('user_ids', 'item_ids', 'titles')}
    path = None
    if ids.get('feature_mapper') is not None:
        path = FeatureMapper.from_state(tensors, ids['feature_mapper'])
    return {
        'user_x': user_x.to(device),
        'item_x': item_x.to(device),
        'user_ids': lists['user_ids'],
        'item_ids': lists['item_ids'],
        'seen': _seen(tensors, user_x.size(0), item_x.size(0)),
        'titles': _titles(lists['item_ids'], lists['titles']),
        'feature_mapper': path,
    }


def _embeddings(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    x = _tensor(tensors, name)
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(
            f"'{name}' is no matrix of numbers ({list(x.shape)}, {x.dtype})"
        )
    return x


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"there is no tensor '{name}'")
    return tensors[name]


def _seen(tensors: Mapping[str, Tensor], num_users: int, num_items: int) -> SeenItems:
    """Compressed rows, none of which may point outside."""
    rowptr, col = (_tensor(tensors, name) for name in ('seen_rowptr', 'seen_col'))
    sound = (
        rowptr.dtype == col.dtype == torch.long
        and list(rowptr.shape) == [num_users + 1]
        and col.dim() == 1
        and int(rowptr[0]) == 0
        and int(rowptr[-1]) == col.numel()
        and bool((rowptr.diff() >= 0).all())
        and bool(((col >= 0) & (col < num_items)).all())
    )
    if not sound:
        raise ValueError(
            f"'seen_rowptr' and 'seen_col' are no rows of items for {num_users} users "
            f'and {num_items} items'
        )
    return SeenItems(rowptr, col, num_items)


def _list(ids: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(ids.get(name), list):
        raise ValueError(f"there is no list of '{name}'")
    found: list[Any] = ids[name]
    return found


def _titles(item_ids: list[Any], titles: list[Any]) -> dict[Any, str]:
    if len(titles) != len(item_ids):
        raise ValueError(f"'titles' are {len(titles)} for {len(item_ids)} items")
    if not all(title is None or isinstance(title, str) for title in titles):
        raise ValueError("'titles' are not all text")
    if not all(isinstance(raw, str | int) for raw in item_ids):
        raise ValueError("'item_ids' are not all text or integers")
    pairs = zip(item_ids, titles, strict=True)
    return {raw: title for raw, title in pairs if title is not None}
