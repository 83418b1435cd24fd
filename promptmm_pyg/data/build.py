"""From index pairs and feature arrays to a graph in the one schema."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.problems import data_error
from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER
from promptmm_pyg.data.split import shared_pairs
from promptmm_pyg.limits import FREE_NODES, NODES_PER_ROW

Array = Tensor | np.ndarray[Any, Any]
Ids = Sequence[Any] | np.ndarray[Any, Any]
Duplicates = Literal['error', 'first', 'last', 'sum']
DUPLICATES = ('error', 'first', 'last', 'sum')
# The largest number of a node beyond which it must have so many interactions; numbers
# that count users or items are far from that.


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
    edge_weight: Array | None = None,
    edge_part: Array | None = None,
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
        num_items: The number of items, likewise.
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
        edge_weight: One number per interaction, stored as ``weight`` on the
            interactions (float32). No model uses it. (default: not stored)
        edge_part: The part of a given split that each interaction belongs to, 0 for
            training, 1 for validation, 2 for test; stored as ``part`` on the
            interactions, for :func:`~promptmm_pyg.data.split_by_part`.
            (default: not stored)
        duplicates: What to do with repeated pairs: ``'error'`` raises, ``'first'``
            keeps the first row, ``'last'`` the row of the latest time (the last row
            where there are no times), ``'sum'`` adds the weights up (1 each where there
            are none) and keeps the latest time. (default: ``'error'``)

    Raises:
        ValueError: If the pairs are none, not ``[2, E]``, out of range or
            repeated; if features, masks or ids do not fit the number of nodes;
            if a feature is NaN or infinite where its mask says present.

    Example:
        >>> graph = build_graph(torch.tensor([[0, 1], [2, 0]]), num_items=4)
        >>> graph.num_nodes_dict
        {'user': 2, 'item': 4}
    """
    check_choice('duplicates', duplicates, DUPLICATES)
    edges = _as_edges(edge_index)
    time = None if edge_time is None else _per_edge('edge_time', edge_time, edges)
    weight = None
    if edge_weight is not None:
        weight = _per_edge('edge_weight', _as_tensor(edge_weight).float(), edges)
    counts = {
        USER: _count('num_users', num_users, user_ids, user_features, edges[0]),
        ITEM: _count('num_items', num_items, item_ids, item_features, edges[1]),
    }
    _check_range(edges, counts)
    part = None if edge_part is None else _as_tensor(edge_part).long()
    merged = merge_repeats(edges, counts[ITEM], duplicates, time, weight)
    if isinstance(merged, int):
        data_error(_repeated(edges, merged, part, user_ids, item_ids))
        merged = merge_repeats(edges, counts[ITEM], 'first', time, weight)
    assert not isinstance(merged, int)
    edges = edges[:, merged.rows] if merged.rows is not None else edges

    data = HeteroData()
    _add_nodes(data, USER, counts[USER], user_ids, user_features, user_masks)
    _add_nodes(data, ITEM, counts[ITEM], item_ids, item_features, item_masks)
    data[INTERACTS].edge_index = edges
    if merged.time is not None:
        data[INTERACTS].time = merged.time
    if merged.weight is not None:
        data[INTERACTS].weight = merged.weight
    if part is not None:
        data[INTERACTS].part = part if merged.rows is None else part[merged.rows]
    data[REV_INTERACTS].edge_index = edges.flip(0)
    return data


def _as_tensor(value: Array) -> Tensor:
    # Read-only arrays (memory maps, pandas columns) are copied: torch has no
    # tensors that may not be written to, and warns.
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    try:
        return torch.as_tensor(value).cpu()
    except RuntimeError as error:
        kind = type(value).__name__
        raise TypeError(f'arrays must contain numbers (got {kind}: {error})') from error


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


def _per_edge(name: str, values: Array, edges: Tensor) -> Tensor:
    """One finite number per interaction."""
    numbers = _as_tensor(values)
    if numbers.size() != edges.size()[1:]:
        raise ValueError(
            f"'{name}' must have one entry per interaction (got shape "
            f'{list(numbers.size())} for {edges.size(1)} interactions)'
        )
    if numbers.is_floating_point() and not bool(numbers.isfinite().all()):
        raise ValueError(f"'{name}' must be finite (got NaN or infinity)")
    return numbers


