"""From what an item looks and reads like to its embedding."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._feature_fit import (
    FeatureMap,
    Standard,
    fit_maps,
    standardized,
)
from promptmm_pyg.serving._feature_state import from_state, to_state
from promptmm_pyg.serving._modalities import Features, check_modalities

_PENALTIES = tuple(10.0**power for power in range(3, -4, -1))


class FeatureMapper:
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
        >>> path = FeatureMapper.fit({'text': x}, item_x, user_x=user_x, seen=seen)
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
    ) -> 'FeatureMapper':
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
            name: standardized(x, self.mean[name], self.scale[name], present[name])
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
                f"'modality_mask' must leave every item a modality of "
                f'{[list(part.modalities) for part in self.maps]} (got none in row '
                f'{int(left.nonzero()[0])}, {int(left.sum())} such rows in all)'
            )
        return out

    @property
    def _standard(self) -> Standard:
        return Standard(self.channels, self.mean, self.scale)

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        return self.maps[0].bias.numel()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name and the rest as JSON, for :meth:`from_state`."""
        return to_state(self._standard, self.maps)

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], rest: Any) -> 'FeatureMapper':
        """What :meth:`state` was asked for.

        Raises:
            ValueError: If the parts do not fit each other.
        """
        standard, maps = from_state(tensors, rest)
        return cls(*standard, maps)

    def __repr__(self) -> str:
        sizes = ', '.join(f'{name}: {width}' for name, width in self.channels.items())
        return f'{type(self).__name__}({{{sizes}}} -> {self.width})'
