"""Features of new items from files, brought into one order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from promptmm_pyg.cli.data_source import read_ids
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.data.frames import load_item_features

Array = np.ndarray[Any, Any]


class NewFeatures(NamedTuple):
    """What is known of new items."""

    ids: list[Any]
    modality_x: dict[str, Array]
    """Features ``[N, F_m]`` of single precision, zeros where there are none."""
    modality_mask: dict[str, Array]
    """Boolean ``[N]``, ``True`` where an item has the modality."""


def read_new_features(
    files: dict[str, Path],
    ids_file: str | None,
    item_column: str,
    contents: Mapping[str, tuple[list[Any], Array]] | None = None,
) -> NewFeatures:
    """Reads the features of new items.

    Args:
        files: By modality; ``.npy``, or a table with ids of its own.
        ids_file: The ids, in the order of ``.npy`` rows. (default: those of the
            tables, in the order in which they first occur)
        item_column: The column of ids in tables.
        contents: By modality, ids with rows that were encoded already.
            (default: none)

    Raises:
        UserError: If files do not fit each other, or an item has no features.
    """
    tables = dict(contents or {})
    for name, file in files.items():
        if not file.is_file():
            raise UserError(f"--features names a file that is not there: '{file}'")
        tables[name] = _load(name, file, ids_file, item_column)
    if ids_file is not None:
        ids = read_ids(ids_file)
    else:
        ids = list(dict.fromkeys(raw for own, _ in tables.values() for raw in own))
    if not ids:
        raise UserError('there are no new items in these files')
    if len(set(ids)) < len(ids):
        twice = next(raw for raw in ids if ids.count(raw) > 1)
        raise UserError(f"item '{twice}' stands twice in --ids")
    modality_x, masks = {}, {}
    for name, (own, x) in tables.items():
        modality_x[name], masks[name] = _in_order(name, own, x, ids)
    without = ~np.stack(list(masks.values())).any(axis=0)
    if without.any():
        raise UserError(
            f"item '{ids[int(without.argmax())]}' has no features in any file "
            f'({int(without.sum())} such items in all). Leave it out'
        )
    return NewFeatures(ids, modality_x, masks)


def _load(
    name: str, file: Path, ids_file: str | None, item_column: str
) -> tuple[list[Any], Array]:
    """The ids of a file and a row for each."""
    content = load_item_features(file, item_column)
    if isinstance(content, np.ndarray):
        if ids_file is None:
            raise UserError(f"'{file}' has no ids of its own: pass --ids FILE")
        own = read_ids(ids_file)
        if len(own) != len(content):
            raise UserError(
                f"'{file}' requires a row for each of the {len(own)} --ids (got "
                f'{len(content)})'
            )
        x = content
    else:
        own = content.index.tolist()
        x = content.to_numpy()
        if len(set(own)) < len(own):
            twice = content.index[content.index.duplicated()][0]
            raise UserError(f"item '{twice}' stands twice in '{file}'")
    if len(x) and x.dtype.kind not in 'fiu':
        raise UserError(f"the features of '{name}' must be numbers ('{file}')")
    return own, x.astype(np.float32)


def _in_order(
    name: str, own: list[Any], x: Array, ids: list[Any]
) -> tuple[Array, Array]:
    """Rows and presence in the order of ``ids``."""
    by_text = {str(raw): place for place, raw in enumerate(own)}
    unknown = set(by_text) - {str(raw) for raw in ids}
    if unknown:
        raise UserError(
            f"the features of '{name}' must be of items in --ids (got those of "
            f"'{min(unknown)}', {len(unknown)} unknown in all)"
        )
    out = np.zeros((len(ids), x.shape[1]), dtype=np.float32)
    place = np.array([by_text.get(str(raw), -1) for raw in ids])
    out[place >= 0] = x[place[place >= 0]]
    gaps = np.isnan(out)
    mask = (out != 0).any(axis=1) & ~gaps.all(axis=1)
    broken = mask & gaps.any(axis=1)
    if broken.any():
        raise UserError(
            f"the features of '{name}' have a gap in item "
            f"'{ids[int(broken.argmax())]}' ({int(broken.sum())} such items in all). "
            f'Fill it, or leave the whole row empty'
        )
    out[~mask] = 0.0
    return out, mask
