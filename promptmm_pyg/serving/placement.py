"""Embeddings for items and users that training has not seen."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import checked_edges
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._features import Features
from promptmm_pyg.serving.feature_mapper import FeatureMapper
from promptmm_pyg.serving.fold_in import FoldIn


class Placement(NamedTuple):
    """Embeddings of all users and items, and where they come from."""

    user_x: Tensor
    """``[num_users, D]``."""
    item_x: Tensor
    """``[num_items, D]``."""
    items_by_features: Tensor
    """Items that were predicted from their features, ``[num_items]``, boolean."""
    items_at_mean: Tensor
    """Items with neither training interactions nor features, ``[num_items]``."""
    users_by_history: Tensor
    """Users who were folded in from other interactions, ``[num_users]``, boolean."""
    users_at_mean: Tensor
    """Users without any interaction, ``[num_users]``, boolean."""

    @property
    def counts(self) -> dict[str, int]:
        """The number of users or items of each kind."""
        return {name: int(x.sum()) for name, x in list(self._asdict().items())[2:]}


def place_cold(
    user_x: Tensor,
    item_x: Tensor,
    train: Tensor,
    *,
    known: Tensor | SeenItems | None = None,
    feature_mapper: FeatureMapper | None = None,
    modality_x: Features | None = None,
    modality_mask: Features | None = None,
    items: bool = True,
) -> Placement:
    """Replaces the embeddings of users and items without training interactions, which
    no gradient has reached, so that they are ranked on one scale with the others.

    * An item gets the prediction of ``feature_mapper`` from its features, the
      conditional mean of the embedding; without features, the mean of the trained
      items.
    * A user with other ``known`` interactions is folded in
      (:class:`~promptmm_pyg.serving.FoldIn`). A user without any gets the mean of the
      trained users: the list of the average user, in which popular items lead.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        train: Training interactions (user, item), ``[2, E]``.
        known: All known interactions, for the histories of users.
            (default: ``train``)
        feature_mapper: Predicts embeddings, see :meth:`FeatureMapper.fit`.
            (default: none)
        modality_x: Features ``[num_items, F_m]`` by modality, as the mapper was fitted
            on. (default: none)
        modality_mask: Boolean ``[num_items]`` by modality. (default: everywhere)
        items: Whether to replace items, too. (default: ``True``)

    Raises:
        ValueError: If shapes do not match, an id is out of range, or nothing has a
            training interaction.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> placed = place_cold(x, x, torch.tensor([[0], [0]]))
        >>> placed.item_x
        tensor([[1., 0.],
                [1., 0.]])
    """
    num_users, num_items = user_x.size(0), item_x.size(0)
    edge_user, edge_item = checked_edges(train, (num_users, num_items))
    if edge_user.numel() == 0:
        raise ValueError("'train' must contain at least one interaction (got none)")
    cold_user = torch.bincount(edge_user.cpu(), minlength=num_users) == 0
    cold_item = torch.bincount(edge_item.cpu(), minlength=num_items) == 0
    cold_item &= items
    item_x, by_features = _items(
        item_x, cold_item, feature_mapper, modality_x, modality_mask
    )
    if not isinstance(known, SeenItems):
        known = SeenItems.from_edge_index(
            (train if known is None else known).cpu(), num_users, num_items
        )
    user_x, by_history = _users(user_x, item_x, cold_user, known)
    return Placement(
        user_x,
        item_x,
        by_features,
        cold_item & ~by_features,
        by_history,
        cold_user & ~by_history,
    )


def _items(
    item_x: Tensor,
    cold: Tensor,
    mapper: FeatureMapper | None,
    modality_x: Features | None,
    modality_mask: Features | None,
) -> tuple[Tensor, Tensor]:
    """The embeddings, and which of them were predicted."""
    by_features = torch.zeros_like(cold)
    if not cold.any():
        return item_x, by_features
    rows = cold.nonzero().view(-1)
    item_x = item_x.detach().clone()
    item_x[rows.to(item_x.device)] = item_x[~cold.to(item_x.device)].mean(0)
    if mapper is not None and modality_x:
        masks = modality_mask or {}
        predicted, missing = mapper.predict(
            {name: torch.as_tensor(x)[rows] for name, x in modality_x.items()},
            {name: torch.as_tensor(mask)[rows] for name, mask in masks.items()},
        )
        rows, predicted = rows[~missing], predicted[~missing]
        item_x[rows.to(item_x.device)] = predicted.to(item_x)
        by_features[rows] = True
    return item_x, by_features


def _users(
    user_x: Tensor, item_x: Tensor, cold: Tensor, known: SeenItems
) -> tuple[Tensor, Tensor]:
    """The embeddings, and which of them were folded in."""
    by_history = cold & (known.num_seen.cpu() > 0)
    if not cold.any():
        return user_x, by_history
    user_x = user_x.detach().clone()
    device = user_x.device
    user_x[cold.to(device)] = user_x[~cold.to(device)].mean(0)
    if by_history.any():
        rowptr, col = known.rowptr.cpu(), known.col.cpu()
        histories = [
            col[rowptr[user] : rowptr[user + 1]]
            for user in by_history.nonzero().view(-1)
        ]
        user_x[by_history.to(device)] = FoldIn(item_x)(histories).to(user_x)
    return user_x, by_history
