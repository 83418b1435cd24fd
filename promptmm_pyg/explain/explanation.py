"""The parts of a score, and their summary as text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import check_non_negative

Label = Callable[[NodeType, int], str]
_COVERED = 0.9
_MAX_ROWS = 20


def _row(node_type: NodeType, node: int) -> str:
    return f'{node_type} {node}'


class Side(NamedTuple):
    """A score by the parts of one end's embedding, the user's or the item's."""

    node_type: NodeType
    """``'user'`` or ``'item'``."""
    node: int
    """Its row."""
    own: Tensor
    """``[S]``, by source: the part that does not depend on edges."""
    n_id_dict: dict[EdgeType, Tensor]
    """``[n]`` per edge type that points to the node: its neighbors, sorted."""
    value_dict: dict[EdgeType, Tensor]
    """``[n, S]`` per edge type: the contribution of each neighbor, by source."""

    @property
    def by_source(self) -> Tensor:
        """``[S]``: the sum over the node and its neighbors."""
        return sum((x.sum(dim=0) for x in self.value_dict.values()), self.own)

    @property
    def total(self) -> float:
        """The sum of all parts, which is the score."""
        return float(self.by_source.sum())

    @property
    def num_neighbors(self) -> int:
        """The number of neighbors, over all edge types."""
        return sum(n_id.numel() for n_id in self.n_id_dict.values())

    def top(self, k: int) -> list[tuple[NodeType, int, Tensor]]:
        """The ``k`` neighbors with the largest absolute contribution, as node type,
        row and values ``[S]``; of equal ones the first.

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

    def num_covering(self) -> int:
        """The number of top neighbors which, with the node itself, are at least 90% of
        the score, at most 20.
        """
        rest = self.total - float(self.own.sum())
        limit = (1 - _COVERED) * abs(self.total)
        top = self.top(min(_MAX_ROWS, self.num_neighbors))
        for k, (_, _, values) in enumerate(top):
            if abs(rest) <= limit:
                return k
            rest -= float(values.sum())
        return len(top)

    def covered(self, k: int | None = None) -> float:
        """The share of the score that the node itself and its ``k`` top neighbors have;
        above one where the others are negative.

        Args:
            k: The number of neighbors. (default: :meth:`num_covering`)
        """
        top = self.top(self.num_covering() if k is None else k)
        named = float(self.own.sum()) + sum(float(values.sum()) for *_, values in top)
        return named / self.total if self.total else math.nan

    def rows(
        self, k: int | None = None, label: Label = _row
    ) -> list[tuple[str, Tensor]]:
        """Name and values ``[S]`` of the ``k`` top neighbors, of the other neighbors
        together, and of the node itself; their sum is the score.

        Args:
            k: The number of neighbors. (default: :meth:`num_covering`)
            label: The name of a node, from its type and row. (default: type and row)
        """
        top = self.top(self.num_covering() if k is None else k)
        rows = [(label(node_type, node), values) for node_type, node, values in top]
        num_others = self.num_neighbors - len(top)
        if num_others:
            rest = self.by_source - self.own - sum(values for _, values in rows)
            mean = float(rest.sum()) / num_others
            name = f'{num_others} others, {mean:+.2g} each on average'
            rows.append(('1 other' if num_others == 1 else name, rest))
        return [*rows, (f'the {self.node_type} itself', self.own)]


@dataclass(frozen=True)
class Explanation:
    """The parts of one score: by pairs of sources, by the user's neighbors, and by the
    item's. Each decomposition adds up to the score.

    Numbers are in double precision, whatever the model's precision.
    """

    user: int
    """Row of the user."""
    item: int
    """Row of the item."""
    score: float
    """The inner product of the model's embeddings."""
    sources: tuple[str, ...]
    """``'id'``, the modalities, ``'prompt'``."""
    pairs: Tensor
    """``[S, S]``: source of the user's part by source of the item's."""
    user_side: Side
    """The score by the user's items."""
    item_side: Side
    """The score by the item's users."""
    tolerance: float
    """The largest admissible difference between sums and score, relative to the size
    of the parts.
    """

    @property
    def by_source(self) -> dict[str, float]:
        """The score by source; interaction terms are split equally (Shapley)."""
        values = (self.pairs.sum(dim=0) + self.pairs.sum(dim=1)) / 2
        return dict(zip(self.sources, values.tolist(), strict=True))

    @property
    def error(self) -> float:
        """The largest difference between the score and a sum of its parts, relative
        to the size of these parts where that is above one.
        """
        parts = [self.pairs.flatten()]
        for side in (self.user_side, self.item_side):
            values = [x.flatten() for x in side.value_dict.values()]
            parts.append(torch.cat([side.own, *values]))
        errors = [
            abs(float(x.sum()) - self.score) / max(1.0, float(x.abs().sum()))
            for x in parts
        ]
        # Unlike the built-in `max`, this propagates NaN.
        return float(torch.tensor(errors, dtype=torch.double).max())

    def check(self) -> None:
        """Raises a ``FloatingPointError`` unless all parts add up to the score."""
        if not self.error <= self.tolerance:
            raise FloatingPointError(
                f"'score' must be the sum of its parts within {self.tolerance:.1e} "
                f'(got a difference of {self.error:.1e} for {self.score}). Check that '
                f'the parameters and the features of the model are finite'
            )

    def summary(self, k: int | None = None, label: Label = _row) -> str:
        """Three tables: the score by source, by the user's items and by the item's
        users. The last columns of these two are the sources of that end's embedding,
        without the split of interaction terms.

        Args:
            k: The number of neighbors per end. (default: as many as are 90% of the
                score with the node itself, at most 20)
            label: The name of a node, from its type and row. (default: type and row)

        Raises:
            ValueError: If ``k`` is negative.
        """
        sources = list(self.by_source.items())
        digits = _decimals(max(abs(x) for x in (*dict(sources).values(), self.score)))
        rows = [*sources, ('sum', self.score)]
        blocks = [_table(['part', 'score'], rows, digits)]
        for side, head in (
            (self.user_side, "the user's items"),
            (self.item_side, "the item's users"),
        ):
            if side.n_id_dict:
                blocks.append(self._side_table(side, head, k, label, digits))
        return '\n\n'.join(blocks)

    def _side_table(
        self, side: Side, head: str, k: int | None, label: Label, digits: int
    ) -> str:
        lines = [*side.rows(k, label), ('sum', side.by_source)]
        single = len(self.sources) == 1
        rows = [
            (name, float(values.sum()), *([] if single else values.tolist()))
            for name, values in lines
        ]
        table = _table([head, 'score', *([] if single else self.sources)], rows, digits)
        return f'{table}\nby name: {side.covered(k):.0%} of the score'


def _decimals(size: float) -> int:
    """The decimals that show three significant digits of ``size``; at least four."""
    if not math.isfinite(size) or size <= 0:
        return 4
    return min(12, max(4, 2 - math.floor(math.log10(size))))


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], places: int) -> str:
    """Left-aligned names and right-aligned signed numbers."""
    cells = [list(head)]
    for name, *numbers in rows:
        # Adding zero turns a rounded '-0.00' into '+0.00'.
        rounded = [round(number, places) + 0.0 for number in numbers]
        cells.append([str(name), *(f'{number:+.{places}f}' for number in rounded)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return '\n'.join(
        '  '.join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in cells
    )
