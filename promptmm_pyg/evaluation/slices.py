"""Evaluation by popularity of items and history length of users."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.evaluation.metrics import Evaluation, metrics_per_user, positives
from promptmm_pyg.ranking import Ranking


def slice_by_cold_start(
    evaluation: Evaluation, data: HeteroData
) -> dict[str, Evaluation]:
    """The evaluation of positives whose item has training interactions (``'warm'``)
    and of those whose item has none (``'cold'``); see
    :func:`slice_by_item_popularity`.
    """
    cold, warm = slice_by_item_popularity(evaluation, data, bounds=(1,)).values()
    return {'warm': warm, 'cold': cold}


def slice_by_item_popularity(
    evaluation: Evaluation, data: HeteroData, *, bounds: Sequence[int] = (1, 5, 20)
) -> dict[str, Evaluation]:
    """The evaluation of the positives in each bucket of item popularity, the number of
    training interactions.

    Lists are those of the whole catalogue. Positives are restricted to those in the
    bucket, and users to those with such a positive. A bucket without positives has no
    user and NaN metrics.

    Args:
        evaluation: The result of :func:`~promptmm_pyg.evaluation.evaluate`.
        data: The evaluated graph.
        bounds: The lower bounds, ascending; 1, 5 and 20 give the buckets ``'0'``,
            ``'1-4'``, ``'5-19'`` and ``'20+'``. (default: 1, 5 and 20)
    """
    num_items = data[ITEM].num_nodes
    _check_graph(evaluation, num_items)
    names = _names(bounds)
    bucket = _bucket(data[INTERACTS].edge_index[1].cpu(), num_items, bounds)
    return {
        name: slice_by_items(evaluation, data, bucket == number)
        for number, name in enumerate(names)
    }


def slice_by_items(
    evaluation: Evaluation, data: HeteroData, mask: Tensor
) -> Evaluation:
    """The evaluation of the positives whose item is in ``mask`` ``[num_items]``, and of
    the users with such a positive.
    """
    user, item = (index.cpu() for index in positives(data))
    rows = torch.full((data[USER].num_nodes,), -1)
    rows[evaluation.users] = torch.arange(evaluation.users.numel())
    inside = mask[item]
    users, row = torch.unique(user[inside], return_inverse=True)
    ranking = _rows(evaluation.ranking, rows[users])
    per_user = metrics_per_user(
        ranking.item_index, row, item[inside], evaluation.num_items, evaluation.ks
    )
    return Evaluation(per_user, users, evaluation.num_items, ranking)


def slice_by_history(
    evaluation: Evaluation, data: HeteroData, *, bounds: Sequence[int] = (5, 10, 20)
) -> dict[str, Evaluation]:
    """The evaluation of the users in each bucket of history length, the number of
    training interactions.

    A bucket without users has NaN metrics.

    Args:
        evaluation: The result of :func:`~promptmm_pyg.evaluation.evaluate`.
        data: The evaluated graph.
        bounds: The lower bounds, ascending; 5, 10 and 20 give the buckets ``'0-4'``,
            ``'5-9'``, ``'10-19'`` and ``'20+'``. (default: 5, 10 and 20)
    """
    num_users, num_items = data[USER].num_nodes, data[ITEM].num_nodes
    _check_graph(evaluation, num_items)
    bucket = _bucket(data[INTERACTS].edge_index[0].cpu(), num_users, bounds)
    return {
        name: _of_users(evaluation, bucket == number)
        for number, name in enumerate(_names(bounds))
    }


def slice_by_user_group(
    evaluation: Evaluation, groups: Sequence[str]
) -> dict[str, Evaluation]:
    """The evaluation of the users of each group, in the order of the names; groups
    without an evaluated user are left out.

    Args:
        evaluation: The result of :func:`~promptmm_pyg.evaluation.evaluate`.
        groups: The group of every user of the graph, ``[num_users]``.

    Raises:
        ValueError: If there are fewer groups than users.
    """
    last = int(evaluation.users.max()) if evaluation.users.numel() else -1
    if len(groups) <= last:
        raise ValueError(
            f"'groups' must have a group of every user (got {len(groups)} for user "
            f"{last}). Use a name such as 'unknown' where none is known"
        )
    names = sorted(set(groups))
    place = {name: number for number, name in enumerate(names)}
    of_user = torch.tensor([place[name] for name in groups])
    slices = {
        name: _of_users(evaluation, of_user == number) for name, number in place.items()
    }
    return {name: part for name, part in slices.items() if part.users.numel()}


def _of_users(evaluation: Evaluation, mask: Tensor) -> Evaluation:
    """The part of the users in ``mask`` ``[num_users]``."""
    rows = mask[evaluation.users].nonzero().view(-1)
    return Evaluation(
        {key: value[rows] for key, value in evaluation.per_user.items()},
        evaluation.users[rows],
        evaluation.num_items,
        _rows(evaluation.ranking, rows),
    )


def _rows(ranking: Ranking, rows: Tensor) -> Ranking:
    return Ranking(ranking.item_index[rows], ranking.scores[rows])


def _bucket(index: Tensor, size: int, bounds: Sequence[int]) -> Tensor:
    """The bucket of each node by the number of its interactions."""
    count = torch.bincount(index, minlength=size)
    return torch.bucketize(count, torch.tensor(bounds), right=True)


def _names(bounds: Sequence[int]) -> list[str]:
    starts = [0, *bounds]
    if len(starts) < 2 or any(x >= y for x, y in pairwise(starts)):
        raise ValueError(
            "'bounds' must contain positive counts, each above the one before "
            f'(got {list(bounds)})'
        )
    names = [
        str(low) if low + 1 == high else f'{low}-{high - 1}'
        for low, high in pairwise(starts)
    ]
    return [*names, f'{starts[-1]}+']


def _check_graph(evaluation: Evaluation, num_items: int) -> None:
    if evaluation.num_items != num_items:
        raise ValueError(
            "'data' must be the graph that was evaluated "
            f'(got {num_items} items instead of {evaluation.num_items})'
        )
