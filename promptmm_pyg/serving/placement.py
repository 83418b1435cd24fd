"""Embeddings for items and users that training has not seen."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import checked_edges
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._feature_fit import Features
from promptmm_pyg.serving.feature_mapper import FeatureMapper
from promptmm_pyg.serving.fold_in import FoldIn

_SCALES = (1.0, 1.5, 2.0, 3.0)
_OFFSETS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
_MIN_PAIRS = 20  # Positives of new items, to choose a scale by.
_MAX_PAIRS = 4096  # Positives that a scale is chosen by.
_BLOCK = 2**24  # Scores in memory at once.


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
    scale: float = 1.0
    """What differences of predicted embeddings to the mean are multiplied by."""
    offset: float = 0.0
    """What is added to the scores of predicted items, in units of the standard
    deviation of scores."""

    @property
    def counts(self) -> dict[str, int]:
        """The number of users or items of each kind."""
        return {name: int(x.sum()) for name, x in list(self._asdict().items())[2:6]}


def place_cold(
    user_x: Tensor,
    item_x: Tensor,
    train: Tensor,
    *,
    known: Tensor | SeenItems | None = None,
    validation: Tensor | None = None,
    feature_mapper: FeatureMapper | None = None,
    modality_x: Features | None = None,
    modality_mask: Features | None = None,
    items: bool = True,
) -> Placement:
    r"""Replaces the embeddings of users and items without training interactions, which
    no gradient has reached, so that they are ranked on one scale with the others.

    * An item gets the prediction of ``feature_mapper`` from its features, the
      conditional mean :math:`\hat{\mathbf{v}}` of the embedding; without features, the
      mean :math:`\bar{\mathbf{v}}` of the trained items.
    * A user with other ``known`` interactions is folded in
      (:class:`~promptmm_pyg.serving.FoldIn`). A user without any gets the mean of the
      trained users: the list of the average user, in which popular items lead.

    With ``validation`` the predictions become :math:`\bar{\mathbf{v}} + s
    (\hat{\mathbf{v}} - \bar{\mathbf{v}}) + o \mathbf{d}`, where :math:`\mathbf{d}`
    raises the scores of all users by about one standard deviation. Scale :math:`s` and
    offset :math:`o` are those that rank all positives of validation best, by the mean
    of :math:`1 / \log_2(1 + \text{rank})`, if that is better than 1 and 0 by more than
    two standard errors. The conditional mean is on the right scale in most data; where
    new items are most of what users go on to, they have to be above it.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        train: Training interactions (user, item), ``[2, E]``.
        known: All known interactions, for the histories of users.
            (default: ``train``)
        validation: Positives (user, item) of validation, ``[2, E]``, to choose scale
            and offset by. (default: none)
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
    placed_x, by_features = _items(
        item_x, cold_item, feature_mapper, modality_x, modality_mask
    )
    scale, offset = 1.0, 0.0
    if validation is not None and by_features.any():
        seen = SeenItems.from_edge_index(train.cpu(), num_users, num_items)
        predicted = _Predicted(user_x, placed_x, cold_item, by_features)
        scale, offset = predicted.calibrate(validation.cpu(), seen)
        if (scale, offset) != (1.0, 0.0):
            placed_x = predicted.at(scale, offset).to(placed_x)
    if not isinstance(known, SeenItems):
        known = SeenItems.from_edge_index(
            (train if known is None else known).cpu(), num_users, num_items
        )
    user_x, by_history = _users(user_x, placed_x, cold_user, known)
    return Placement(
        user_x,
        placed_x,
        by_features,
        cold_item & ~by_features,
        by_history,
        cold_user & ~by_history,
        scale,
        offset,
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


class _Predicted:
    """Predicted items among the others, at any scale and offset."""

    def __init__(
        self, user_x: Tensor, item_x: Tensor, cold: Tensor, predicted: Tensor
    ) -> None:
        self.user_x, self.item_x = (x.detach().cpu().float() for x in (user_x, item_x))
        self.predicted = predicted
        self.mean = self.item_x[~cold].mean(0)
        # The direction that raises all scores by about one standard deviation.
        users = self.user_x.double()
        gram = users.t() @ users
        gram.diagonal().add_(1e-6 * float(gram.diagonal().mean()) or 1.0)
        direction = torch.linalg.solve(gram, users.sum(0)).float()
        sample = self.user_x[:: max(1, self.user_x.size(0) // 1000)]
        spread = (sample @ self.item_x[~cold].t()).std()
        self.direction = direction * spread

    def at(self, scale: float, offset: float) -> Tensor:
        """All item embeddings, ``[num_items, D]``."""
        out = self.item_x.clone()
        rows = self.predicted
        out[rows] = self._moved(out[rows], scale, offset)
        return out

    def _moved(self, x: Tensor, scale: float, offset: float) -> Tensor:
        moved: Tensor = self.mean + scale * (x - self.mean) + offset * self.direction
        return moved

    def calibrate(self, positives: Tensor, seen: SeenItems) -> tuple[float, float]:
        """The best scale and offset for the positives (user, item), ``[2, E]``."""
        if positives.size(1) > _MAX_PAIRS:
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(positives.size(1), generator=generator)
            positives = positives[:, order[:_MAX_PAIRS]]
        if int(self.predicted[positives[1]].sum()) < _MIN_PAIRS:
            return 1.0, 0.0
        settings = list(itertools.product(_SCALES, _OFFSETS))
        size = max(1, _BLOCK // self.item_x.size(0))
        blocks = positives.split(size, dim=1)
        gains = torch.cat([self._gains(x, seen, settings) for x in blocks], dim=1)
        best = int(gains.mean(1).argmax())
        better = gains[best] - gains[settings.index((1.0, 0.0))]
        error = better.std() / better.numel() ** 0.5
        return settings[best] if better.mean() > 2 * error else (1.0, 0.0)

    def _gains(
        self, pairs: Tensor, seen: SeenItems, settings: list[tuple[float, float]]
    ) -> Tensor:
        """``1 / log2(1 + rank)`` of each pair at each setting, ``[S, B]``."""
        user, item = pairs
        user_x = self.user_x[user]
        scores = user_x @ self.item_x.t()
        seen.mask_(scores, user)
        others = scores[:, ~self.predicted]
        own = (user_x * self.item_x[item]).sum(1)
        above = (others > own[:, None]).sum(1)
        moves = self.predicted[item].nonzero().view(-1)
        own_x, new_x = self.item_x[item[moves]], self.item_x[self.predicted]
        ranks = []
        for scale, offset in settings:
            value, num_above = own.clone(), above.clone()
            moved = self._moved(own_x, scale, offset)
            value[moves] = (user_x[moves] * moved).sum(1)
            num_above[moves] = (others[moves] > value[moves, None]).sum(1)
            new = user_x @ self._moved(new_x, scale, offset).t()
            # Rounding must not put an item above itself.
            num_new = (new > value[:, None] + 1e-6 * value.abs()[:, None]).sum(1)
            ranks.append(1 + num_above + num_new)
        return 1 / torch.log2(1 + torch.stack(ranks).double())


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
