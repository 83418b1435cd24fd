"""The two directions of one relation, and the mean over layers along them."""

from collections.abc import Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor
from torch_geometric.typing import EdgeType, NodeType

from promptmm_pyg.nn.csr import Adjacency, CSRPair, csr_pair_dict


class Operator(Protocol):
    """A constant linear map that is applied from the left."""

    def __matmul__(self, x: Tensor, /) -> Tensor: ...


O_co = TypeVar('O_co', bound=Operator, covariant=True)


class Bipartite(NamedTuple, Generic[O_co]):
    """The operators between users and items."""

    to_item: O_co
    to_user: O_co

    def smooth(
        self, user: Tensor, item: Tensor, num_layers: int
    ) -> tuple[Tensor, Tensor]:
        """The mean over layers ``0`` to ``num_layers``, as in LightGCN."""
        user_sum, item_sum = user, item
        for _ in range(num_layers):
            user, item = self.to_user @ item, self.to_item @ user
            user_sum, item_sum = user_sum + user, item_sum + item
        return user_sum / (num_layers + 1), item_sum / (num_layers + 1)


def reverse_type(
    edge_types: Iterable[EdgeType], edge_type: EdgeType
) -> EdgeType | None:
    """The edge type that mirrors ``edge_type``: the one with PyG's prefix ``rev_``, or
    else the only one that leads back.
    """
    src, rel, dst = edge_type
    back = [key for key in edge_types if (key[0], key[2]) == (dst, src)]
    if (dst, f'rev_{rel}', src) in back:
        return dst, f'rev_{rel}', src
    return back[0] if len(back) == 1 else None


def bipartite(
    edge_index_dict: dict[EdgeType, Adjacency],
    edge_weight_dict: dict[EdgeType, Tensor] | None,
    *,
    edge_type: EdgeType,
    num_nodes_dict: dict[NodeType, int],
) -> Bipartite[CSRPair]:
    """Converts both directions of ``edge_type``; a reverse that is not found
    (:func:`reverse_type`) is the transpose. Other edge types are left alone.

    Raises:
        ValueError: If there are no edges of ``edge_type``.
    """
    if edge_type not in edge_index_dict:
        raise ValueError(
            f"'edge_index_dict' requires the edge type {edge_type} (got "
            f'{list(edge_index_dict)})'
        )
    mirrored = reverse_type(edge_index_dict, edge_type)
    names = [edge_type, *([] if mirrored is None else [mirrored])]
    adj_dict = csr_pair_dict(
        {name: edge_index_dict[name] for name in names},
        edge_weight_dict,
        num_nodes_dict=num_nodes_dict,
    )
    to_item = adj_dict[edge_type]
    to_user = to_item.t() if mirrored is None else adj_dict[mirrored]
    return Bipartite(to_item, to_user)