def _count(
    name: str,
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
    count = int(index.max()) + 1
    check_size(name, count, index.numel())
    return count


def check_size(name: str, num_nodes: int, num_rows: int) -> None:
    """Raises if the largest number of a node is out of proportion to the data, before
    anything of that size is made: more than 100,000, and more than 100 per row.

    Args:
        name: What is counted, for the message.
        num_nodes: The largest number plus one.
        num_rows: The number of interactions or feature rows.
    """
    if num_nodes > max(FREE_NODES, NODES_PER_ROW * num_rows):
        raise ValueError(
            f"'{name}' must be at most {NODES_PER_ROW} times the number of "
            f'interactions (got the number {num_nodes - 1} and {num_rows} '
            f'interactions). Number users and items from zero, or read their ids from '
            f'a table'
        )


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
    """Rows of the pairs ``[2, E]`` that mention theirs first, in order."""
    key = (edges[0] * num_items + edges[1]).numpy()
    return torch.from_numpy(np.sort(np.unique(key, return_index=True)[1]))


class Merged(NamedTuple):
    """Interactions after repeated pairs were merged."""

    rows: Tensor | None  # Which rows stay, in order; None for all
    time: Tensor | None
    weight: Tensor | None


def merge_repeats(
    edges: Tensor,
    num_items: int,
    duplicates: Duplicates,
    time: Tensor | None = None,
    weight: Tensor | None = None,
) -> Merged | int:
    """Merges repeated pairs as in :func:`build_graph`; with ``'error'``, returns the
    row of the first repeat instead.

    Args:
        edges: Pairs ``[2, E]``.
        num_items: More than the largest item.
        duplicates: As in :func:`build_graph`.
        time: ``[E]``. (default: none)
        weight: ``[E]``. (default: none)
    """
    key = (edges[0] * num_items + edges[1]).numpy()
    if duplicates == 'sum' and weight is None:
        weight = torch.ones(key.size)
    ordered = np.sort(key)
    if not (ordered[1:] == ordered[:-1]).any():
        return Merged(None, time, weight)
    del ordered
    order = np.argsort(key, kind='stable')
    starts = np.flatnonzero(np.diff(key[order], prepend=key[order[0]] - 1))
    first = order[starts]  # The first row of each pair.
    if duplicates == 'error':
        return int(np.setdiff1d(order, first)[0])
    latest = first
    if duplicates != 'first':
        if time is not None:
            order = np.lexsort((time.numpy(), key))
        latest = order[np.append(starts[1:], key.size) - 1]
    if duplicates == 'sum' and weight is not None:
        weight = weight.clone()
        sums = np.add.reduceat(weight.double().numpy()[order], starts)
        weight[first] = torch.from_numpy(sums).to(weight)
    rows = np.sort(first if duplicates == 'sum' else latest)
    times = rows
    if duplicates == 'sum':  # The latest time, at the place of the first row.
        times = latest[np.argsort(first)]
    return Merged(
        torch.from_numpy(rows),
        None if time is None else time[times],
        None if weight is None else weight[rows],
    )


def _repeated(
    edges: Tensor,
    row: int,
    part: Tensor | None,
    user_ids: Ids | None,
    item_ids: Ids | None,
) -> str:
    """The message about repeated pairs, by raw ids where there are any."""

    def name(row: int) -> str:
        user, item = edges[:, row].tolist()
        if user_ids is not None and item_ids is not None:
            user, item = user_ids[user], item_ids[item]
        return f'user {user}, item {item}'

    if part is not None:
        shared = shared_pairs(edges, part, int(edges[1].max()) + 1)
        counts = [
            f'{rows.numel()} in '
            + (f"'{a}' twice" if a == b else f"both '{a}' and '{b}'")
            + f', the first is {name(int(rows.min()))}'
            for (a, b), rows in shared.items()
        ]
        return (
            f'the parts of a split must contain each pair once (got '
            f"{'; '.join(counts)}). Remove them, or merge them with 'duplicates' "
            f"(--duplicates): 'first' keeps the first part"
        )
    key = edges[0] * (edges[1].max() + 1) + edges[1]
    repeats = key.numel() - key.unique().numel()
    return (
        f'interactions must contain each pair once (got {repeats} repeated, the first '
        f"is {name(row)}). 'duplicates' (--duplicates) can merge them: "
        f"'first', 'last' or 'sum'"
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
        what = f"{node_type}_features['{name}']"
        x = _as_features(what, name, value, mask, num_nodes)
        bad = ~x.isfinite().all(dim=-1)
        if bool(bad.any()):
            data_error(_not_finite(what, bad, ids))
            x, mask = (
                x.masked_fill(bad[:, None], 0.0),
                ~bad if mask is None else mask & ~bad,
            )
        store[f'x_{name}'] = x
        if mask is not None:
            store[f'mask_{name}'] = mask


def as_raw_ids(name: str, ids: Ids, num_nodes: int) -> np.ndarray[Any, Any]:
    """Ids as an array of integers, or of Python's strings (of any length, without
    padding), checked to be unique.
    """
    array = ids if isinstance(ids, np.ndarray) else _plain_array(ids)
    if array.dtype.kind == 'U':
        array = array.astype(object)
    is_text = array.dtype.kind == 'O' and all(isinstance(x, str) for x in array.flat)
    if array.dtype.kind not in 'iu' and not is_text:
        raise ValueError(
            f"'{name}' must contain integers or strings, not a mix (got "
            f'{array.dtype}). Convert them to strings first'
        )
    if array.shape != (num_nodes,):
        raise ValueError(
            f"'{name}' must have one entry per node (got shape "
            f'{list(array.shape)} for {num_nodes} nodes)'
        )
    plain = array.tolist()
    if len(set(plain)) < num_nodes:
        twice = next(raw for raw, count in Counter(plain).items() if count > 1)
        raise ValueError(f"'{name}' must contain each id once (got {twice!r} again)")
    return array if is_text else array.astype(np.int64)


def _plain_array(ids: Sequence[Any]) -> np.ndarray[Any, Any]:
    """An array of numbers, or of objects: text of a fixed width would be padded."""
    if any(isinstance(x, str) for x in ids):
        array = np.empty(len(ids), dtype=object)
        array[:] = ids
        return array
    return np.asarray(ids)


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
    return x


def _not_finite(what: str, bad: Tensor, ids: Ids | None) -> str:
    row = int(bad.nonzero()[0])
    return (
        f'"{what}" must be finite (got NaN or infinity in {int(bad.sum())} rows, the '
        f'first is {row if ids is None else repr(ids[row])}). Fill these cells, or '
        f'leave the whole row empty (in arrays, false in a mask)'
    )
