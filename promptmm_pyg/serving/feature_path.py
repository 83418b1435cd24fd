"""From what an item looks and reads like to its embedding."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._checks import check_positive
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.scoring import check_width
from promptmm_pyg.serving._held_out import mean_gain
from promptmm_pyg.serving._modalities import Features, check_modalities, check_rows
from promptmm_pyg.serving._ridge import Ridge

MIN_ITEMS = 10
"""How many items a map is fitted on at least."""
_PENALTIES = tuple(10.0**power for power in range(3, -4, -1))
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


class FeaturePath:
    r"""Predicts item embeddings from modality features: the teacher's or student's
    item table, distilled into ridge regressions.

    .. math::
        \hat{\mathbf{v}} = \mathbf{W}_P^{\top} \mathbf{z}_P + \mathbf{b}_P, \quad
        \mathbf{W}_P = \arg\min_{\mathbf{W}} \sum_i \lVert \mathbf{v}_i - \mathbf{b}_P -
        \mathbf{W}^{\top} \mathbf{z}_{i,P} \rVert^2 + \lambda_P \lVert \mathbf{W}
        \rVert^2

    with :math:`\mathbf{z}` the standardized features and :math:`P` the modalities an
    item has. Each set :math:`P` (all of them up to three modalities; else all
    together, all but one, and each alone) has a map of its own, so an item without
    pictures is not taken for one with average pictures. Only items with interactions
    are learned from: the rows of others were never trained.

    What comes out is an expectation. It varies less from item to item than trained
    rows do, so a new item seldom outranks a known favorite; to rank new items among
    themselves, allow only these.

    Args:
        channels: The width of each modality, in the order of the features.
        mean: Per modality, ``[F_m]``.
        scale: Per modality, ``[F_m]``, what differences to the mean are multiplied by.
        maps: The maps, those of more modalities first.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(40, 3, generator=generator)
        >>> item_x = x @ torch.randn(3, 2, generator=generator)
        >>> seen = torch.stack([torch.arange(40) % 8, torch.arange(40)])
        >>> user_x = torch.randn(8, 2, generator=generator)
        >>> path = FeaturePath.fit({'text': x}, item_x, user_x=user_x, seen=seen)
        >>> path({'text': x[:5]}).size()
        torch.Size([5, 2])
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        mean: Mapping[str, Tensor],
        scale: Mapping[str, Tensor],
        maps: Sequence[FeatureMap],
    ) -> None:
        self.channels = dict(channels)
        self.mean = dict(mean)
        self.scale = dict(scale)
        self.maps = list(maps)

    @classmethod
    def fit(
        cls,
        modality_x: Features,
        item_x: Tensor,
        *,
        user_x: Tensor,
        seen: SeenItems | Tensor,
        modality_mask: Features | None = None,
        penalties: Sequence[float] = _PENALTIES,
        held_out: float = 0.2,
        seed: int = 0,
    ) -> 'FeaturePath':
        """Fits the maps in closed form.

        The penalty of each is the one whose predictions for held-out items, put in
        the place of their rows, rank these items best for the users who took them,
        among everything these users have not seen. Then all items are fitted on.

        Args:
            modality_x: Features ``[num_items, F_m]`` as they come, not standardized.
            item_x: What to predict, ``[num_items, D]``.
            user_x: User embeddings ``[num_users, D]``.
            seen: Interactions of training, as rows or as edges ``[2, E]``.
            modality_mask: Boolean ``[num_items]``, ``True`` where an item has the
                modality. (default: everywhere)
            penalties: Candidates for the ridge, in units of the mean eigenvalue of
                the features' covariance. (default: powers of ten from 0.001 to 1000)
            held_out: The part of items that is held out. (default: ``0.2``)
            seed: Of the choice of these. (default: ``0``)

        Raises:
            ValueError: If sizes do not fit, a present feature is not finite, or no
                modality is had by ten items with interactions.
        """
        if not penalties:
            raise ValueError("'penalties' needs to hold at least one number (got none)")
        for penalty in penalties:
            check_positive('penalties', penalty)
        if not 0 < held_out < 1:
            raise ValueError(f"'held_out' needs to lie in (0, 1) (got {held_out})")
        tables = _Tables.build(user_x, item_x, seen)
        features, present = check_modalities(modality_x, modality_mask)
        for name, x in features.items():
            check_rows(f'modality_x[{name!r}]', x, item_x.size(0))
        mean, scale = {}, {}
        for name, x in features.items():
            rows = (present[name] & tables.warm).nonzero().view(-1)
            mean[name], scale[name] = _moments(x[rows])
            features[name] = _standardized(x, mean[name], scale[name], present[name])
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
                f"'modality_x' needs a modality that {MIN_ITEMS} items with "
                f'interactions have (got {int(tables.warm.sum())} such items in all)'
            )
        channels = {name: x.size(1) for name, x in features.items()}
        return cls(channels, mean, scale, maps)

    def __call__(
        self,
        modality_x: Features,
        modality_mask: Features | None = None,
    ) -> Tensor:
        """Item embeddings ``[N, D]``, on the CPU and of single precision.

        Args:
            modality_x: Features ``[N, F_m]``; a modality left out is one no item has.
            modality_mask: Boolean ``[N]``, ``True`` where an item has the modality.
                (default: everywhere)

        Raises:
            ValueError: If a modality is unknown or of another width, a present
                feature is not finite, or an item has nothing to go by.
        """
        features, present = check_modalities(modality_x, modality_mask, self.channels)
        z = {
            name: _standardized(x, self.mean[name], self.scale[name], present[name])
            for name, x in features.items()
        }
        num_rows = next(iter(z.values())).size(0)
        out = torch.zeros(num_rows, self.width)
        left = torch.ones(num_rows, dtype=torch.bool)
        for part in self.maps:
            if not set(part.modalities) <= set(z):
                continue
            rows = torch.stack([left, *(present[name] for name in part.modalities)])
            index = rows.all(0).nonzero().view(-1)
            side_by_side = torch.cat([z[name][index] for name in part.modalities], 1)
            out[index] = side_by_side @ part.weight + part.bias
            left[index] = False
        if left.any():
            raise ValueError(
                f"'modality_mask' needs to leave every item a modality of "
                f'{[list(part.modalities) for part in self.maps]} (got none in row '
                f'{int(left.nonzero()[0])}, {int(left.sum())} such rows in all)'
            )
        return out

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        return self.maps[0].bias.numel()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name and the rest as JSON, for :meth:`from_state`."""
        tensors = {}
        for number, name in enumerate(self.channels):
            tensors[f'feature_path.mean.{number}'] = self.mean[name]
            tensors[f'feature_path.scale.{number}'] = self.scale[name]
        for number, part in enumerate(self.maps):
            tensors[f'feature_path.weight.{number}'] = part.weight
            tensors[f'feature_path.bias.{number}'] = part.bias
        return tensors, {
            'channels': [[name, width] for name, width in self.channels.items()],
            'maps': [
                [list(part.modalities), part.penalty, part.gain, part.baseline]
                for part in self.maps
            ],
        }

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], rest: Any) -> 'FeaturePath':
        """What :meth:`state` was asked for.

        Raises:
            ValueError: If the parts do not fit each other.
        """
        try:
            path = cls(dict(rest['channels']), {}, {}, [])
            for number, name in enumerate(path.channels):
                path.mean[name] = tensors[f'feature_path.mean.{number}']
                path.scale[name] = tensors[f'feature_path.scale.{number}']
            for number, (names, *scores) in enumerate(rest['maps']):
                weight = tensors[f'feature_path.weight.{number}']
                bias = tensors[f'feature_path.bias.{number}']
                penalty, gain, baseline = (float(score) for score in scores)
                path.maps.append(
                    FeatureMap(tuple(names), weight, bias, penalty, gain, baseline)
                )
            path._check()
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f'a part of the feature path is missing: {error}'
            ) from error
        return path

    def _check(self) -> None:
        wrong = [
            name
            for name, width in self.channels.items()
            if not list(self.mean[name].shape)
            == list(self.scale[name].shape)
            == [width]
        ]
        for part in self.maps:
            width = sum(self.channels[name] for name in part.modalities)
            shapes = [list(part.weight.shape), list(part.bias.shape)]
            if shapes != [[width, self.width], [self.width]]:
                wrong.append(' + '.join(part.modalities))
        tensors = self.state()[0]
        wrong += [key for key, x in tensors.items() if x.dtype != torch.float32]
        wrong += [key for key, x in tensors.items() if not x.isfinite().all()]
        if wrong or not self.maps:
            raise ValueError(f'the feature path does not fit together: {wrong}')

    def __repr__(self) -> str:
        sizes = ', '.join(f'{name}: {width}' for name, width in self.channels.items())
        return f'{type(self).__name__}({{{sizes}}} -> {self.width})'


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
                "'seen' needs to cover the users and items of the embeddings (got "
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


def _standardized(x: Tensor, mean: Tensor, scale: Tensor, present: Tensor) -> Tensor:
    return ((x - mean) * scale).masked_fill(~present[:, None], 0.0)


def _subsets(names: list[str]) -> list[tuple[str, ...]]:
    """Sets of modalities, larger ones first."""
    sizes: Sequence[int] = range(len(names), 0, -1)
    if 2 ** len(names) - 1 > _MAX_SUBSETS:
        sizes = sorted({len(names), len(names) - 1, 1}, reverse=True)
    return [part for size in sizes for part in itertools.combinations(names, size)]
