"""Rows from pictures by vision models."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from promptmm_pyg._reading import DAMAGE
from promptmm_pyg._utils import missing_extra
from promptmm_pyg.content.encoder import BROKEN, Rows, model_print, not_loaded
from promptmm_pyg.limits import PIXELS

Model = Callable[[Tensor], Tensor]  # [B, 3, H, W] to [B, width]
Preprocess = Callable[[Any], Tensor]  # A picture of PIL to [3, H, W]


class ImageEncoder:
    """Rows from pictures by any model that maps ``[B, 3, H, W]`` to ``[B, width]``.

    Pictures are rotated by their EXIF note and converted to RGB, transparent
    parts on white. One that cannot be read gives a row of NaN, and so is marked as
    absent.

    See :func:`~promptmm_pyg.content.torchvision_encoder` and
    :func:`~promptmm_pyg.content.timm_encoder` for whole models; CLIP is
    ``ImageEncoder(clip.encode_image, preprocess, width=512, name='ViT-B-32/...')``.

    Args:
        model: A module, put into evaluation mode, or any callable.
        preprocess: From a picture of PIL to a tensor ``[3, H, W]``, the same size
            for all.
        width: Numbers in a row.
        name: Identifies this model and its weights. A module's
            structure and weights are hashed in any case; other callables need a
            name. (default: none)
        device: Where the pictures are put; a module is moved there.
            (default: ``'cpu'``)

    Raises:
        ImportError: If pillow is not installed.
        ValueError: If the model is no module and has no name.
    """

    takes: Literal['files'] = 'files'

    def __init__(
        self,
        model: Model,
        preprocess: Preprocess,
        *,
        width: int,
        name: str | None = None,
        device: str | torch.device = 'cpu',
    ) -> None:
        _pillow()
        parts = [] if name is None else [name]
        if isinstance(model, torch.nn.Module):
            model = model.to(device).eval()
            parts.append(model_print(model))
        if not parts:
            raise ValueError(
                "'name' must identify the model and its weights, since "
                "'model' is no torch.nn.Module (got None)"
            )
        self.model = model
        self.preprocess = preprocess
        self.width = width
        self.device = torch.device(device)
        how = _describe(preprocess)
        self.fingerprint = f'images-v1 {" ".join(parts)} preprocess={how}'

    def __repr__(self) -> str:
        return f'{type(self).__name__}(width={self.width})'

    def encode(self, batch: Sequence[Path]) -> Rows:
        """Rows ``[len(batch), width]``, float32."""
        rows = np.full((len(batch), self.width), np.nan, np.float32)
        pictures = [(i, x) for i, path in enumerate(batch) if (x := self._open(path))]
        if pictures:
            x = torch.stack([self.preprocess(picture) for _, picture in pictures])
            with torch.inference_mode():
                out = self.model(x.to(self.device))
            rows[[i for i, _ in pictures]] = out.float().cpu().numpy()
        return rows

    def _open(self, path: Path) -> Any:
        image = _pillow()
        from PIL import ImageOps

        try:
            with image.open(path) as file:
                if file.width * file.height > PIXELS:
                    return None
                picture = ImageOps.exif_transpose(file)
                if picture.mode.startswith('I'):  # Sixteen bits of grey.
                    grey = np.asarray(picture, np.int64) >> 8
                    picture = image.fromarray(grey.clip(0, 255).astype(np.uint8))
                elif picture.mode not in ('RGB', 'L'):
                    picture = picture.convert('RGBA')
                    white = image.new('RGBA', picture.size, 'white')
                    picture = image.alpha_composite(white, picture)
                return picture.convert('RGB')
        # Broken files raise almost anything; a "bomb" is a small file that claims a
        # picture too large to hold.
        except (
            *(*DAMAGE, OSError, SyntaxError, EOFError, struct.error, MemoryError),
            image.DecompressionBombError,
        ):
            return None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra('ImageEncoder', 'pillow', 'content') from error
    return Image


def _describe(preprocess: Preprocess) -> str:
    text = repr(preprocess)
    # The default repr is an address, which differs from process to process.
    if ' at 0x' in text:
        kind = type(preprocess)
        named = getattr(preprocess, '__qualname__', kind.__qualname__)
        return f'{getattr(preprocess, "__module__", kind.__module__)}.{named}'
    return ' '.join(text.split())


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
