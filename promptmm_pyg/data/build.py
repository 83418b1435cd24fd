"""From index pairs and feature arrays to a graph in the one schema."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER

Array = Tensor | np.ndarray[Any, Any]
Ids = Sequence[Any] | np.ndarray[Any, Any]
Duplicates = Literal['error', 'drop']


def build_graph(
    edge_index: Array,
    *,
    num_users: int | None = None,
    num_items: int | None = None,
    item_features: Mapping[str, Array] | None = None,
    user_features: Mapping[str, Array] | None = None,
    item_masks: Mapping[str, Array] | None = None,
    user_masks: Mapping[str, Array] | None = None,
    user_ids: Ids | None = None,
    item_ids: Ids | None = None,
    edge_time: Array | None = None,
    duplicates: Duplicates = 'error',
) -> HeteroData:
    """Returns a graph whose message edges are all interactions.

    Nothing is split yet: see :func:`~promptmm_pyg.data.split_per_user` and its
    neighbours. The graph is on the CPU. Rows that a mask marks as absent are set
    to zero, so they may hold NaN on the way in.

    Args:
        edge_index: Whole numbers ``[2, E]``: users in the first row, items in
            the second, each counted from zero.
        num_users: The number of users. (default: the number of user ids, else
            of user feature rows, else the largest user plus one)
        num_items: The number of items, found in the same way.
        item_features: ``{modality: [num_items, width]}``; stored as float32.
            (default: none)
        user_features: ``{modality: [num_users, width]}``. (default: none)
        item_masks: ``{modality: [num_items]}``, true where the row is there.
            (default: every row is there)
        user_masks: The same for users.
        user_ids: The users' own ids, one per user, all different.
            (default: not stored)
        item_ids: The items' own names.
        edge_time: One number per interaction, stored as ``time`` on the
            interactions. (default: not stored)
        duplicates: ``'error'`` raises on a repeated pair, ``'drop'``
            keeps its first mention. (default: ``'error'``)

    Raises:
        ValueError: If the pairs are none, not ``[2, E]``, out of range or
            repeated; if features, masks or ids do not fit the number of nodes;
            if a feature is NaN or infinite where its mask says present.

    Example:
        >>> graph = build_graph(torch.tensor([[0, 1], [2, 0]]), num_items=4)
        >>> graph.num_nodes_dict
        {'user': 2, 'item': 4}
    """
    check_choice('duplicates', duplicates, ('error', 'drop'))
    edges = _as_edges(edge_index)
    time = None if edge_time is None else _as_time(edge_time, edges.size(1))
    counts = {
        USER: _count(num_users, user_ids, user_features, edges[0]),
        ITEM: _count(num_items, item_ids, item_features, edges[1]),
    }
    _check_range(edges, counts)
    kept = first_mentions(edges, counts[ITEM])
    if duplicates == 'error':
        _check_unique(edges, kept)
    elif kept.numel() < edges.size(1):
        edges, time = edges[:, kept], None if time is None else time[kept]

    data = HeteroData()
    _add_nodes(data, USER, counts[USER], user_ids, user_features, user_masks)
    _add_nodes(data, ITEM, counts[ITEM], item_ids, item_features, item_masks)
    data[INTERACTS].edge_index = edges
    if time is not None:
        data[INTERACTS].time = time
    data[REV_INTERACTS].edge_index = edges.flip(0)
    return data


def _as_tensor(value: Array) -> Tensor:
    # Read-only arrays (memory maps, pandas columns) are copied: torch has no
    # tensors that may not be written to, and warns.
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    return torch.as_tensor(value).cpu()


def _as_edges(edge_index: Array) -> Tensor:
    edges = _as_tensor(edge_index)
    if edges.dim() != 2 or edges.size(0) != 2:
        raise ValueError(
            f"'edge_index' must have shape [2, E] (got {list(edges.size())}). "
            f'Put users in the first row and items in the second'
        )
    if edges.size(1) == 0:
        raise ValueError(
            "'edge_index' must contain at least one interaction (got none)"
        )
    if edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool:
        raise ValueError(f"'edge_index' must contain integers (got {edges.dtype})")
    return edges.long().contiguous()


def _as_time(edge_time: Array, num_edges: int) -> Tensor:
    time = _as_tensor(edge_time)
    if time.size() != (num_edges,):
        raise ValueError(
            f"'edge_time' must have one entry per interaction (got shape "
            f'{list(time.size())} for {num_edges} interactions)'
        )
    if time.is_floating_point() and not bool(time.isfinite().all()):
        raise ValueError("'edge_time' must be finite (got NaN or infinity)")
    return time


def _count(
    given: int | None,
    ids: Ids | None,
    features: Mapping[str, Array] | None,
    index: Tensor,
) -> int:
    if given is not None:
        return given
    if ids is not None:
        return len(ids)
    if features:
        first = next(iter(features.values()))
        if first.ndim > 0:
            return len(first)
    return int(index.max()) + 1


def _check_range(edges: Tensor, counts: Mapping[str, int]) -> None:
    for row, node_type in zip(edges, (USER, ITEM), strict=True):
        low, high = int(row.min()), int(row.max())
        if low < 0 or high >= counts[node_type]:
            raise ValueError(
                f"'edge_index' must contain {node_type}s in "
                f'[0, {counts[node_type]}) (got {low} to {high}). Count from zero, '
                f"or raise 'num_{node_type}s'"
            )


def first_mentions(edges: Tensor, num_items: int) -> Tensor:
    """Positions of the pairs ``[2, E]`` at which each stands first, in order."""
    key = (edges[0] * num_items + edges[1]).numpy()
    return torch.from_numpy(np.sort(np.unique(key, return_index=True)[1]))


def first_repeat(num_edges: int, kept: Tensor) -> int | None:
    """Position of the first pair that is not among the ``kept``, if one is not."""
    if kept.numel() == num_edges:
        return None
    return int(np.setdiff1d(np.arange(num_edges), kept.numpy())[0])


def _check_unique(edges: Tensor, kept: Tensor) -> None:
    position = first_repeat(edges.size(1), kept)
    if position is not None:
        repeats = edges.size(1) - kept.numel()
        user, item = edges[:, position].tolist()
        raise ValueError(
            f"'edge_index' must contain each pair once (got {repeats} repeated, the "
            f"first is user {user}, item {item}). Pass duplicates='drop' to keep the "
            f'first mention'
        )


def _add_nodes(
    data: HeteroData,
    node_type: str,
    num_nodes: int,
    ids: Ids | None,
    features: Mapping[str, Array] | None,
    masks: Mapping[str, Array] | None,
) -> None:
    features, masks = features or {}, masks or {}
    store = data[node_type]
    store.num_nodes = num_nodes
    if ids is not None:
        store.raw_id = as_raw_ids(f'{node_type}_ids', ids, num_nodes)
    extra = sorted(set(masks) - set(features))
    if extra:
        raise ValueError(
            f"'{node_type}_masks' must name modalities of "
            f"'{node_type}_features' (got {extra}, with features for "
            f'{sorted(features)})'
        )
    for name, value in features.items():
        mask = None
        if name in masks:
            mask = _as_mask(f"{node_type}_masks['{name}']", masks[name], num_nodes)
            store[f'mask_{name}'] = mask
        what = f"{node_type}_features['{name}']"
        store[f'x_{name}'] = _as_features(what, name, value, mask, num_nodes)


def as_raw_ids(name: str, ids: Ids, num_nodes: int) -> np.ndarray[Any, Any]:
    """Ids as an array of integers or of strings, checked to be unique."""
    array = np.asarray(ids)
    if array.dtype.kind == 'O' and all(isinstance(x, str) for x in array.flat):
        array = array.astype(np.str_)
    if array.dtype.kind not in 'iuU':
        raise ValueError(
            f"'{name}' must contain integers or strings, not a mix (got "
            f'{array.dtype}). Convert them to strings first'
        )
    if array.shape != (num_nodes,):
        raise ValueError(
            f"'{name}' must have one entry per node (got shape "
            f'{list(array.shape)} for {num_nodes} nodes)'
        )
    values, counts = np.unique(array, return_counts=True)
    if len(values) < num_nodes:
        twice = values[counts > 1][0].item()
        raise ValueError(f"'{name}' must contain each id once (got {twice!r} again)")
    return array


def _as_mask(what: str, value: Array, num_nodes: int) -> Tensor:
    mask = _as_tensor(value)
    if mask.dtype != torch.bool or mask.size() != (num_nodes,):
        raise ValueError(
            f'"{what}" must be boolean with shape [{num_nodes}] (got '
            f'{mask.dtype} with shape {list(mask.size())})'
        )
    return mask


def _as_features(
    what: str, name: str, value: Array, mask: Tensor | None, num_nodes: int
) -> Tensor:
    if not f'x_{name}'.isidentifier():
        raise ValueError(
            f'"{what}" must be named with letters, digits and underscores '
            f"(got '{name}')"
        )
    if isinstance(value, np.ndarray) and value.dtype.kind not in 'biuf':
        raise ValueError(f'"{what}" must contain numbers (got {value.dtype})')
    x = _as_tensor(value)
    if x.dim() != 2 or x.size(0) != num_nodes or x.size(1) == 0:
        raise ValueError(
            f'"{what}" must have one row per node and at least one column '
            f'(got shape {list(x.size())} for {num_nodes} nodes)'
        )
    x = x.float()
    if mask is not None and not bool(mask.all()):
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
    bad = ~x.isfinite().all(dim=-1)
    if bool(bad.any()):
        raise ValueError(
            f'"{what}" must be finite (got NaN or infinity in '
            f'{int(bad.sum())} rows, the first is {int(bad.nonzero()[0])}). Mark '
            f'rows that are missing as false in a mask'
        )
    return x
