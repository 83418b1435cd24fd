"""PyG's MovieLens data sets in this library's schema."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.build import Ids, build_graph
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.data.split import Split, split_per_user

_RATES = ('user', 'rates', 'movie')


def from_movielens(
    data: HeteroData,
    *,
    min_rating: float | None = None,
    item_modality: str = 'content',
    user_modality: str | None = None,
    item_ids: Ids | None = None,
    user_ids: Ids | None = None,
) -> HeteroData:
    """Returns the graph, not split, of what PyG's ``MovieLens`` or ``MovieLens1M``
    holds: ``data = from_movielens(MovieLens1M(root)[0])``.

    Movies become items, with their features under one name: genres, and for
    ``MovieLens`` the title's embedding before them. PyG numbers movies and users
    and drops their ids, so raw ids are the numbers as text, unless given.

    Args:
        data: The graph of PyG.
        min_rating: The least rating that counts as an interaction; others are left
            out. (default: all count)
        item_modality: The name of the movies' features. (default: ``'content'``)
        user_modality: The name of the users' features (age, gender, occupation),
            where there are any. (default: they are left out)
        item_ids: The movies' own ids. (default: their numbers)
        user_ids: The users' own ids. (default: their numbers)

    Raises:
        ValueError: If the graph is no MovieLens, came with test ratings, lacks
            what an option requires, or no rating is high enough.
    """
    if 'edge_label_index' in _ratings_store(data):
        raise ValueError(
            "'data' must come without test ratings (it has an "
            "'edge_label_index'). Keep them with 'split_movielens'"
        )
    return _build(
        data,
        _high_enough(data, min_rating),
        item_modality,
        user_modality,
        item_ids,
        user_ids,
    )


def split_movielens(
    data: HeteroData,
    *,
    val_ratio: float = 0.1,
    seed: int = 0,
    min_rating: float | None = None,
    **options: Any,
) -> Split:
    """Returns the split that PyG's ``MovieLens100K`` came with: its test ratings
    are the test, and validation is drawn from each user's others.

    Test ratings have no times in PyG.

    Args:
        data: The graph of PyG.
        val_ratio: Share of a user's training ratings for validation; 0 for none.
            (default: ``0.1``)
        seed: Which draw. (default: ``0``)
        min_rating: As in :func:`from_movielens`; for test ratings too.
        **options: Names of modalities and ids, as in :func:`from_movielens`.

    Raises:
        ValueError: As in :func:`from_movielens`, or if the graph has no test
            ratings, or one of them is in training too.
    """
    store = _ratings_store(data)
    if 'edge_label_index' not in store:
        raise ValueError(
            "'data' must come with test ratings (it has no 'edge_label_index'). "
            "Split 'from_movielens(data)' yourself"
        )
    graph = _build(data, _high_enough(data, min_rating), **options)
    test = store.edge_label_index
    if min_rating is not None:
        test = test[:, store.edge_label >= min_rating]
    both = torch.cat([store.edge_index, test], dim=1)
    twice = both.size(1) - both.unique(dim=1).size(1)
    if twice:
        raise ValueError(
            f"'data' must contain each rating once (got {twice} again in the test)"
        )
    split = split_per_user(graph, val_ratio, 0.0, seed)
    split.test[INTERACTS].edge_label_index = test.contiguous()
    split.test[INTERACTS].pop('edge_label_time', None)
    return split


def _ratings_store(data: HeteroData) -> Any:
    if _RATES not in data.edge_types or 'movie' not in data.node_types:
        raise ValueError(
            f"'data' must be a MovieLens graph of PyG with the edges {_RATES} "
            f'(got {data.edge_types})'
        )
    return data[_RATES]


def _high_enough(data: HeteroData, min_rating: float | None) -> Tensor:
    store = data[_RATES]
    if min_rating is None:
        return torch.ones(store.edge_index.size(1), dtype=torch.bool)
    # The small data sets call it rating, the full ones label.
    name = 'rating' if 'rating' in store else 'edge_label'
    if name not in store:
        raise ValueError("'min_rating' requires ratings on the edges (got none)")
    rated: Tensor = store[name] >= min_rating
    if not bool(rated.any()):
        raise ValueError(
            f"'min_rating' must keep a rating (got {min_rating}, the highest is "
            f'{store[name].max()})'
        )
    return rated


def _build(
    data: HeteroData,
    rated: Tensor,
    item_modality: str = 'content',
    user_modality: str | None = None,
    item_ids: Ids | None = None,
    user_ids: Ids | None = None,
) -> HeteroData:
    store = data[_RATES]
    user_features = None
    if user_modality is not None:
        if 'x' not in data['user']:
            raise ValueError("'user_modality' requires features of users (got none)")
        user_features = {user_modality: data['user'].x}
    counts = [int(data[key].num_nodes) for key in ('user', 'movie')]
    ids: list[Sequence[str]] = [[str(i) for i in range(count)] for count in counts]
    return build_graph(
        store.edge_index[:, rated],
        item_features={item_modality: data['movie'].x},
        user_features=user_features,
        user_ids=ids[0] if user_ids is None else user_ids,
        item_ids=ids[1] if item_ids is None else item_ids,
        num_users=counts[0],
        num_items=counts[1],
        edge_time=store.time[rated] if 'time' in store else None,
    )
