"""Predicts item embeddings from features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._feature_fit import (
    FeatureMap,
    Features,
    Standard,
    check_features,
    fit_maps,
)

_PENALTIES = tuple(10.0**power for power in range(3, -4, -1))


class FeatureMapper:
    r"""Predicts item embeddings from modality features: the item embeddings of a
    model, distilled into ridge regressions.

    .. math::
        \hat{\mathbf{v}} = \mathbf{W}_P^{\top} \mathbf{z}_P + \mathbf{b}_P, \quad
        \mathbf{W}_P = \arg\min_{\mathbf{W}} \sum_i \lVert \mathbf{v}_i - \mathbf{b}_P -
        \mathbf{W}^{\top} \mathbf{z}_{i,P} \rVert^2 + \lambda_P \lVert \mathbf{W}
        \rVert^2

    with :math:`\mathbf{z}` the standardized features and :math:`P` the modalities of
    an item. Each set :math:`P` (all sets up to three modalities; else all together,
    all but one, and each alone) has its own map, so a missing picture is not replaced
    by the average picture. Maps are fitted on items with interactions only, because
    the embeddings of other items were not trained.

    Predictions vary less between items than trained embeddings do, so a new item
    seldom outranks a popular known one. To rank new items among themselves, pass them
    as ``allow`` to :meth:`Recommender.recommend`.

    Args:
        channels: The width of each modality, in the order of the features.
        mean: Mean per modality, ``[F_m]``.
        scale: Scale per modality, ``[F_m]``; differences to the mean are multiplied by
            it.
        maps: The maps, those of more modalities first.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(40, 3, generator=generator)
        >>> item_x = x @ torch.randn(3, 2, generator=generator)
        >>> seen = torch.stack([torch.arange(40) % 8, torch.arange(40)])
        >>> user_x = torch.randn(8, 2, generator=generator)
        >>> mapper = FeatureMapper.fit({'text': x}, item_x, user_x=user_x, seen=seen)
        >>> mapper({'text': x[:5]}).size()
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
        self._standard = Standard(self.channels, dict(mean), dict(scale))
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
    ) -> 'FeatureMapper':
        """Fits the maps in closed form.

        The penalty of each map is the one whose predictions for held-out items rank
        these items best for the users who interacted with them, among all items that
        the users have not seen. The map is then fitted on all items.

        Args:
            modality_x: Features ``[num_items, F_m]``, not standardized.
            item_x: The embeddings to predict, ``[num_items, D]``.
            user_x: User embeddings ``[num_users, D]``.
            seen: Training interactions, as seen items or as edges ``[2, E]``.
            modality_mask: Boolean ``[num_items]``, ``True`` where an item has the
                modality. (default: everywhere)
            penalties: Candidate penalties, in units of the mean eigenvalue of the
                features' covariance. (default: powers of ten from 0.001 to 1000)
            held_out: The fraction of items that is held out. (default: ``0.2``)
            seed: Seed of the choice of held-out items. (default: ``0``)

        Raises:
            ValueError: If sizes do not match, a present feature is not finite, or no
                modality has ten items with interactions.
        """
        standard, maps = fit_maps(
            modality_x,
            item_x,
            user_x=user_x,
            seen=seen,
            modality_mask=modality_mask,
            penalties=penalties,
            held_out=held_out,
            seed=seed,
        )
        return cls(*standard, maps)

    def __call__(
        self,
        modality_x: Features,
        modality_mask: Features | None = None,
    ) -> Tensor:
        """Item embeddings ``[N, D]``, on the CPU and in single precision.

        Args:
            modality_x: Features ``[N, F_m]``; modalities may be left out.
            modality_mask: Boolean ``[N]``, ``True`` where an item has the modality.
                (default: everywhere)

        Raises:
            ValueError: If a modality is unknown or of another width, a present
                feature is not finite, or an item has no modality.
        """
        out, missing = self.predict(modality_x, modality_mask)
        if missing.any():
            raise ValueError(
                f"'modality_mask' must leave every item a modality of "
                f'{[list(part.modalities) for part in self.maps]} (got none in row '
                f'{int(missing.nonzero()[0])}, {int(missing.sum())} such rows in all)'
            )
        return out

    def predict(
        self,
        modality_x: Features,
        modality_mask: Features | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As the call itself, but items without a modality get zeros and are ``True``
        in the second tensor, ``[N]``.
        """
        features, present = check_features(modality_x, modality_mask, self.channels)
        z = {name: self._standard.apply(name, x) for name, x in features.items()}
        num_rows = next(iter(z.values())).size(0)
        out = torch.zeros(num_rows, self.width)
        missing = torch.ones(num_rows, dtype=torch.bool)
        for part in self.maps:
            if not set(part.modalities) <= set(z):
                continue
            rows = torch.stack([missing, *(present[name] for name in part.modalities)])
            index = rows.all(0).nonzero().view(-1)
            inputs = torch.cat([z[name][index] for name in part.modalities], 1)
            out[index] = inputs @ part.weight + part.bias
            missing[index] = False
        return out, missing

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        return self.maps[0].bias.numel()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name and the rest as JSON, for :meth:`from_state`."""
        tensors = {}
        channels, mean, scale = self._standard
        for number, name in enumerate(channels):
            tensors[f'feature_mapper.mean.{number}'] = mean[name]
            tensors[f'feature_mapper.scale.{number}'] = scale[name]
        for number, part in enumerate(self.maps):
            tensors[f'feature_mapper.weight.{number}'] = part.weight
            tensors[f'feature_mapper.bias.{number}'] = part.bias
        return tensors, {
            'channels': [[name, width] for name, width in channels.items()],
            'maps': [
                [list(part.modalities), part.penalty, part.gain, part.baseline]
                for part in self.maps
            ],
        }

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], rest: Any) -> 'FeatureMapper':
        """Restores a mapper from :meth:`state`.

        Raises:
            ValueError: If the parts do not fit each other.
        """
        try:
            standard, maps = Standard(dict(rest['channels']), {}, {}), []
            for number, name in enumerate(standard.channels):
                standard.mean[name] = tensors[f'feature_mapper.mean.{number}']
                standard.scale[name] = tensors[f'feature_mapper.scale.{number}']
            for number, (names, *scores) in enumerate(rest['maps']):
                weight = tensors[f'feature_mapper.weight.{number}']
                bias = tensors[f'feature_mapper.bias.{number}']
                penalty, gain, baseline = (float(score) for score in scores)
                names = tuple(names)
                maps.append(FeatureMap(names, weight, bias, penalty, gain, baseline))
            mapper = cls(*standard, maps)
            mapper._check()
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f'a part of the feature mapper is missing: {error}'
            ) from error
        return mapper

    def _check(self) -> None:
        """Raises unless shapes fit each other and all numbers are finite floats."""
        channels, mean, scale = self._standard
        wrong = [
            name
            for name, width in channels.items()
            if not list(mean[name].shape) == list(scale[name].shape) == [width]
        ]
        for part in self.maps:
            width = sum(channels[name] for name in part.modalities)
            shapes = [list(part.weight.shape), list(part.bias.shape)]
            if shapes != [[width, self.width], [self.width]]:
                wrong.append(' + '.join(part.modalities))
        tensors = self.state()[0]
        wrong += [key for key, x in tensors.items() if x.dtype != torch.float32]
        wrong += [key for key, x in tensors.items() if not x.isfinite().all()]
        if wrong or not self.maps:
            raise ValueError(f'the parts of the feature mapper do not match: {wrong}')

    def __repr__(self) -> str:
        channels = self.channels.items()
        sizes = ', '.join(f'{name}: {width}' for name, width in channels)
        return f'{type(self).__name__}({{{sizes}}} -> {self.width})'
