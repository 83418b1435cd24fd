"""One reader for all folder formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.atomic_file import is_atomic
from promptmm_pyg.data.build import Duplicates
from promptmm_pyg.data.feature_files import FeaturePaths, Masks
from promptmm_pyg.data.readers import read_diffmm, read_mmrec, read_mmssl
from promptmm_pyg.data.recbole import read_recbole
from promptmm_pyg.data.split import Split

Format = Literal['auto', 'diffmm', 'mmssl', 'mmrec', 'recbole']

_READERS: dict[str, Callable[..., Split]] = {
    'diffmm': read_diffmm,
    'mmssl': read_mmssl,
    'mmrec': read_mmrec,
    'recbole': read_recbole,
}
_SIGNS = {
    'diffmm': ('trnMat.pkl',),
    'mmssl': (
        'train.json',
        'train_mat',
        'train_mat.pkl',
        '5-core/train.json',
        '5-core/train_mat',
        '5-core/train_mat.pkl',
    ),
    'mmrec': ('*.inter',),
    'recbole': ('*.inter',),
}


def read_dataset(
    path: str | Path,
    format: Format = 'auto',  # noqa: A002
    *,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
) -> Split:
    """Returns the split that a folder came with, whichever format it is in.

    A distributed split is never split again. See
    :func:`~promptmm_pyg.data.read_diffmm`,
    :func:`~promptmm_pyg.data.read_mmssl`,
    :func:`~promptmm_pyg.data.read_mmrec` and
    :func:`~promptmm_pyg.data.read_recbole`; the last also splits a folder that
    came without one.

    Args:
        path: The folder.
        format: ``'diffmm'``, ``'mmssl'``, ``'mmrec'``, ``'recbole'``, or
            ``'auto'`` to tell from the files that are there.
            (default: ``'auto'``)
        features: ``{modality: file}`` to add or replace, ``{modality: None}``
            to leave out. (default: all ``<modality>_feat.npy``)
        masks: ``'zero-rows'`` takes rows of nothing but zeros for missing;
            ``None`` takes every row as it is. (default: ``'zero-rows'``)
        duplicates: ``'error'``, or ``'drop'`` to keep a pair in the first part
            that has it. (default: ``'error'``)

    Raises:
        FileNotFoundError: If the folder or a file is missing, or no format
            fits.
        ValueError: If two formats fit, a file is damaged, or there is no split.
    """
    check_choice('format', format, ('auto', *_READERS))
    chosen = detect_format(Path(path)) if format == 'auto' else format
    reader = _READERS[chosen]
    return reader(path, features=features, masks=masks, duplicates=duplicates)


def detect_format(folder: Path) -> str:
    """The name of the format of a folder, told by its files."""
    if not folder.is_dir():
        raise FileNotFoundError(f"'path' must be a folder (got '{folder}')")
    found = [
        name
        for name, signs in _SIGNS.items()
        if any(_fits(name, path) for sign in signs for path in folder.glob(sign))
    ]
    if len(found) > 1:
        raise ValueError(
            f"'{folder}' must contain one format (got files of {found}). Choose with "
            f"format='{found[0]}'"
        )
    if not found:
        wanted = '; '.join(f'{k}: {", ".join(v)}' for k, v in _SIGNS.items())
        names = sorted(path.name for path in folder.iterdir())
        if len(names) > 10:
            names = [*names[:10], f'and {len(names) - 10} more']
        raise FileNotFoundError(
            f"'{folder}' must contain a known format (looked for {wanted}; got "
            f"{names}). Single tables are read by 'read_table' and named by their file"
        )
    return found[0]


def _fits(name: str, path: Path) -> bool:
    # MMRec and RecBole share the end of the name; types in the header differ.
    return path.suffix != '.inter' or is_atomic(path) == (name == 'recbole')
