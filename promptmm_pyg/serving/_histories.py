"""Histories of users who were not there in training, as rows of the catalogue."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg._utils import check_choice
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._raw_ids import RawId, RawIds, is_id

Unknown = Literal['raise', 'ignore']
History = Sequence[RawId] | np.ndarray
_HINT = "Pass unknown='ignore' to leave such items out"


class Histories(NamedTuple):
    """The item rows of each user, and their weights."""

    rows: list[Tensor]
    weights: list[Tensor] | None
    one: bool
    """Whether there was one history, not a sequence of them."""

    def seen(self, num_items: int) -> SeenItems:
        """The same as what each user has seen."""
        user = torch.repeat_interleave(torch.tensor([row.numel() for row in self.rows]))
        item = torch.cat([torch.empty(0, dtype=torch.long), *self.rows])
        edges = torch.stack([user, item])
        return SeenItems.from_edge_index(edges, len(self.rows), num_items)


def read_histories(
    items: RawIds,
    histories: object,
    weights: object = None,
    unknown: Unknown = 'raise',
) -> Histories:
    """Reads one history or several.

    Args:
        items: The catalogue.
        histories: One id, ids, or sequences of ids.
        weights: As many positive numbers. (default: none)
        unknown: What to do with ids that are not in the catalogue.

    Raises:
        ValueError: If a history is empty, an id is unknown, or weights do not fit.
    """
    check_choice('unknown', unknown, ('raise', 'ignore'))
    listed, one = _listed(histories)
    given = _weights_of(weights, listed, one=one)
    rows, kept = [], []
    for number, history in enumerate(listed):
        name = 'histories' if one else f'histories[{number}]'
        places = list(range(len(history)))
        if unknown == 'ignore':
            places = [place for place in places if items.knows(history[place])]
        if not places:
            what = 'known item' if len(history) else 'item'
            raise ValueError(
                f"'{name}' must contain at least one {what} (got {len(history)} "
                f'items). For a user without any, recommend what is popular'
            )
        ids = [history[place] for place in places]
        rows.append(torch.tensor(items.rows(name, ids, _HINT)))
        if given is not None:
            kept.append(torch.tensor([given[number][place] for place in places]))
    return Histories(rows, None if given is None else kept, one)


def _listed(histories: object) -> tuple[list[list[Any]], bool]:
    if is_id(histories):
        return [[histories]], True
    if not isinstance(histories, Iterable):
        raise TypeError(
            "'histories' must be a sequence of item ids, or of such sequences "
            f"(got '{type(histories).__name__}')"
        )
    outer = [x.tolist() if isinstance(x, Tensor) else x for x in histories]
    flat = [not isinstance(x, Iterable) or is_id(x) for x in outer]
    if all(flat):  # Also where nothing is listed at all.
        return [outer], True
    if any(flat):
        raise ValueError(
            "'histories' must contain ids or sequences of ids, not both "
            f'(got {outer[flat.index(True)]!r} beside a sequence)'
        )
    return [list(history) for history in outer], False


def _weights_of(
    weights: object, listed: list[list[Any]], *, one: bool
) -> list[list[float]] | None:
    if weights is None:
        return None
    outer: Any = [weights] if one else weights
    given = [
        np.asarray(list(row) if isinstance(row, Iterable) else [row], dtype=np.float64)
        for row in outer
    ]
    sizes, expected = [len(row) for row in given], [len(row) for row in listed]
    if sizes != expected:
        raise ValueError(
            f"'weights' must contain one number for each item of 'histories' (got "
            f'{sizes[:5]} for {expected[:5]})'
        )
    found = [row.tolist() for row in given]
    for weight in (weight for row in found for weight in row):
        if not 0 < weight < math.inf:
            raise ValueError(
                f"'weights' must contain positive finite numbers (got {weight})"
            )
    return found
