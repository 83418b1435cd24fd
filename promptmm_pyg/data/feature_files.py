"""Modality features that lie beside the interactions as ``.npy`` files."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from promptmm_pyg._utils import check_choice

Masks = Literal['zero-rows'] | None
FeaturePaths = Mapping[str, str | Path | None]
_SUFFIX = '_feat.npy'


def load_features(
    folder: Path, places: Iterable[Path], features: FeaturePaths | None
) -> dict[str, np.ndarray[Any, Any]]:
    """Returns ``{modality: array}`` of every ``<modality>_feat.npy`` found.

    Args:
        folder: Where relative paths in ``features`` start.
        places: The folders to look into; the first that has a modality wins.
        features: Paths to add or put in place of those found; ``None`` as a
            path leaves a modality out.
    """
    paths: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.glob(f'*{_SUFFIX}')):
            name = re.sub(r'\W', '_', path.name.removesuffix(_SUFFIX))
            paths.setdefault(name, path)
    for name, given in (features or {}).items():
        paths.pop(name, None)
        if given is not None:
            paths[name] = folder / given
    return {name: load_array(path) for name, path in sorted(paths.items())}


def load_array(path: Path) -> np.ndarray[Any, Any]:
    """The array of one ``.npy`` file; pickled objects inside are refused."""
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' must be a file of features (got none)")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"'{path}' must be a whole .npy file of numbers (it cannot be read as "
            f'such). It may be truncated, of another kind, or hold objects, which are '
            f'never loaded: write or fetch it again'
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise ValueError(f"'{path}' must contain one matrix, an item a row")
    return array


def zero_row_masks(
    features: Mapping[str, np.ndarray[Any, Any]], masks: Masks
) -> dict[str, np.ndarray[Any, Any]]:
    """A presence mask for each modality with rows of nothing but zeros."""
    check_choice('masks', masks, ('zero-rows', None))
    if masks is None:
        return {}
    present = {name: (x != 0).any(axis=1) for name, x in features.items()}
    return {name: there for name, there in present.items() if not there.all()}
