"""Rows of numbers from pictures by a vision model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from promptmm_pyg.content.encoder import Rows
from promptmm_pyg.content.model_print import model_print

Model = Callable[[Tensor], Tensor]  # [B, 3, H, W] to [B, width]
Preprocess = Callable[[Any], Tensor]  # A picture of PIL to [3, H, W]


class ImageEncoder:
    """Rows from pictures by any model that maps ``[B, 3, H, W]`` to ``[B, width]``.

    Pictures are turned as their EXIF note says and brought to RGB, transparent
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
        name: What tells this model and its weights from others. A module's
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
                "'name' must say which model and weights these are, since "
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
                picture = ImageOps.exif_transpose(file)
                if picture.mode.startswith('I'):  # Sixteen bits of grey.
                    grey = np.asarray(picture, np.int64) >> 8
                    picture = image.fromarray(grey.clip(0, 255).astype(np.uint8))
                elif picture.mode not in ('RGB', 'L'):
                    picture = picture.convert('RGBA')
                    white = image.new('RGBA', picture.size, 'white')
                    picture = image.alpha_composite(white, picture)
                return picture.convert('RGB')
        # Broken files raise almost anything below these; a "bomb" is a small file
        # that claims a picture too large to hold.
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError):
            return None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "'ImageEncoder' requires 'pillow'. Install it with "
            "'pip install promptmm_pyg[content]'"
        ) from error
    return Image


def _describe(preprocess: Preprocess) -> str:
    text = repr(preprocess)
    # The default repr is an address, which differs from process to process.
    if ' at 0x' in text:
        kind = type(preprocess)
        named = getattr(preprocess, '__qualname__', kind.__qualname__)
        return f'{getattr(preprocess, "__module__", kind.__module__)}.{named}'
    return ' '.join(text.split())
