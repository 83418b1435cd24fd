"""Linear maps from features to item embeddings, in closed form."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.functional import check_width
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._held_out import mean_gain
from promptmm_pyg.serving._modalities import Features, check_modalities, check_rows
from promptmm_pyg.serving._ridge import Ridge

MIN_ITEMS = 10
"""How many items a map is fitted on at least."""
_MAX_SUBSETS = 7


class FeatureMap(NamedTuple):
    """A linear map from some modalities, side by side, to item embeddings."""

    modalities: tuple[str, ...]
    weight: Tensor
    """``[F, D]``, for standardized features."""
    bias: Tensor
    """``[D]``, the embedding of an average item."""
    penalty: float
    """The ridge that ranked held-out items best."""
    gain: float
    """How well: the mean of ``1 / log2(1 + rank)`` over held-out interactions."""
    baseline: float
    """The same where every held-out item is the average item."""


class Standard(NamedTuple):
    """How features are put on one scale, by modality."""

    channels: dict[str, int]
    mean: dict[str, Tensor]
    scale: dict[str, Tensor]


def fit_maps(
    modality_x: Features,
    item_x: Tensor,
    *,
    user_x: Tensor,
    seen: SeenItems | Tensor,
    modality_mask: Features | None,
    penalties: Sequence[float],
    held_out: float,
    seed: int,
) -> tuple[Standard, list[FeatureMap]]:
    """How features are standardized, and the maps, those of more modalities first;
    see :meth:`FeatureMapper.fit`.
    """
    if not penalties:
        raise ValueError("'penalties' must contain at least one number (got none)")
    for penalty in penalties:
        check_positive('penalties', penalty)
    if not 0 < held_out < 1:
        raise ValueError(f"'held_out' must be in (0, 1) (got {held_out})")
    tables = _Tables.build(user_x, item_x, seen)
    features, present = check_modalities(modality_x, modality_mask)
    for name, x in features.items():
        check_rows(f'modality_x[{name!r}]', x, item_x.size(0))
    mean, scale = {}, {}
    for name, x in features.items():
        rows = (present[name] & tables.warm).nonzero().view(-1)
        mean[name], scale[name] = _moments(x[rows])
        features[name] = standardized(x, mean[name], scale[name], present[name])
    fitting = _Fitting(sorted(penalties, reverse=True), held_out, seed)
    maps = []
    for names in _subsets(list(features)):
        has = torch.stack([present[name] for name in names]).all(0)
        rows = (has & tables.warm).nonzero().view(-1)
        if rows.numel() >= MIN_ITEMS:
            z = torch.cat([features[name] for name in names], dim=1)
            maps.append(fitting.fit(names, z, rows, tables))
    if not maps:
        raise ValueError(
            f"'modality_x' requires a modality that {MIN_ITEMS} items with "
            f'interactions have (got {int(tables.warm.sum())} such items in all)'
        )
    channels = {name: x.size(1) for name, x in features.items()}
    return Standard(channels, mean, scale), maps


class _Tables(NamedTuple):
    """What item embeddings are judged with."""

    user_x: Tensor
    item_x: Tensor
    seen: SeenItems
    warm: Tensor
    """Which items have interactions, ``[num_items]``."""

    @classmethod
    def build(
        cls, user_x: Tensor, item_x: Tensor, seen: SeenItems | Tensor
    ) -> '_Tables':
        check_width(user_x, item_x)
        num_users, num_items = user_x.size(0), item_x.size(0)
        if isinstance(seen, Tensor):
            seen = SeenItems.from_edge_index(seen.cpu(), num_users, num_items)
        if (seen.num_users, seen.num_items) != (num_users, num_items):
            raise ValueError(
                "'seen' must cover the users and items of the embeddings (got "
                f'{seen.num_users} x {seen.num_items} instead of {num_users} x '
                f'{num_items})'
            )
        seen = SeenItems(seen.rowptr.cpu(), seen.col.cpu(), num_items)
        warm = torch.bincount(seen.col, minlength=num_items) > 0
        x = [table.detach().cpu().float() for table in (user_x, item_x)]
        return cls(x[0], x[1], seen, warm)


class _Fitting(NamedTuple):
    penalties: list[float]
    held_out: float
    seed: int

    def fit(
        self, names: tuple[str, ...], z: Tensor, rows: Tensor, tables: _Tables
    ) -> FeatureMap:
        generator = torch.Generator().manual_seed(self.seed)
        rows = rows[torch.randperm(rows.numel(), generator=generator)]
        count = min(max(1, round(self.held_out * rows.numel())), rows.numel() - 2)
        held, rest = rows[:count], rows[count:]
        ridge = Ridge(z[rest], tables.item_x[rest])
        best, chosen = -math.inf, self.penalties[0]
        for penalty in self.penalties:  # Of equals, the largest.
            weight, bias = ridge.solve(penalty)
            gain = self._gain(z[held] @ weight + bias, held, tables)
            if gain > best:
                best, chosen = gain, penalty
        average = ridge.mean_y.float().expand(count, -1)
        baseline = self._gain(average, held, tables)
        weight, bias = Ridge(z[rows], tables.item_x[rows]).solve(chosen)
        return FeatureMap(names, weight, bias, chosen, best, baseline)

    def _gain(self, predicted: Tensor, held: Tensor, tables: _Tables) -> float:
        item_x = tables.item_x.clone()
        item_x[held] = predicted
        return mean_gain(tables.user_x, item_x, tables.seen, held, seed=self.seed)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and factor that give columns of mean 0 and rows of squared norm 1."""
    if x.size(0) == 0:
        return torch.zeros(x.size(1)), torch.zeros(x.size(1))
    x = x.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    # A constant column has a tiny standard deviation, not always an exact zero.
    constant = std <= 1e-6 * x.abs().amax(0).clamp_min(1e-30)
    scale = torch.where(constant, 0.0, 1.0 / std.clamp_min(1e-30))
    return mean.float(), (scale / x.size(1) ** 0.5).float()


def standardized(x: Tensor, mean: Tensor, scale: Tensor, present: Tensor) -> Tensor:
    return ((x - mean) * scale).masked_fill(~present[:, None], 0.0)


def _subsets(names: list[str]) -> list[tuple[str, ...]]:
    """Sets of modalities, larger ones first."""
    sizes: Sequence[int] = range(len(names), 0, -1)
    if 2 ** len(names) - 1 > _MAX_SUBSETS:
        sizes = sorted({len(names), len(names) - 1, 1}, reverse=True)
    return [part for size in sizes for part in itertools.combinations(names, size)]
