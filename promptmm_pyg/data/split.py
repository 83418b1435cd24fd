"""Three graphs for training, validation and test, and four ways to make them."""

import copy
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice, check_probability
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS

TRAIN, VAL, TEST = 0, 1, 2


class Split(NamedTuple):
    """Three graphs that share features and message edges (training edges
    only) and differ in ``edge_label_index``, the positives each asks about.
    """

    train: HeteroData
    val: HeteroData
    test: HeteroData

    def transform(self, *transforms: Callable[[HeteroData], HeteroData]) -> 'Split':
        """Returns the split with its graphs transformed, one transform after the other.

        The graphs share features and message edges, so these are transformed once, on
        the training graph, and stay shared. The graphs of this split are left as they
        are.

        Args:
            *transforms: Functions from graph to graph, such as those of
                ``promptmm_pyg.transforms``.

        Example:
            >>> from promptmm_pyg.data import make_synthetic_dataset, split_per_user
            >>> from promptmm_pyg.transforms import StandardizeModalities
            >>> data = split_per_user(make_synthetic_dataset(30, 20))
            >>> data = data.transform(StandardizeModalities())
            >>> data.val['item'].x_text is data.train['item'].x_text
            True
        """
        train = copy.copy(self.train)
        for transform in transforms:
            train = transform(train)
        return Split(train, *(_with_positives(train, g) for g in self[1:]))


def _with_positives(train: HeteroData, graph: HeteroData) -> HeteroData:
    """``train`` with the positives of ``graph`` in place of its own."""
    out = copy.copy(train)
    for key in [key for key in out[INTERACTS] if key.startswith('edge_label')]:
        del out[INTERACTS][key]
    for key, value in graph[INTERACTS].items():
        if key.startswith('edge_label'):
            out[INTERACTS][key] = value
    return out


def split_by_part(data: HeteroData, part: Tensor) -> Split:
    """Returns the split that a label per interaction spells out.

    The three graphs hold the very same feature tensors, ids and message edges.
    What else belongs to the interactions (``time``) is cut to the training
    edges; the positives' times are ``edge_label_time``. Edge types other than
    the interactions are left as they are.

    Args:
        data: A graph that is not split yet.
        part: Whole numbers ``[E]``: 0 for training, 1 for validation, 2 for
            test, in the order of the interactions.

    Raises:
        ValueError: If the graph is split already, if labels are not one per
            interaction or not 0, 1 or 2, or if none is 0.
    """
    store = data[INTERACTS]
    if 'edge_label_index' in store:
        raise ValueError(
            "'data' must be a graph before its split (it has an "
            "'edge_label_index'). Keep the split that came with the data, or build "
            'the graph again from all interactions'
        )
    edges = store.edge_index
    _check_part(part, edges.size(1))
    train = part == TRAIN
    base = copy.copy(data)
    for key, value in store.items():
        if key != 'edge_index' and isinstance(value, Tensor):
            base[INTERACTS][key] = value[train]
    base[INTERACTS].edge_index = edges[:, train]
    del base[REV_INTERACTS]
    base[REV_INTERACTS].edge_index = base[INTERACTS].edge_index.flip(0)

    graphs = []
    for code in (TRAIN, VAL, TEST):
        graph = copy.copy(base)
        chosen = part == code
        graph[INTERACTS].edge_label_index = edges[:, chosen]
        if 'time' in store:
            graph[INTERACTS].edge_label_time = store.time[chosen]
        graphs.append(graph)
    return Split(*graphs)


def _check_part(part: Tensor, num_edges: int) -> None:
    if part.size() != (num_edges,):
        raise ValueError(
            f"'part' must have one entry per interaction (got shape "
            f'{list(part.size())} for {num_edges} interactions)'
        )
    if bool(((part < TRAIN) | (part > TEST)).any()):
        raise ValueError(
            f"'part' must contain 0 (train), 1 (val) or 2 (test) (got "
            f'{int(part.min())} to {int(part.max())})'
        )
    if not bool((part == TRAIN).any()):
        raise ValueError(
            "'part' must leave at least one interaction for training (got none)"
        )


def split_per_user(
    data: HeteroData, val_ratio: float = 0.1, test_ratio: float = 0.1, seed: int = 0
) -> Split:
    """Returns a split of each user's interactions by chance.

    Of a user's ``n`` interactions, ``floor(ratio * n)`` but at least one go to
    each part asked for. A user with fewer than three stays in training whole,
    and every user keeps at least one training edge.

    Args:
        data: A graph that is not split yet.
        val_ratio: Share for validation; 0 for none. (default: 0.1)
        test_ratio: Share for test; 0 for none. (default: 0.1)
        seed: Which draw. (default: 0)

    Raises:
        ValueError: If a ratio is outside [0, 1) or both leave no training edge.
    """
    _check_ratios(val_ratio, test_ratio)
    users = data[INTERACTS].edge_index[0]
    random = torch.randperm(users.numel(), generator=_generator(seed))
    rank, count = _rank_in_user(users, random)
    num_test = _held_out(count, test_ratio)
    num_val = _held_out(count, val_ratio)
    num_test = num_test.minimum((count - 1 - (num_val > 0).long()).clamp(min=0))
    num_val = num_val.minimum(count - 1 - num_test)
    return split_by_part(data, _last_ranks(rank, count, num_val, num_test))


