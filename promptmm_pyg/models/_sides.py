"""The two node types that a model ranks between."""

from collections.abc import Iterable, Mapping

from torch_geometric.typing import EdgeType, NodeType


def sides(
    num_nodes_dict: Mapping[NodeType, int], edge_type: EdgeType
) -> tuple[NodeType, NodeType]:
    """The first and the last entry of ``edge_type``: who is ranked for, and what.

    Args:
        num_nodes_dict: The number of nodes per node type.
        edge_type: ``(user, relation, item)`` by whatever names.

    Raises:
        ValueError: If it is no triple, or an end is not a node type or both are one.

    Example:
        >>> sides({'reader': 2, 'book': 3}, ('reader', 'borrows', 'book'))
        ('reader', 'book')
    """
    if len(edge_type) != 3 or isinstance(edge_type, str):
        raise ValueError(
            f"'edge_type' must be a triple (user, relation, item) (got {edge_type!r})"
        )
    user, _, item = edge_type
    if user == item or not {user, item} <= set(num_nodes_dict):
        raise ValueError(
            f"'edge_type' requires two different ends among the node types "
            f'{sorted(num_nodes_dict)} (got {edge_type})'
        )
    return user, item


def check_both_ways(edge_types: Iterable[EdgeType], user: str, item: str) -> None:
    """Raises unless edges lead from users to items and from items to users."""
    edge_types = list(edge_types)
    ends = {(src, dst) for src, _, dst in edge_types}
    if not {(user, item), (item, user)} <= ends:
        raise ValueError(
            f"'edge_index_dict' requires edges from {user!r} to {item!r} and back (got "
            f"{edge_types}). Add reverse edges with 'T.ToUndirected()'"
        )
