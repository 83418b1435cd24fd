"""A score in parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative
from promptmm_pyg.explain.text import columns, decimals

Label = Callable[[NodeType, int], str]


def _position(node_type: NodeType, node: int) -> str:
    return f'{node_type} {node}'


class Side(NamedTuple):
    """A score by what the embedding of one end, the user or the item, is made of."""

    node_type: NodeType
    """``'user'`` or ``'item'``."""
    node: int
    """Its position."""
    own: Tensor
    """``[S]``, by source: what the node has without any edge."""
    n_id_dict: dict[EdgeType, Tensor]
    """``[n]`` per edge type that points to the node: its neighbors, sorted."""
    value_dict: dict[EdgeType, Tensor]
    """``[n, S]`` per edge type: what each neighbor adds, by source."""

    @property
    def total(self) -> float:
        """The sum of all, which is the score."""
        parts = [self.own.sum(), *(x.sum() for x in self.value_dict.values())]
        return float(torch.stack(parts).sum())

    @property
    def num_neighbors(self) -> int:
        """The number of neighbors, over all edge types."""
        return sum(n_id.numel() for n_id in self.n_id_dict.values())

    def top(self, k: int) -> list[tuple[NodeType, int, Tensor]]:
        """The ``k`` neighbors that move the score most, up or down, as node type,
        position and values ``[S]``; of equal ones the first.

        Raises:
            ValueError: If ``k`` is negative.
        """
        check_non_negative('k', k)
        if not self.n_id_dict:
            return []
        types = [key[0] for key, x in self.n_id_dict.items() for _ in range(x.numel())]
        n_id = torch.cat(list(self.n_id_dict.values()))
        values = torch.cat(list(self.value_dict.values()))
        order = values.sum(dim=1).abs().argsort(descending=True, stable=True)
        return [(types[p], int(n_id[p]), values[p]) for p in order[:k].tolist()]


@dataclass(frozen=True)
class Explanation:
    """Where one score comes from; every way to add it up gives the score.

    Numbers are in double precision, whatever the model's.
    """

    user: int
    """Position of the user."""
    item: int
    """Position of the item."""
    score: float
    """The inner product of the model's embeddings."""
    sources: tuple[str, ...]
    """``'id'``, the modalities, ``'prompt'``."""
    pairs: Tensor
    """``[S, S]``: source of the user's part by source of the item's."""
    user_side: Side
    """The score by what the user took."""
    item_side: Side
    """The score by who took the item."""
    tolerance: float
    """How far, relative to the size of the parts, sums may be from the score."""

    @property
    def by_source(self) -> dict[str, float]:
        """The score by source: of what two sources give together each gets half, its
        Shapley value where sources are players that are there or not.
        """
        shares = (self.pairs.sum(dim=0) + self.pairs.sum(dim=1)) / 2
        return dict(zip(self.sources, shares.tolist(), strict=True))

    @property
    def error(self) -> float:
        """The largest difference between the score and a sum of its parts, relative
        to the size of these parts where that is above one.
        """
        sides = (self.user_side, self.item_side)
        every = [
            self.pairs.flatten(),
            *(
                torch.cat([x.own, *(v.flatten() for v in x.value_dict.values())])
                for x in sides
            ),
        ]
        errors = [
            abs(float(x.sum()) - self.score) / max(1.0, float(x.abs().sum()))
            for x in every
        ]
        # A comparison would drop what is not a number.
        return float(torch.tensor(errors, dtype=torch.double).max())

    def check(self) -> None:
        """Raises unless all parts add up to the score.

        Raises:
            FloatingPointError: If they do not.
        """
        if not self.error <= self.tolerance:
            raise FloatingPointError(
                f"'score' must be the sum of its parts within {self.tolerance:.1e} "
                f'(got a difference of {self.error:.1e} for {self.score}). Check that '
                f'the parameters and the features of the model are finite'
            )

    def summary(self, k: int = 5, label: Label = _position) -> str:
        """Returns three tables: the score by source, by what the user took and by who
        took the item. The further columns of these two are the sources of that one
        end's embedding, not half of both.

        Args:
            k: How many neighbors of each end. (default: ``5``)
            label: What to call a node, by its type and position. (default: these)

        Raises:
            ValueError: If ``k`` is negative.
        """
        size = [*self.by_source.values(), self.score]
        digits = decimals(max(abs(value) for value in size))
        rows: list[list[Any]] = [[*one] for one in self.by_source.items()]
        blocks = [columns(['part', 'score'], [*rows, ['sum', self.score]], digits)]
        for side, head in (
            (self.user_side, 'what the user took'),
            (self.item_side, 'who took the item'),
        ):
            if side.n_id_dict:
                blocks.append(self._side_table(side, head, k, label, digits))
        return '\n\n'.join(blocks)

    def _side_table(
        self, side: Side, head: str, k: int, label: Label, digits: int
    ) -> str:
        top = side.top(k)
        rows: list[list[Any]] = [
            [label(node_type, node), float(values.sum()), *values.tolist()]
            for node_type, node, values in top
        ]
        others = sum(
            (x.sum(dim=0) for x in side.value_dict.values()), torch.zeros_like(side.own)
        ) - sum((x for _, _, x in top), torch.zeros_like(side.own))
        left = side.num_neighbors - len(top)
        if left:
            name = f'{left} other{"s" if left > 1 else ""}'
            rows.append([name, float(others.sum()), *others.tolist()])
        itself = f'the {side.node_type} itself'
        rows.append([itself, float(side.own.sum()), *side.own.tolist()])
        total = sum((x.sum(dim=0) for x in side.value_dict.values()), side.own)
        rows.append(['sum', float(total.sum()), *total.tolist()])
        if len(self.sources) == 1:
            rows = [row[:2] for row in rows]
            return columns([head, 'score'], rows, digits)
        return columns([head, 'score', *self.sources], rows, digits)
