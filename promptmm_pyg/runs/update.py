"""A short training of a recommender on new interactions, users and items."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.loader import ExactNegativeSampler
from promptmm_pyg.losses import bpr_loss, squared_norm
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving import Recommender
from promptmm_pyg.serving.fold_in import FoldIn
from promptmm_pyg.training import LazyAdamW

EPOCHS = 10
L2 = 1e-3
# Of the root mean square of the item embeddings: Adam moves a number by about this.
RATE = 0.02
_BATCH = 1024
_SAMPLE = 1000  # Known rows that calibrate the start of new ones.


class NothingNewError(ValueError):
    """All interactions of an update are known."""


def update_recommender(
    recommender: Recommender,
    pairs: Sequence[tuple[Any, Any]],
    *,
    epochs: int = EPOCHS,
    l2: float = L2,
    seed: int = 0,
) -> Recommender:
    """Continues the embeddings of a recommender with new interactions.

    A new user starts from their history (:class:`~promptmm_pyg.serving.FoldIn`), a new
    item from its users in the same way; items that were added from features keep these
    embeddings as start. Then all rows of the new interactions, and of as many replayed
    old ones per epoch, are trained with BPR. Rows that are not drawn do not change.

    Args:
        recommender: The present model. It is not changed.
        pairs: Raw ids of users and items; known pairs are ignored.
        epochs: Passes over the new interactions. (default: ``10``)
        l2: Weight of the squared norms. (default: ``0.001``)
        seed: Seed of replay, order and negatives. (default: ``0``)

    Returns:
        A recommender with the new users and items behind the known ones.

    Raises:
        ValueError: If no pair is new.
    """
    check_positive('epochs', epochs)
    users = _numbered(recommender.user_ids, (user for user, _ in pairs))
    items = _numbered(recommender.item_ids, (item for _, item in pairs))
    old = _edges(recommender.seen)
    drawn = torch.tensor([[users[u], items[i]] for u, i in pairs]).view(-1, 2).t()
    new = _without(drawn.unique(dim=1), old, len(items))
    if new.size(1) == 0:
        raise NothingNewError(
            f"'pairs' must contain a new interaction (got {len(pairs)}, all known)"
        )
    edges = torch.cat([old, new], 1)
    user_x, item_x = _start(recommender, edges, len(users), len(items))
    user_x, item_x = _train(user_x, item_x, old, new, epochs, l2, seed)
    updated = Recommender(
        user_x,
        item_x,
        user_ids=list(users),
        item_ids=list(items),
        seen=SeenItems.from_edge_index(edges, len(users), len(items)),
        titles=recommender.titles,
        feature_mapper=recommender.feature_mapper,
    )
    updated.card = recommender.card
    return updated


def _numbered(known: Sequence[Any], more: Any) -> dict[Any, int]:
    """Row numbers by raw id: the known ones, then the others as they come."""
    rows = {raw: row for row, raw in enumerate(known)}
    for raw in more:
        rows.setdefault(raw, len(rows))
    return rows


def _edges(seen: SeenItems) -> Tensor:
    counts = seen.rowptr.diff()
    return torch.stack([torch.repeat_interleave(counts), seen.col])


def _without(edges: Tensor, known: Tensor, num_items: int) -> Tensor:
    """The edges that are not known."""
    keys = [x[0] * num_items + x[1] for x in (edges, known)]
    return edges[:, ~torch.isin(*keys)]


def _start(
    recommender: Recommender, edges: Tensor, num_users: int, num_items: int
) -> tuple[Tensor, Tensor]:
    """The known embeddings and a start for the new rows: users from the known items of
    their history, then items from their users.
    """
    user_x, item_x = recommender.user_x.float(), recommender.item_x.float()
    user_x = _extend(user_x, item_x, edges, num_users)
    item_x = _extend(item_x, user_x, edges.flip(0), num_items)
    return user_x, item_x


def _extend(x: Tensor, other_x: Tensor, edges: Tensor, size: int) -> Tensor:
    """Appends rows by fold-in, on the scale of the known rows; zeros for rows without
    a known neighbor.
    """
    out = torch.cat([x, x.new_zeros(size - x.size(0), x.size(1))])
    edges = edges[:, edges[1] < other_x.size(0)]
    new = edges[0][edges[0] >= x.size(0)].unique()
    known = edges[0][edges[0] < x.size(0)].unique()
    if new.numel() == 0 or known.numel() == 0:
        return out
    step = max(1, known.numel() // _SAMPLE)
    solve = FoldIn(other_x)
    sample = known[::step]
    folded = solve(_neighbors(edges, sample)).to(x)
    scale = (folded * x[sample]).sum() / folded.square().sum()
    out[new] = scale * solve(_neighbors(edges, new)).to(x)
    return out


def _neighbors(edges: Tensor, rows: Tensor) -> list[Tensor]:
    """The neighbors of each of the sorted ``rows``."""
    edges = edges[:, torch.isin(edges[0], rows)]
    edges = edges[:, edges[0].argsort(stable=True)]
    counts = edges[0].unique_consecutive(return_counts=True)[1]
    return list(edges[1].split(counts.tolist()))


def _train(
    user_x: Tensor,
    item_x: Tensor,
    old: Tensor,
    new: Tensor,
    epochs: int,
    l2: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.cat([old, new], 1)
    # Items without interactions are no negatives: nobody could interact with them.
    sampler = ExactNegativeSampler(
        edges, user_x.size(0), item_x.size(0), items=edges[1].unique()
    )
    counts = edges[0].bincount(minlength=user_x.size(0))
    free = counts < edges[1].unique().numel()
    old, new = (x[:, free[x[0]]] for x in (old, new))
    rate = RATE * float(item_x.square().mean().sqrt())
    tables = [
        torch.nn.Embedding.from_pretrained(x.clone(), freeze=False, sparse=True)
        for x in (user_x, item_x)
    ]
    optimizer = LazyAdamW([table.weight for table in tables], lr=rate)
    for _ in range(epochs):
        replayed = torch.randint(
            max(1, old.size(1)),
            (min(old.size(1), new.size(1)),),
            generator=generator,
        )
        drawn = torch.cat([new, old[:, replayed]], 1)
        order = torch.randperm(drawn.size(1), generator=generator)
        for user, positive in drawn[:, order].split(_BATCH, 1):
            negative = sampler.sample(user, generator=generator)
            rows = tables[0](user), tables[1](positive), tables[1](negative)
            scores = [(rows[0] * x).sum(-1) for x in rows[1:]]
            optimizer.zero_grad()
            (bpr_loss(*scores) + l2 * squared_norm(*rows)).backward()
            optimizer.step()
    first, second = (table.weight.detach() for table in tables)
    return first, second
