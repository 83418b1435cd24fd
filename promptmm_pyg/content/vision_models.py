"""Image encoders from the two packages of trained vision models."""

from typing import Any

from torch import nn

from promptmm_pyg.content._packages import BROKEN, not_loaded
from promptmm_pyg.content.images import ImageEncoder


def torchvision_encoder(
    name: str = 'vgg16', *, weights: str | None = 'DEFAULT', device: str = 'cpu'
) -> ImageEncoder:
    """Returns an encoder whose rows are what enters the last linear layer of a
    classifier of torchvision: 4096 numbers for VGG and AlexNet, as in the field's
    data sets, 2048 for ResNet-50.

    Args:
        name: A classifier in torchvision. (default: ``'vgg16'``)
        weights: A name of its weights, fetched on first use, or ``None`` for
            random ones. (default: ``'DEFAULT'``)
        device: Where it runs. (default: ``'cpu'``)

    Raises:
        ImportError: If torchvision is not installed or made for another torch.
        ValueError: If there is no such model or weights, or it has no linear layer.
    """
    try:
        from torchvision import models
    except BROKEN as error:
        raise not_loaded('torchvision_encoder', 'torchvision', error) from error
    if name not in models.list_models(module=models):
        raise ValueError(
            f"'name' must be a classifier in torchvision (got '{name}'). See "
            f"'torchvision.models.list_models'"
        )
    known = models.get_model_weights(name)
    try:
        chosen = None if weights is None else known[weights]
    except KeyError as error:
        names = [member.name for member in known]
        raise ValueError(
            f"'weights' must be 'DEFAULT', one of {names} or None (got '{weights}')"
        ) from error
    # How pictures were cut and scaled in training is noted with the weights.
    preprocess = (chosen or known['DEFAULT']).transforms()
    model = models.get_model(name, weights=chosen)
    width = _cut_last_linear(model)
    return ImageEncoder(model, preprocess, width=width, name=name, device=device)


def timm_encoder(
    name: str, *, pretrained: bool = True, device: str = 'cpu'
) -> ImageEncoder:
    """Returns an encoder whose rows are the pooled features of a model of timm.

    Args:
        name: A model in timm; its weights are fetched on first use.
        pretrained: Whether to use them, or random ones. (default: ``True``)
        device: Where it runs. (default: ``'cpu'``)

    Raises:
        ImportError: If timm, or the torchvision that it needs, cannot be loaded.
    """
    try:
        import timm
    except BROKEN as error:
        raise not_loaded('timm_encoder', 'timm', error) from error
    model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    settings = timm.data.resolve_model_data_config(model)
    preprocess = timm.data.create_transform(**settings, is_training=False)
    width = int(model.num_features)
    return ImageEncoder(model, preprocess, width=width, name=name, device=device)


def _cut_last_linear(model: nn.Module) -> int:
    """Puts nothing in place of the last linear layer; how many numbers enter it."""
    linear = [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
    ]
    if not linear:
        raise ValueError(
            "'name' must be a model that ends in a linear layer (got none in "
            f'{type(model).__name__}). Cut it yourself for ImageEncoder'
        )
    name, last = linear[-1]
    parent, _, child = name.rpartition('.')
    holder: Any = model.get_submodule(parent)
    setattr(holder, child, nn.Identity())
    return last.in_features
