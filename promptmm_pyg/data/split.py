"""Training, validation and test graphs: given parts, or interactions held out."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice, check_probability
from promptmm_pyg.data.schema import INTERACTS, ITEM, REV_INTERACTS, USER

TRAIN, VAL, TEST = 0, 1, 2
PARTS = ('train', 'val', 'test')
_PART_NAMES = {
    'train': TRAIN,
    'training': TRAIN,
    'val': VAL,
    'valid': VAL,
    'validation': VAL,
    'dev': VAL,
    'test': TEST,
}


class Split(NamedTuple):
    """Three graphs that share features and message edges (training edges only) and
    differ in their positives, ``edge_label_index``.
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


def split_by_part(data: HeteroData, part: Tensor | None = None) -> Split:
    """Returns the split given by a label per interaction.

    The three graphs share feature tensors, ids and message edges. Other attributes of
    the interactions (``time``) are restricted to the training edges; the times of the
    positives are ``edge_label_time``. Edge types other than the interactions are left
    unchanged.

    Args:
        data: A graph that is not split yet.
        part: Integers ``[E]``: 0 for training, 1 for validation, 2 for test, in the
            order of the interactions. (default: ``part`` of the interactions)

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
    part = store.get('part') if part is None else part
    _check_part(part, edges.size(1))
    assert part is not None
    train = part == TRAIN
    base = copy.copy(data)
    base[INTERACTS].pop('part', None)
    for key, value in store.items():
        if key not in ('edge_index', 'part') and isinstance(value, Tensor):
            base[INTERACTS][key] = value[train]
    base[INTERACTS].edge_index = edges[:, train]
    del base[REV_INTERACTS]
    base[REV_INTERACTS].edge_index = base[INTERACTS].edge_index.flip(0)

    graphs = []
    for code in (TRAIN, VAL, TEST):
        graph = copy.copy(base)
        graph[INTERACTS].edge_label_index = edges[:, part == code]
        if 'time' in store:
            graph[INTERACTS].edge_label_time = store.time[part == code]
        graphs.append(graph)
    return Split(*graphs)


def _check_part(part: Tensor | None, num_edges: int) -> None:
    if part is None:
        raise ValueError(
            "'part' must be given where the interactions have none (got None). Read "
            "them with 'split_column', or use another split function"
        )
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
            "'part' must contain at least one interaction for training (got none)"
        )


def part_codes(name: str, values: Sequence[Any]) -> Tensor:
    """The labels ``[N]`` of :func:`split_by_part` for names of parts.

    Args:
        name: The column in messages.
        values: ``'train'``, ``'val'`` (``'valid'``, ``'validation'``, ``'dev'``) or
            ``'test'`` in any case, or 0, 1 and 2.

    Raises:
        ValueError: If a value is something else.
    """
    known = {**_PART_NAMES, **{str(code): code for code in range(len(PARTS))}}
    codes = [known.get(str(value).strip().casefold(), -1) for value in values]
    unknown = [x for x, code in zip(values, codes, strict=True) if code < 0]
    if unknown:
        shown = ', '.join(repr(x) for x in dict.fromkeys(unknown[:10]))
        more = f' and {len(unknown) - 10} more' if len(unknown) > 10 else ''
        raise ValueError(
            f"{name} must contain 'train', 'val' ('valid', 'validation') and 'test' "
            f'(got {shown}{more}). Rename these values, or leave out their rows'
        )
    return torch.tensor(codes, dtype=torch.long)


def shared_pairs(
    edges: Tensor, part: Tensor, num_items: int
) -> dict[tuple[str, str], Tensor]:
    """The pairs that two parts share, or that one part has more than once.

    Args:
        edges: Users and items ``[2, E]``.
        part: The part of each, as in :func:`split_by_part`.
        num_items: The number of items.

    Returns:
        ``{(part, part): positions [N]}`` of the second mention of each such pair;
        empty if each pair occurs once.
    """
    key = edges[0] * num_items + edges[1]
    order = torch.from_numpy(np.lexsort((part.numpy(), key.numpy())))
    again = (key[order[1:]] == key[order[:-1]]).nonzero().view(-1)
    first, second = order[again], order[again + 1]
    code = part[first] * len(PARTS) + part[second]
    return {
        (PARTS[value // len(PARTS)], PARTS[value % len(PARTS)]): second[code == value]
        for value in code.unique().tolist()
    }


def split_per_user(
    data: HeteroData, val_ratio: float = 0.1, test_ratio: float = 0.1, seed: int = 0
) -> Split:
    """Returns a random split of each user's interactions.

    Of a user's ``n`` interactions, ``floor(ratio * n)`` but at least one go to each
    part. All interactions of a user with fewer than three are for training, and every
    user has at least one training edge. The split does not depend on the order of the
    interactions.

    Args:
        data: A graph that is not split yet.
        val_ratio: Share for validation; 0 for none. (default: 0.1)
        test_ratio: Share for test; 0 for none. (default: 0.1)
        seed: Seed of the draw. (default: 0)

    Raises:
        ValueError: If a ratio is outside [0, 1) or both leave no training edge.
    """
    _check_ratios(val_ratio, test_ratio)
    rank, count = _rank_in_user(data[INTERACTS].edge_index[0], _draw(data, seed))
    num_test = _held_out(count, test_ratio)
    num_val = _held_out(count, val_ratio)
    num_test = num_test.minimum((count - 1 - (num_val > 0).long()).clamp(min=0))
    num_val = num_val.minimum(count - 1 - num_test)
    part = _last_ranks(rank, count, num_val, num_test)
    del rank, count, num_val, num_test  # As large as the graph.
    return split_by_part(data, part)


def split_leave_one_out(
    data: HeteroData, by: Literal['time', 'random'] = 'time', seed: int = 0
) -> Split:
    """Returns a split with one test and one validation item per user.

    By time, a user's latest interaction is for test and the one before for validation;
    equal times are ordered at random. With ``by='random'`` any two are held out. All
    interactions of a user with fewer than three are for training, so every user has at
    least one training edge. The split does not depend on the order of the
    interactions.

    Args:
        data: A graph that is not split yet; ``by='time'`` requires ``time`` on its
            interactions.
        by: ``'time'`` or ``'random'``. (default: ``'time'``)
        seed: Seed of the draw. (default: 0)

    Raises:
        ValueError: If ``by`` is neither, or the interactions have no ``time``.
    """
    check_choice('by', by, ('time', 'random'))
    place = _draw(data, seed)
    if by == 'time':
        order = place.argsort()
        order = order[_times(data)[order].argsort(stable=True)]
        place[order] = torch.arange(order.numel())
    rank, count = _rank_in_user(data[INTERACTS].edge_index[0], place)
    one = (count >= 3).long()
    return split_by_part(data, _last_ranks(rank, count, one, one))


def split_by_time(
    data: HeteroData, val_ratio: float = 0.1, test_ratio: float = 0.1
) -> Split:
    """Returns a split at two moments, the same for all users.

    Everything before the first moment is for training, everything from the second on
    for test. Interactions of one moment are in one part, so the shares are only
    approximate. A user whose first interaction is late has **no** training edge:
    :func:`~promptmm_pyg.data.validate` counts them.

    Args:
        data: A graph that is not split yet, with ``time`` on its interactions.
        val_ratio: Share for validation, before the test. (default: 0.1)
        test_ratio: Share for test, the latest. (default: 0.1)

    Raises:
        ValueError: If the interactions have no ``time``, a ratio is outside [0, 1),
            both leave nothing, or so many times are equal that nothing is left for
            training.
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
    """Returns a strict cold-start split: held-out items have no training interaction.

    Items with interactions are drawn at random with all their interactions, so
    validation and test share no item either. A user who interacted only with such items
    has **no** training edge: :func:`~promptmm_pyg.data.validate` counts them. The split
    does not depend on the order of the interactions.

    Args:
        data: A graph that is not split yet.
        val_ratio: Share of the items for validation. (default: 0.1)
        test_ratio: Share of the items for test. (default: 0.1)
        seed: Seed of the draw. (default: 0)

    Raises:
        ValueError: If a ratio is outside [0, 1) or both leave no item.
    """
    _check_ratios(val_ratio, test_ratio)
    items = data[INTERACTS].edge_index[1]
    used = items.unique()
    used = used[_rank_of_nodes(data, ITEM)[used].argsort()]
    used = used[torch.randperm(used.numel(), generator=_generator(seed))]
    num_test = int(_at_least_one(test_ratio * used.numel(), test_ratio))
    num_val = int(_at_least_one(val_ratio * used.numel(), val_ratio))
    part_of_item = torch.zeros(data.num_nodes_dict[ITEM], dtype=torch.long)
    part_of_item[used[:num_test]] = TEST
    part_of_item[used[num_test : num_test + num_val]] = VAL
    return split_by_part(data, part_of_item[items])