def split_leave_one_out(
    data: HeteroData, by: Literal['time', 'random'] = 'time', seed: int = 0
) -> Split:
    """Returns a split with one test and one validation item a user.

    By time, a user's last interaction is for test and the one before for
    validation (ties: the later mention counts as later); by chance, any two
    are. A user with fewer than three interactions stays in training whole, so
    every user keeps at least one training edge.

    Args:
        data: A graph that is not split yet; ``by='time'`` needs ``time`` on its
            interactions.
        by: ``'time'`` or ``'random'``. (default: ``'time'``)
        seed: Which draw, read for ``by='random'`` only. (default: 0)

    Raises:
        ValueError: If ``by`` is neither, or the interactions have no ``time``.
    """
    check_choice('by', by, ('time', 'random'))
    users = data[INTERACTS].edge_index[0]
    if by == 'time':
        order = _times(data)
    else:
        order = torch.randperm(users.numel(), generator=_generator(seed))
    rank, count = _rank_in_user(users, order)
    one = (count >= 3).long()
    return split_by_part(data, _last_ranks(rank, count, one, one))


def split_by_time(
    data: HeteroData, val_ratio: float = 0.1, test_ratio: float = 0.1
) -> Split:
    """Returns a split at two moments, the same for all users.

    Everything up to the first moment trains, everything after the second
    tests. Interactions of one moment are never torn apart, so the shares are
    met only roughly. A user whose first interaction is late has **no** training
    edge: :func:`~promptmm_pyg.data.validate` counts them.

    Args:
        data: A graph that is not split yet, with ``time`` on its interactions.
        val_ratio: Share for validation, before the test. (default: 0.1)
        test_ratio: Share for test, the latest. (default: 0.1)

    Raises:
        ValueError: If the interactions have no ``time``, a ratio is outside
            [0, 1), both leave nothing, or all times are so alike that nothing
            is left for training.
    """
    _check_ratios(val_ratio, test_ratio)
    time = _times(data)
    ordered = time.sort().values
    num_test = int(test_ratio * time.numel())
    num_val = int(val_ratio * time.numel())
    part = torch.zeros_like(time, dtype=torch.long)
    if num_val > 0:
        part[time >= ordered[-num_val - num_test]] = VAL
    if num_test > 0:
        part[time >= ordered[-num_test]] = TEST
    return split_by_part(data, part)


def split_cold_items(
    data: HeteroData, val_ratio: float = 0.1, test_ratio: float = 0.1, seed: int = 0
) -> Split:
    """Returns a strict cold-start split: an item held out has no training
    interaction at all.

    Items with interactions are drawn by chance and all their interactions go
    with them, so validation and test share no item either. A user who liked
    only such items has **no** training edge:
    :func:`~promptmm_pyg.data.validate` counts them.

    Args:
        data: A graph that is not split yet.
        val_ratio: Share of the items for validation. (default: 0.1)
        test_ratio: Share of the items for test. (default: 0.1)
        seed: Which draw. (default: 0)

    Raises:
        ValueError: If a ratio is outside [0, 1) or both leave no item.
    """
    _check_ratios(val_ratio, test_ratio)
    items = data[INTERACTS].edge_index[1]
    used = items.unique()
    used = used[torch.randperm(used.numel(), generator=_generator(seed))]
    num_test = int(_at_least_one(test_ratio * used.numel(), test_ratio))
    num_val = int(_at_least_one(val_ratio * used.numel(), val_ratio))
    part_of_item = torch.zeros(data.num_nodes_dict['item'], dtype=torch.long)
    part_of_item[used[:num_test]] = TEST
    part_of_item[used[num_test : num_test + num_val]] = VAL
    return split_by_part(data, part_of_item[items])


def _check_ratios(val_ratio: float, test_ratio: float) -> None:
    check_probability('val_ratio', val_ratio)
    check_probability('test_ratio', test_ratio)
    if not val_ratio + test_ratio < 1:
        raise ValueError(
            f"'val_ratio' and 'test_ratio' must add up to less than 1 (got "
            f'{val_ratio} and {test_ratio})'
        )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _times(data: HeteroData) -> Tensor:
    if 'time' not in data[INTERACTS]:
        raise ValueError(
            "'data' must have 'time' on its interactions (got none). Pass "
            "'edge_time' to 'build_graph' or 'time' to 'from_frame'"
        )
    time: Tensor = data[INTERACTS].time
    return time


def _rank_in_user(users: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Per interaction: its place among its user's, and how many those are."""
    perm = torch.from_numpy(np.lexsort((order.numpy(), users.numpy())))
    count = torch.bincount(users)
    start = count.cumsum(0) - count
    rank = torch.empty_like(users)
    rank[perm] = torch.arange(users.numel()) - start[users[perm]]
    return rank, count[users]


def _held_out(count: Tensor, ratio: float) -> Tensor:
    share = (count.double() * ratio).floor().long()
    if ratio > 0:
        share = share.clamp(min=1)
    return share.where(count >= 3, torch.zeros_like(share))


def _at_least_one(share: float, ratio: float) -> float:
    return max(share, 1.0) if ratio > 0 else 0.0


def _last_ranks(
    rank: Tensor, count: Tensor, num_val: Tensor, num_test: Tensor
) -> Tensor:
    part = torch.zeros_like(rank)
    part[rank >= count - num_test - num_val] = VAL
    part[rank >= count - num_test] = TEST
    return part
