"""Made-up data whose right answers are known."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_positive, check_probability
from promptmm_pyg.data.build import build_graph, first_mentions
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.data.split import Split, split_by_part


class Modality(NamedTuple):
    """A synthetic modality: its width, the strength of noise beside a signal of
    strength 1, and the share of items that lack it.
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
    """Returns a graph, not split, in which items' features tell who likes them.

    Each item and each user has one of ``num_clusters`` tastes. A user picks
    items of the own taste with probability ``affinity`` and any item
    otherwise; in both cases popular items more often (Zipf's law). Users
    differ in how much they pick. The modalities ``text`` (clear), ``image``
    (noisy) and ``audio`` (almost noise) show the item's taste; some rows of
    each are missing: zero, and false in the mask. Interactions carry ``time``
    (a random order) and nodes a ``raw_id`` (``'u0'``, ``'i0'``); the tastes
    are kept as ``taste`` on both node types.

    Args:
        num_users: The number of users. (default: 600)
        num_items: The number of items. (default: 400)
        num_clusters: The number of tastes. (default: 20)
        mean_degree: Interactions per user, on average; a little less where picks
            coincide, at least three where there are items enough.
            (default: 6.0)
        affinity: Share of the picks that follow taste. (default: 0.65)
        popularity_exponent: How steeply popularity falls with an item's rank;
            0 makes all equal. (default: 0.5)
        seed: Which draw. (default: 0)

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
    edge_index = _pick(user_taste, item_taste, weight, degree, affinity, generator)

    features, masks = {}, {}
    for name, modality in MODALITIES.items():
        features[name], masks[name] = _show(item_taste, modality, generator)
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


def _pick(
    user_taste: Tensor,
    item_taste: Tensor,
    weight: Tensor,
    degree: Tensor,
    affinity: float,
    generator: torch.Generator,
) -> Tensor:
    # Four draws for every one wanted: popular items are drawn again and again.
    draws = 4 * degree + 8
    user = torch.arange(degree.numel()).repeat_interleave(draws)
    # Items in the order of their taste: each taste is one stretch of the
    # running sum of weights, all of them together are all of it.
    order = item_taste.argsort(stable=True)
    total = weight[order].cumsum(0)
    stretch = torch.zeros(int(item_taste.max()) + 1, dtype=torch.double)
    stretch = stretch.index_add(0, item_taste, weight)
    end = stretch.cumsum(0)
    follows = torch.rand(user.numel(), generator=generator) < affinity
    point = torch.rand(user.numel(), generator=generator, dtype=torch.double)
    taste = user_taste[user]
    within = end[taste] - stretch[taste] + point * stretch[taste]
    point = torch.where(follows, within, point * total[-1])
    place = torch.searchsorted(total, point, right=True).clamp(max=total.numel() - 1)
    edges = torch.stack([user, order[place]])
    edges = edges[:, first_mentions(edges, weight.numel())]
    # Of each user's different items, the first ones drawn.
    found = torch.bincount(edges[0], minlength=degree.numel())
    rank = torch.arange(edges.size(1)) - (found.cumsum(0) - found)[edges[0]]
    return edges[:, rank < degree[edges[0]]]


def _show(
    taste: Tensor, modality: Modality, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    num_clusters = int(taste.max()) + 1
    center = torch.randn(num_clusters, modality.width, generator=generator)
    noise = torch.randn(taste.numel(), modality.width, generator=generator)
    mask = torch.rand(taste.numel(), generator=generator) >= modality.missing
    x = (center[taste] + modality.noise * noise).masked_fill(~mask.unsqueeze(-1), 0.0)
    return x, mask


def checkerboard(num_users: int = 16, num_items: int = 12) -> Split:
    """Returns a split in which user ``u`` likes item ``i`` if both are even or
    both are odd.

    Item ``u mod num_items`` (the diagonal) is withheld for test, the next of
    the user's items for validation, all others train: with training items left
    out, the two are all that is right for the user. The modality ``text``
    shows whether the item is even, ``image`` shows it too, turned around.

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
    place = items.squeeze(0) / num_items  # Makes all rows different.
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