class HeldOut(NamedTuple):
    """What a split holds out."""

    val: float
    """Share of the interactions in validation."""
    test: float
    """Share of the interactions in test."""
    num_users: int
    """Users with interactions."""
    num_users_without: int
    """Users with interactions, of which none is held out."""

    def __str__(self) -> str:
        return (
            f'held out {self.val:.1%} for validation, {self.test:.1%} for test; '
            f'{self.num_users_without} of {self.num_users} users have nothing held out'
        )


def held_out(split: Split) -> HeldOut:
    """Returns the shares that a split holds out, which ratios per user meet only
    roughly: a user with six interactions has one in each part of 10 %.

    Args:
        split: Three graphs with positives.

    Example:
        >>> from promptmm_pyg.data import make_synthetic_dataset
        >>> split = split_per_user(make_synthetic_dataset(30, 20))
        >>> round(held_out(split).test, 2)
        0.16
    """
    train, *others = [graph[INTERACTS].edge_label_index for graph in split]
    total = max(1, train.size(1) + sum(part.size(1) for part in others))
    held = torch.cat([part[0] for part in others]).unique()
    users = torch.cat([train[0].unique(), held]).unique()
    val, test = (part.size(1) / total for part in others)
    return HeldOut(val, test, users.numel(), users.numel() - held.numel())


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
            "'edge_time' to 'build_graph' or 'time' to 'read_table'"
        )
    time: Tensor = data[INTERACTS].time
    return time


