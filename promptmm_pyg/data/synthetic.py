"""Synthetic data whose structure is known."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_positive, check_probability
from promptmm_pyg.data.build import build_graph, first_mentions
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.data.split import Split, split_by_part


class Modality(NamedTuple):
    """A synthetic modality: its width, the standard deviation of noise beside a signal
    of standard deviation 1, and the share of items without it.
    """

    width: int
    noise: float
    missing: float


MODALITIES = {
    'text': Modality(width=48, noise=0.5, missing=0.05),
    'image': Modality(width=64, noise=1.5, missing=0.10),
    'audio': Modality(width=32, noise=6.0, missing=0.15),
}


def make_synthetic_dataset(
    num_users: int = 600,
    num_items: int = 400,
    num_clusters: int = 20,
    *,
    mean_degree: float = 6.0,
    affinity: float = 0.65,
    popularity_exponent: float = 0.5,
    seed: int = 0,
) -> HeteroData:
    """Returns a graph, not split, in which items' features are related to who interacts
    with them.

    Each item and each user has one of ``num_clusters`` tastes. A user draws items of
    the same taste with probability ``affinity`` and any item otherwise; in both cases
    popular items more often (Zipf's law). Numbers of interactions differ between users.
    The modalities ``text`` (clear), ``image`` (noisy) and ``audio`` (almost noise)
    depend on the item's taste; some rows of each are missing: zero, and false in the
    mask. Interactions have ``time`` (a random order) and ``order`` (that of the draws),
    nodes have a ``raw_id`` (``'u0'``, ``'i0'``) and their ``taste``.

    Args:
        num_users: The number of users. (default: 600)
        num_items: The number of items. (default: 400)
        num_clusters: The number of tastes. (default: 20)
        mean_degree: Mean number of interactions per user; slightly less where draws
            coincide, and at least three where there are enough items. (default: 6.0)
        affinity: Share of the draws that follow taste. (default: 0.65)
        popularity_exponent: Exponent of Zipf's law; 0 makes all items equally popular.
            (default: 0.5)
        seed: Seed of the draws. (default: 0)

    Raises:
        ValueError: If a number is not positive, a share is outside [0, 1), or
            there are more tastes than items.

    Example:
        >>> graph = make_synthetic_dataset(num_users=50, num_items=40, num_clusters=4)
        >>> graph['item'].x_text.shape
        torch.Size([40, 48])
    """
    check_positive('num_users', num_users)
    check_positive('num_clusters', num_clusters)
    check_positive('mean_degree', mean_degree)
    check_probability('affinity', affinity)
    if num_items < num_clusters:
        raise ValueError(
            f"'num_items' must be at least 'num_clusters' (got {num_items} and "
            f'{num_clusters})'
        )
    generator = torch.Generator().manual_seed(seed)
    user_taste = torch.randint(num_clusters, (num_users,), generator=generator)
    item_taste = torch.arange(num_items) % num_clusters
    item_taste = item_taste[torch.randperm(num_items, generator=generator)]
    weight = _zipf_weights(num_items, popularity_exponent, generator)
    degree = _degrees(num_users, mean_degree, num_items, generator)
    edge_index = _draw_items(
        user_taste, item_taste, weight, degree, affinity, generator
    )

    features, masks = {}, {}
    for name, modality in MODALITIES.items():
        features[name], masks[name] = _make_features(item_taste, modality, generator)
    data = build_graph(
        edge_index,
        num_users=num_users,
        num_items=num_items,
        item_features=features,
        item_masks=masks,
        user_ids=[f'u{user}' for user in range(num_users)],
        item_ids=[f'i{item}' for item in range(num_items)],
        edge_time=torch.randperm(edge_index.size(1), generator=generator),
    )
    # Users draw their items one after the other; random splits use this order.
    data[INTERACTS].order = torch.arange(data[INTERACTS].edge_index.size(1))
    data['user'].taste = user_taste
    data['item'].taste = item_taste
    return data


def _zipf_weights(
    num_items: int, exponent: float, generator: torch.Generator
) -> Tensor:
    rank = torch.randperm(num_items, generator=generator) + 1
    return rank.double() ** -exponent


def _degrees(
    num_users: int, mean: float, num_items: int, generator: torch.Generator
) -> Tensor:
    spread = torch.randn(num_users, generator=generator, dtype=torch.double)
    degree = (0.6 * spread).exp()
    degree = (mean * degree / degree.mean()).round().long()
    return degree.clamp(min=3).clamp(max=num_items)


def _draw_items(
    user_taste: Tensor,
    item_taste: Tensor,
    weight: Tensor,
    degree: Tensor,
    affinity: float,
    generator: torch.Generator,
) -> Tensor:
    # Four draws per interaction: popular items are drawn repeatedly.
    draws = 4 * degree + 8
    user = torch.arange(degree.numel()).repeat_interleave(draws)
    # Items sorted by taste: each taste is one interval of the cumulative weights.
    order = item_taste.argsort(stable=True)
    total = weight[order].cumsum(0)
    interval = torch.zeros(int(item_taste.max()) + 1, dtype=torch.double)
    interval = interval.index_add(0, item_taste, weight)
    end = interval.cumsum(0)
    follows = torch.rand(user.numel(), generator=generator) < affinity
    point = torch.rand(user.numel(), generator=generator, dtype=torch.double)
    taste = user_taste[user]
    within = end[taste] - interval[taste] + point * interval[taste]
    point = torch.where(follows, within, point * total[-1])
    place = torch.searchsorted(total, point, right=True).clamp(max=total.numel() - 1)
    edges = torch.stack([user, order[place]])
    edges = edges[:, first_mentions(edges, weight.numel())]
    # Of each user's distinct items, the first ones drawn.
    count = torch.bincount(edges[0], minlength=degree.numel())
    rank = torch.arange(edges.size(1)) - (count.cumsum(0) - count)[edges[0]]
    return edges[:, rank < degree[edges[0]]]


def _make_features(
    taste: Tensor, modality: Modality, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    num_clusters = int(taste.max()) + 1
    center = torch.randn(num_clusters, modality.width, generator=generator)
    noise = torch.randn(taste.numel(), modality.width, generator=generator)
    mask = torch.rand(taste.numel(), generator=generator) >= modality.missing
    x = (center[taste] + modality.noise * noise).masked_fill(~mask.unsqueeze(-1), 0.0)
    return x, mask


def checkerboard(num_users: int = 16, num_items: int = 12) -> Split:
    """Returns a split in which user ``u`` interacts with item ``i`` if both are even or
    both are odd.

    Item ``u mod num_items`` (the diagonal) is for test, the next of the user's items
    for validation, all others for training: the two are the only right answers for the
    user. The modality ``text`` indicates whether the item is even, and so does
    ``image`` with the opposite sign.

    Args:
        num_users: The number of users. (default: 16)
        num_items: The number of items, even, at least 6. (default: 12)

    Raises:
        ValueError: If ``num_users`` is less than 2 or ``num_items`` does not
            fit.
    """
    if num_users < 2:
        raise ValueError(f"'num_users' must be at least 2 (got {num_users})")
    if num_items < 6 or num_items % 2 != 0:
        raise ValueError(f"'num_items' must be even and at least 6 (got {num_items})")
    users = torch.arange(num_users).unsqueeze(1)
    items = torch.arange(num_items).unsqueeze(0)
    edge_index = ((users + items) % 2 == 0).nonzero().t().contiguous()
    steps = (edge_index[1] - edge_index[0]) % num_items
    part = torch.zeros_like(steps)
    part[steps == 0] = 2
    part[steps == 2] = 1
    even = (items.squeeze(0) % 2 == 0).float()
    place = items.squeeze(0) / num_items  # So all rows differ.
    data = build_graph(
        edge_index,
        num_users=num_users,
        num_items=num_items,
        item_features={
            'text': torch.stack([even, 1 - even, 0.1 * place], dim=1),
            'image': torch.stack([1 - 2 * even, 0.1 * place.cos()], dim=1),
        },
        user_ids=[f'u{user}' for user in range(num_users)],
        item_ids=[f'i{item}' for item in range(num_items)],
    )
    return split_by_part(data, part)
