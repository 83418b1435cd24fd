"""The incoming edges of every node, side by side, to draw from."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg._utils import checked_edges


class Drawn(NamedTuple):
    """Edges ``[n]``, those of one node after those of another."""

    row: Tensor
    """Which of the nodes asked for the edge points to."""
    place: Tensor
    """The edge's place in :class:`IncomingEdges`."""
    scale: Tensor
    """How many edges it stands for: those there are by those drawn."""


class IncomingEdges:
    """The edges of one type, sorted by their target.

    Args:
        edge_type: For messages, and for its node types.
        edge_index: Source and target ``[2, E]``.
        edge_weight: Weights ``[E]``, or ``None``.
        num_nodes_dict: The number of nodes per node type.

    Raises:
        ValueError: If a node type is unknown, an id is out of range, or shapes do not
            fit.
    """

    def __init__(
        self,
        edge_type: EdgeType,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        num_nodes_dict: Mapping[NodeType, int],
    ) -> None:
        for node_type in (edge_type[0], edge_type[2]):
            if node_type not in num_nodes_dict:
                raise ValueError(
                    f"'num_nodes_dict' requires the node types of {edge_type} (got "
                    f'{sorted(num_nodes_dict)})'
                )
        self.edge_type = edge_type
        self.num_sources = num_nodes_dict[edge_type[0]]
        self.num_targets = num_nodes_dict[edge_type[2]]
        source, target = self._checked('edge_index_dict', edge_index)
        if edge_weight is not None and edge_weight.size() != source.size():
            raise ValueError(
                f"'edge_weight_dict' requires one weight per edge of {edge_type} (got "
                f'{list(edge_weight.size())} for {source.numel()} edges)'
            )
        self.e_id = target.argsort(stable=True)
        self.source = source[self.e_id]
        self.weight = None
        if edge_weight is not None:
            self.weight = edge_weight.detach()[self.e_id]
        self.degree = torch.bincount(target, minlength=self.num_targets)
        self.start = self.degree.cumsum(0) - self.degree

    def draw(self, nodes: Tensor, number: int, generator: torch.Generator) -> Drawn:
        """Draws ``number`` edges of each node, all where it has no more, without
        replacement; ``-1`` draws all.
        """
        start, degree = self.start[nodes], self.degree[nodes]
        count = degree if number < 0 else degree.clamp_max(number)
        first = count.cumsum(0) - count
        row = torch.repeat_interleave(count)
        within = torch.arange(row.numel(), device=row.device) - first[row]
        place = start[row] + within
        some = (degree > count).nonzero().view(-1)
        if number > 0 and some.numel() > 0:
            chosen = distinct_below(degree[some], number, generator)
            slot = first[some] + torch.arange(number, device=row.device)[:, None]
            place[slot] = start[some] + chosen
        return Drawn(row, place, degree[row] / count[row])

    def keys_of(self, name: str, pairs: Tensor) -> Tensor:
        """One number for each pair (source, target) ``[2, B]``."""
        source, target = self._checked(name, pairs)
        keys: Tensor = source * self.num_targets + target
        return keys

    def _checked(self, name: str, pairs: Tensor) -> Tensor:
        size = self.num_sources, self.num_targets
        return checked_edges(pairs, size, f'{name}[{self.edge_type}]')


def distinct_below(
    bound: Tensor, number: int, generator: torch.Generator | None = None
) -> Tensor:
    """Returns ``number`` different integers in ``[0, bound)`` for every bound, every
    set equally likely, by Floyd's algorithm.

    The step that admits one more value draws among all admitted so far and takes the
    new one in place of a value it already has. Costs grow with ``number`` squared, not
    with the bounds.

    Args:
        bound: Integers ``[R]``, none below ``number``.
        number: How many.
        generator: Source of randomness. (default: the global one)

    Returns:
        Integers ``[number, R]``.
    """
    size = (number, bound.numel())
    # Double: a float has too few values for the longest lists.
    uniform = torch.rand(
        size, dtype=torch.double, generator=generator, device=bound.device
    )
    out = torch.empty(size, dtype=torch.long, device=bound.device)
    for step in range(number):
        newest = bound - number + step
        value = (uniform[step] * (newest + 1)).long()
        taken = (out[:step] == value).any(dim=0)
        out[step] = torch.where(taken, newest, value)
    return out
