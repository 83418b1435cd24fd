"""Batches of triplets with their sampled neighborhoods."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    REV_INTERACTS,
    USER,
)
from promptmm_pyg.loader.neighbors import HeteroNeighborSampler, NumNeighbors
from promptmm_pyg.loader.triplets import TripletLoader, Triplets


class TripletNeighborLoader:
    """Yields batches of triplets (:class:`~promptmm_pyg.loader.TripletLoader`) with
    their neighborhoods (:class:`~promptmm_pyg.loader.HeteroNeighborSampler`).

    Only message edges are sampled, never ``edge_label_index``. A batch is a graph with
    the attributes of PyG's ``LinkNeighborLoader``, but without features: ``n_id``,
    ``edge_index``, ``edge_weight``, ``e_id``, and the triplets in positions of ``n_id``
    as ``src_index`` (users), ``dst_pos_index`` and ``dst_neg_index`` (items), see
    :func:`triplets_of`.

    By default the interactions of a batch are among its messages, as in training on the
    whole graph, so the objective is the same. ``drop_targets`` removes them, as new
    interactions have no edges; a user with all interactions in one batch then gets no
    message.

    Args:
        data: Graph whose message edges are the training interactions; their
            ``edge_weight`` is that of the whole graph
            (:class:`~promptmm_pyg.transforms.AddBipartiteNorm`).
        num_neighbors: Edges per node in each hop, ``-1`` for all; one list, or one per
            edge type.
        batch_size: Interactions per batch; the last one may be smaller.
            (default: ``2048``)
        drop_targets: Whether the edges between the users and the positive items of the
            batch are removed. (default: ``False``)
        rescale: Whether weights are scaled up for the edges that were not sampled.
            (default: ``True``)
        user_uniform: Whether users are drawn uniformly. (default: ``False``)
        negative_items: Ids of the items that negatives are drawn from, ``[N]``.
            (default: every item)
        seed: Seed of order, negatives and neighbors. (default: ``0``)

    Raises:
        ValueError: If the graph has no reverse edges or no interaction, or
            ``num_neighbors`` does not fit.

    Example:
        >>> from promptmm_pyg.data import make_synthetic_dataset, split_per_user
        >>> train = split_per_user(make_synthetic_dataset(60, 40, seed=0)).train
        >>> batch = next(iter(TripletNeighborLoader(train, [5, 5], batch_size=8)))
        >>> triplets_of(batch).user.shape
        torch.Size([8])
    """

    def __init__(
        self,
        data: HeteroData,
        num_neighbors: NumNeighbors,
        *,
        batch_size: int = 2048,
        drop_targets: bool = False,
        rescale: bool = True,
        user_uniform: bool = False,
        negative_items: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        edge_types = (INTERACTS, REV_INTERACTS)
        missing = [
            key
            for key in edge_types
            if key not in data.edge_types or 'edge_index' not in data[key]
        ]
        if missing:
            raise ValueError(
                f"'data' must have message edges of {missing} (got "
                f"{data.edge_types}). Add reverse edges with 'T.ToUndirected()'"
            )
        weighted = [key for key in edge_types if 'edge_weight' in data[key]]
        if len(weighted) == 1:
            raise ValueError(
                f"'data' must have 'edge_weight' in both directions or in none (got "
                f"it in {weighted}). Add it with 'AddBipartiteNorm'"
            )
        sizes = {key: int(data[key].num_nodes) for key in NODE_TYPES}
        self.drop_targets = drop_targets
        self.triplets = TripletLoader(
            data[INTERACTS].edge_index,
            sizes[USER],
            sizes[ITEM],
            batch_size=batch_size,
            seed=seed,
            user_uniform=user_uniform,
            negative_items=negative_items,
        )
        self.neighbors = HeteroNeighborSampler(
            {key: data[key].edge_index for key in edge_types},
            sizes,
            num_neighbors,
            edge_weight_dict={key: data[key].edge_weight for key in weighted},
            rescale=rescale,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self.triplets)

    def __iter__(self) -> Iterator[HeteroData]:
        for triplets in self.triplets:
            yield self.around(triplets)

    def around(self, triplets: Triplets) -> HeteroData:
        """Samples the neighborhood of triplets.

        Args:
            triplets: User, positive and negative items ``[B]``, ids of the whole graph.

        Raises:
            ValueError: If an id is out of range.
        """
        users, user = triplets.user.unique(return_inverse=True)
        items, item = torch.cat([triplets.positive, triplets.negative]).unique(
            return_inverse=True
        )
        excluded = {}
        if self.drop_targets:
            pairs = torch.stack([triplets.user, triplets.positive])
            excluded = {INTERACTS: pairs, REV_INTERACTS: pairs.flip([0])}
        batch = self.neighbors.sample({USER: users, ITEM: items}, excluded)
        # The seeds are the first nodes, ascending, as `unique` returns them.
        batch[USER].src_index = user
        batch[ITEM].dst_pos_index, batch[ITEM].dst_neg_index = item.chunk(2)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state of the next epochs, to be saved between two epochs."""
        return {
            'triplets': self.triplets.state_dict(),
            'neighbors': self.neighbors.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues with the epoch after that of :meth:`state_dict`."""
        self.triplets.load_state_dict(state['triplets'])
        self.neighbors.load_state_dict(state['neighbors'])

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.triplets}, {self.neighbors}, '
            f'drop_targets={self.drop_targets})'
        )


def triplets_of(batch: HeteroData) -> Triplets:
    """The triplets of a batch of this loader, or of PyG's ``LinkNeighborLoader`` with
    triplets, in positions of its ``n_id``.

    Args:
        batch: A graph with ``src_index``, ``dst_pos_index`` and ``dst_neg_index``.

    Raises:
        ValueError: If there are no triplets.
    """
    stores = batch[USER], batch[ITEM], batch[ITEM]
    names = ('src_index', 'dst_pos_index', 'dst_neg_index')
    missing = [n for store, n in zip(stores, names, strict=True) if n not in store]
    if missing:
        raise ValueError(
            f"'batch' must have triplets (got no {missing}). Use a "
            f"'TripletNeighborLoader', or 'LinkNeighborLoader' with triplets"
        )
    return Triplets(*(store[name] for store, name in zip(stores, names, strict=True)))
