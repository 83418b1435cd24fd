"""Features of items, and linear maps from them to embeddings."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.functional import check_width
from promptmm_pyg.ranking import SeenItems

Features = Mapping[str, Tensor | np.ndarray]
"""Rows by modality."""


class Standard(NamedTuple):
    """How the features of each modality are standardized."""

    channels: dict[str, int]
    mean: dict[str, Tensor]
    scale: dict[str, Tensor]
    """What differences to the mean are multiplied by."""

    def apply(self, name: str, x: Tensor) -> Tensor:
        """Standardized features of one modality."""
        return (x - self.mean[name]) * self.scale[name]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale that give columns of mean 0 and rows of squared norm 1."""
    if x.size(0) == 0:
        return torch.zeros(x.size(1)), torch.zeros(x.size(1))
    x = x.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    # A constant column has a tiny standard deviation, not always an exact zero.
    constant = std <= 1e-6 * x.abs().amax(0).clamp_min(1e-30)
    scale = torch.where(constant, 0.0, 1.0 / std.clamp_min(1e-30))
    return mean.float(), (scale / x.size(1) ** 0.5).float()


def check_features(
    modality_x: Features,
    modality_mask: Features | None,
    channels: Mapping[str, int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features in single precision and masks of all modalities, on the CPU; absent
    rows are zero.

    Args:
        modality_x: Features ``[N, F_m]``, tensors or arrays.
        modality_mask: Boolean ``[N]``, or ``None``.
        channels: The widths that are allowed. (default: any)

    Raises:
        ValueError: If sizes or names do not match, or a present row is not finite.
    """
    if not modality_x:
        raise ValueError("'modality_x' must contain at least one modality (got none)")
    masks = modality_mask or {}
    _check_names('modality_mask', masks, modality_x)
    if channels is not None:
        _check_names('modality_x', modality_x, channels)
    features, present = {}, {}
    for name, rows in modality_x.items():
        what = f'modality_x[{name!r}]'
        x = torch.as_tensor(rows).detach().cpu()
        if x.dim() != 2 or not x.is_floating_point():
            raise ValueError(
                f"'{what}' must be a floating point matrix [N, channels] (got "
                f'{list(x.shape)}, {x.dtype})'
            )
        if channels is not None and x.size(1) != channels[name]:
            raise ValueError(
                f"'{what}' must have {channels[name]} channels, as in training "
                f'(got {x.size(1)})'
            )
        present[name] = _mask(name, masks.get(name), x.size(0))
        x = x.float().masked_fill(~present[name][:, None], 0.0)
        bad = ~x.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f"'{what}' must be finite (got NaN or infinity in row "
                f"{int(bad.nonzero()[0])}). Mark absent rows in 'modality_mask'"
            )
        features[name] = x
    sizes = {name: x.size(0) for name, x in features.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"'modality_x' must have equally many rows (got {sizes})")
    return features, present


def _mask(name: str, mask: Tensor | np.ndarray | None, size: int) -> Tensor:
    if mask is None:
        return torch.ones(size, dtype=torch.bool)
    mask = torch.as_tensor(mask).detach().cpu()
    if mask.dtype != torch.bool or list(mask.shape) != [size]:
        raise ValueError(
            f"'modality_mask[{name!r}]' must be boolean of shape [{size}] (got "
            f'{list(mask.shape)}, {mask.dtype})'
        )
    return mask


def _check_names(
    name: str, names: Mapping[str, object], known: Mapping[str, object]
) -> None:
    extra = sorted(set(names) - set(known))
    if extra:
        raise ValueError(
            f"'{name}' must contain modalities of {sorted(known)} only (got {extra})"
        )


MIN_ITEMS = 10
"""The smallest number of items to fit a map on."""
_MAX_SUBSETS = 7
_CHUNK = 8192  # Rows converted to double precision at once.
_MAX_PAIRS = 4096  # Interactions that a map is evaluated on.
_BLOCK = 2**24  # Scores in memory at once.


class FeatureMap(NamedTuple):
    """A linear map from the concatenated features of some modalities to item
    embeddings.
    """

    modalities: tuple[str, ...]
    weight: Tensor
    """``[F, D]``, for standardized features."""
    bias: Tensor
    """``[D]``, the embedding of an average item."""
    penalty: float
    """The ridge penalty with the best ranking of held-out items."""
    gain: float
    """That ranking: the mean of ``1 / log2(1 + rank)`` over held-out interactions."""
    baseline: float
    """The same if every held-out item has the average embedding."""


class Ridge:
    """Ridge regression with an intercept, for several penalties.

    The penalties share one matrix, of the smaller side of ``x``.

    Args:
        x: Inputs ``[N, F]``.
        y: Outputs ``[N, D]``.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.mean_x = x.mean(0, dtype=torch.double)
        self.mean_y = y.mean(0, dtype=torch.double)

    @cached_property
    def _by_rows(self) -> bool:
        return self.x.size(0) < self.x.size(1)

    @cached_property
    def _gram(self) -> tuple[Tensor, Tensor]:
        """The matrix to regularize, and the right-hand side."""
        if self._by_rows:
            x, y = self._centered(self.x, self.y)
            return x @ x.t(), y
        width = self.x.size(1)
        gram = torch.zeros(width, width, dtype=torch.double)
        cross = torch.zeros(width, self.y.size(1), dtype=torch.double)
        chunks = zip(self.x.split(_CHUNK), self.y.split(_CHUNK), strict=True)
        for x_chunk, y_chunk in chunks:  # Double precision of all rows may not fit.
            x, y = self._centered(x_chunk, y_chunk)
            gram += x.t() @ x
            cross += x.t() @ y
        return gram, cross

    def _centered(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.double() - self.mean_x, y.double() - self.mean_y

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Weight ``[F, D]`` and bias ``[D]`` for ``penalty`` in units of the mean
        eigenvalue of the inputs' covariance.
        """
        gram, target = self._gram
        # Constant inputs have no scale, and no weight either.
        scale = gram.diagonal().mean().item() or 1.0
        matrix = gram.clone()
        matrix.diagonal().add_(penalty * scale)
        weight = torch.cholesky_solve(target, torch.linalg.cholesky(matrix))
        if self._by_rows:
            weight = (self.x.double() - self.mean_x).t() @ weight
        return weight.float(), (self.mean_y - self.mean_x @ weight).float()


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
    """The standardization of the features, and the maps, those of more modalities
    first. The arguments are those of :meth:`FeatureMapper.fit`.
    """
    if not penalties:
        raise ValueError("'penalties' must contain at least one number (got none)")
    for penalty in penalties:
        check_positive('penalties', penalty)
    if not 0 < held_out < 1:
        raise ValueError(f"'held_out' must be in (0, 1) (got {held_out})")
    fitting = _Fitting.build(user_x, item_x, seen, penalties, held_out, seed)
    features, present = check_features(modality_x, modality_mask)
    standard = Standard({name: x.size(1) for name, x in features.items()}, {}, {})
    for name, x in features.items():
        if x.size(0) != item_x.size(0):
            raise ValueError(
                f"'modality_x[{name!r}]' must contain one row for each of "
                f'{item_x.size(0)} items (got {x.size(0)})'
            )
        rows = (present[name] & fitting.warm).nonzero().view(-1)
        standard.mean[name], standard.scale[name] = moments(x[rows])
        features[name] = standard.apply(name, x)
    maps = []
    for names in _subsets(list(features)):
        has = torch.stack([present[name] for name in names]).all(0)
        rows = (has & fitting.warm).nonzero().view(-1)
        if rows.numel() >= MIN_ITEMS:
            z = torch.cat([features[name] for name in names], dim=1)
            maps.append(fitting.fit(names, z, rows))
    if not maps:
        raise ValueError(
            f"'modality_x' must contain a modality of at least {MIN_ITEMS} items with "
            f'interactions (got {int(fitting.warm.sum())} such items in all)'
        )
    return standard, maps


class _Fitting(NamedTuple):
    """What all maps are fitted to and evaluated with."""

    user_x: Tensor
    item_x: Tensor
    seen: SeenItems
    warm: Tensor
    """Which items have interactions, ``[num_items]``."""
    penalties: list[float]
    """Descending."""
    held_out: float
    seed: int

    @classmethod
    def build(
        cls,
        user_x: Tensor,
        item_x: Tensor,
        seen: SeenItems | Tensor,
        penalties: Sequence[float],
        held_out: float,
        seed: int,
    ) -> '_Fitting':
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
        descending = sorted(penalties, reverse=True)
        return cls(x[0], x[1], seen, warm, descending, held_out, seed)

    def fit(self, names: tuple[str, ...], z: Tensor, rows: Tensor) -> FeatureMap:
        """Fits one map on the items ``rows`` with features ``z``."""
        generator = torch.Generator().manual_seed(self.seed)
        rows = rows[torch.randperm(rows.numel(), generator=generator)]
        count = min(max(1, round(self.held_out * rows.numel())), rows.numel() - 2)
        held, rest = rows[:count], rows[count:]
        ridge = Ridge(z[rest], self.item_x[rest])
        best, best_penalty = -math.inf, self.penalties[0]
        for penalty in self.penalties:  # Of equals, the largest.
            weight, bias = ridge.solve(penalty)
            gain = self._gain(z[held] @ weight + bias, held)
            if gain > best:
                best, best_penalty = gain, penalty
        average = ridge.mean_y.float().expand(count, -1)
        baseline = self._gain(average, held)
        weight, bias = Ridge(z[rows], self.item_x[rows]).solve(best_penalty)
        return FeatureMap(names, weight, bias, best_penalty, best, baseline)

    def _gain(self, predicted: Tensor, held: Tensor) -> float:
        item_x = self.item_x.clone()
        item_x[held] = predicted
        return mean_gain(self.user_x, item_x, self.seen, held, seed=self.seed)


def mean_gain(
    user_x: Tensor, item_x: Tensor, seen: SeenItems, items: Tensor, *, seed: int
) -> float:
    """The mean of ``1 / log2(1 + rank)`` over the interactions with ``items``.

    An item is ranked among itself and what the user has not seen; half of the items
    with equal scores count as better. If there are more than 4096 interactions, 4096
    are sampled.

    Args:
        user_x: User embeddings ``[num_users, D]``.
        item_x: Item embeddings ``[num_items, D]``.
        seen: The interactions.
        items: The items to rank.
        seed: Seed of the sample.
    """
    wanted = torch.zeros(item_x.size(0), dtype=torch.bool)
    wanted[items] = True
    pairs = wanted[seen.col].nonzero().view(-1)
    if pairs.numel() > _MAX_PAIRS:
        generator = torch.Generator().manual_seed(seed)
        pairs = pairs[torch.randperm(pairs.numel(), generator=generator)[:_MAX_PAIRS]]
    user = torch.repeat_interleave(seen.num_seen)[pairs]
    item = seen.col[pairs]
    gains = []
    size = max(1, _BLOCK // max(1, item_x.size(0)))
    for users, targets in zip(user.split(size), item.split(size), strict=True):
        scores = user_x[users] @ item_x.t()
        own = scores.gather(1, targets[:, None])
        seen.mask_(scores, users)
        # Sums of floats: exact for less than 2**24 items, and faster than of booleans.
        better = torch.gt(scores, own, out=torch.empty_like(scores)).sum(1)
        rank = 1 + better + 0.5 * scores.eq_(own).sum(1)
        gains.append(1 / torch.log2(1 + rank))
    return float(torch.cat(gains).double().mean())


def _subsets(names: list[str]) -> list[tuple[str, ...]]:
    """Sets of modalities, larger ones first."""
    sizes: Sequence[int] = range(len(names), 0, -1)
    if 2 ** len(names) - 1 > _MAX_SUBSETS:
        sizes = sorted({len(names), len(names) - 1, 1}, reverse=True)
    return [part for size in sizes for part in itertools.combinations(names, size)]
