"""The feature path as tensors and JSON, and back once everything fits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.serving._feature_fit import FeatureMap, Standard


def to_state(
    standard: Standard, maps: list[FeatureMap]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and the rest as JSON."""
    tensors = {}
    for number, name in enumerate(standard.channels):
        tensors[f'feature_mapper.mean.{number}'] = standard.mean[name]
        tensors[f'feature_mapper.scale.{number}'] = standard.scale[name]
    for number, part in enumerate(maps):
        tensors[f'feature_mapper.weight.{number}'] = part.weight
        tensors[f'feature_mapper.bias.{number}'] = part.bias
    return tensors, {
        'channels': [[name, width] for name, width in standard.channels.items()],
        'maps': [
            [list(part.modalities), part.penalty, part.gain, part.baseline]
            for part in maps
        ],
    }


def from_state(
    tensors: Mapping[str, Tensor], rest: Any
) -> tuple[Standard, list[FeatureMap]]:
    """What :func:`to_state` was given.

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
            maps.append(FeatureMap(tuple(names), weight, bias, penalty, gain, baseline))
        _check(standard, maps)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f'a part of the feature path is missing: {error}') from error
    return standard, maps


def _check(standard: Standard, maps: list[FeatureMap]) -> None:
    wrong = [
        name
        for name, width in standard.channels.items()
        if not list(standard.mean[name].shape)
        == list(standard.scale[name].shape)
        == [width]
    ]
    for part in maps:
        width = sum(standard.channels[name] for name in part.modalities)
        shapes = [list(part.weight.shape), list(part.bias.shape)]
        out = maps[0].bias.numel()
        if shapes != [[width, out], [out]]:
            wrong.append(' + '.join(part.modalities))
    tensors = to_state(standard, maps)[0]
    wrong += [key for key, x in tensors.items() if x.dtype != torch.float32]
    wrong += [key for key, x in tensors.items() if not x.isfinite().all()]
    if wrong or not maps:
        raise ValueError(f'the feature path does not fit together: {wrong}')