def _draw(data: HeteroData, seed: int) -> Tensor:
    """A random place ``[E]`` for each interaction, by seed and raw ids only."""
    order = _canonical_order(data)
    draw = torch.empty_like(order)
    draw[order] = torch.randperm(order.numel(), generator=_generator(seed))
    return draw


def _canonical_order(data: HeteroData) -> Tensor:
    """The positions of the interactions by ``order``, else by the raw ids of user and
    item.
    """
    store = data[INTERACTS]
    if 'order' in store:
        order: Tensor = store.order.argsort(stable=True)
        return order
    user, item = store.edge_index
    key = _rank_of_nodes(data, USER)[user] * data.num_nodes_dict[ITEM]
    key += _rank_of_nodes(data, ITEM)[item]
    if bool((key[1:] > key[:-1]).all()):
        return torch.arange(key.numel())
    return _argsort(key)


def _rank_of_nodes(data: HeteroData, node_type: str) -> Tensor:
    """The place of each node ``[N]`` by its raw id as text: short ids first, so that
    numbers have the same order whether they were read as numbers or as text.
    """
    num_nodes = data.num_nodes_dict[node_type]
    ids = data[node_type].get('raw_id')
    if ids is None:
        return torch.arange(num_nodes)
    if ids.dtype.kind in 'iu' and int(ids.min(initial=0)) >= 0:
        order = np.argsort(ids, kind='stable')
    else:
        texts = [str(raw) for raw in ids.tolist()]
        order = np.array(
            sorted(range(num_nodes), key=lambda node: (len(texts[node]), texts[node]))
        )
    rank = torch.empty(num_nodes, dtype=torch.long)
    rank[torch.from_numpy(order)] = torch.arange(num_nodes)
    return rank


def _rank_in_user(users: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Each interaction's place among those of its user, and the number of these.

    Args:
        users: The user of each interaction ``[E]``.
        place: Its place among all interactions, a permutation of 0 to E - 1.
    """
    order = _argsort(users * users.numel() + place)
    count = torch.bincount(users)
    start = count.cumsum(0) - count
    rank = torch.empty_like(users)
    rank[order] = torch.arange(users.numel()) - start[users[order]]
    return rank, count[users]


def _argsort(keys: Tensor) -> Tensor:
    """The order of distinct integers; NumPy is faster than torch here."""
    return torch.from_numpy(np.argsort(keys.numpy()))


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
    part = torch.zeros_like(rank, dtype=torch.int8)
    part[rank >= count - num_test - num_val] = VAL
    part[rank >= count - num_test] = TEST
    return part
