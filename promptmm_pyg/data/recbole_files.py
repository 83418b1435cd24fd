"""Which atomic file of a folder is what."""

from pathlib import Path
from typing import NamedTuple

from promptmm_pyg.data.inter_file import find_inter_file
from promptmm_pyg.data.split import TEST, TRAIN, VAL

_PARTS = {
    'train': TRAIN,
    'part1': TRAIN,
    'valid': VAL,
    'val': VAL,
    'dev': VAL,
    'part2': VAL,
    'test': TEST,
    'part3': TEST,
}


class AtomicFiles(NamedTuple):
    """The files that matter here."""

    folder: Path
    inter: dict[int, Path]  # by part; all in the first where there is no split
    came_with_split: bool
    item: Path | None
    user: Path | None


def find_atomic_files(folder: Path) -> AtomicFiles:
    """The files of a folder.

    A file of all interactions beside the files of a split is left alone.

    Raises:
        FileNotFoundError: If the folder, the interactions or a part is missing.
        ValueError: If there are two files for one purpose.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"'path' must be a folder (got '{folder}')")
    found = sorted(folder.glob('*.inter'))
    parts = _parts_of(folder, found)
    return AtomicFiles(
        folder,
        dict(sorted(parts.items())) or {TRAIN: find_inter_file(folder)},
        bool(parts),
        _at_most_one(folder, '.item'),
        _at_most_one(folder, '.user'),
    )


def _parts_of(folder: Path, found: list[Path]) -> dict[int, Path]:
    parts: dict[int, Path] = {}
    for path in found:
        name, _, part = path.name.removesuffix('.inter').rpartition('.')
        code = _PARTS.get(part)
        if not name or code is None:
            continue
        if code in parts:
            raise ValueError(
                f"'{folder}' must contain one file for each part of a split (got "
                f"'{parts[code].name}' and '{path.name}'). Keep one"
            )
        parts[code] = path
    missing = [name for name in ('train', 'test') if _PARTS[name] not in parts]
    if parts and missing:
        raise FileNotFoundError(
            f"'{folder}' must contain all parts of its split (got "
            f'{[path.name for path in parts.values()]}, without {missing}). Fetch the '
            f'missing file'
        )
    return parts


def _at_most_one(folder: Path, suffix: str) -> Path | None:
    found = sorted(folder.glob(f'*{suffix}'))
    if len(found) > 1:
        raise ValueError(
            f"'{folder}' must contain one '<name>{suffix}' (got "
            f'{[path.name for path in found]}). Keep one'
        )
    return found[0] if found else None
