"""Distributed data sets with the split that they came with."""

import json
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg.data.build import Duplicates, build_graph, check_size
from promptmm_pyg.data.features import (
    FeaturePaths,
    Masks,
    load_features,
    zero_row_masks,
)
from promptmm_pyg.data.interactions import Where
from promptmm_pyg.data.mmrec import (
    Pairs,
    find_inter_file,
    read_inter_file,
    read_mapping,
)
from promptmm_pyg.data.safe_pickle import load_sparse_pickle
from promptmm_pyg.data.schema import ITEM, NODE_TYPES
from promptmm_pyg.data.split import Split, split_by_part


def read_user_lists(path: Path) -> np.ndarray[Any, Any]:
    """The pairs ``[2, E]`` in a file ``{"user": [item, ...]}`` of numbers.

    Raises:
        ValueError: If the file is not such an object.
    """
    try:
        lists = json.loads(path.read_bytes())
        users = np.array([_number(user) for user in lists], dtype=np.int64)
        counts = [len(items) for items in lists.values()]
        items = np.array(list(chain.from_iterable(lists.values())))
        if not len(items):
            return np.zeros((2, 0), dtype=np.int64)
        if items.dtype.kind not in 'iu' or items.ndim != 1:
            raise ValueError('items that are not whole numbers')
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' must contain '{{\"user\": [item, ...]}}' with whole numbers "
            f'(got {error}). If it is truncated, fetch the file again'
        ) from error
    return np.stack([np.repeat(users, counts), items.astype(np.int64)])


def _number(user: str) -> int:
    if str(int(user)) != user:  # '07' and '7' are not one user.
        raise ValueError(f'the user {user!r}')
    return int(user)


_PARTS = ('train', 'val', 'test')
_DIFFMM = ('trnMat.pkl', 'valMat.pkl', 'tstMat.pkl')


class _Options(NamedTuple):
    features: FeaturePaths | None
    masks: Masks
    duplicates: Duplicates
    padding_row: bool


def read_diffmm(
    path: str | Path,
    *,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    padding_row: bool = False,
) -> Split:
    """Returns the split of a DiffMM folder: ``trnMat.pkl``, ``valMat.pkl`` and
    ``tstMat.pkl`` (scipy matrices, read without running the pickle) and every
    ``<modality>_feat.npy``.

    Raw ids are the row and column numbers, as strings.

    Args:
        path: The folder.
        features: ``{modality: file}``, relative to the folder, to add to
            those found or to replace them; ``None`` leaves a modality out.
            (default: all in the folder)
        masks: ``'zero-rows'`` treats rows of zeros as missing, ``None``
            reads every row as it is. (default: ``'zero-rows'``)
        duplicates: what to do with repeated pairs, as in
            :func:`~promptmm_pyg.data.build_graph`; ``'first'`` keeps a pair in the
            first part that has it (training, validation, test). (default: ``'error'``)
        padding_row: Whether the first row of features is padding, which is left out.
            (default: ``False``)

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, is of another kind, or the files do
            not fit together.
    """
    folder = _folder(path)
    files = [_existing(folder / name) for name in _DIFFMM]
    options = _Options(features, masks, duplicates, padding_row)
    return _from_matrices(folder, [folder], files, options)


def read_mmssl(
    path: str | Path,
    *,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    padding_row: bool = False,
) -> Split:
    """Returns the split of an MMSSL, LATTICE or PromptMM folder:
    ``train.json``, ``val.json``, ``test.json`` (``{user: [items]}``), or the
    pickled matrices ``train_mat``, ``val_mat``, ``test_mat``, and every
    ``<modality>_feat.npy``; all in the folder or in ``5-core`` under it.

    Where a folder has both, the json files are read. Raw ids are the numbers in
    the files, as strings.

    Args:
        path: The folder.
        features: As in :func:`read_diffmm`.
        masks: As in :func:`read_diffmm`.
        duplicates: As in :func:`read_diffmm`.
        padding_row: As in :func:`read_diffmm`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, is of another kind, or the files do
            not fit together.
    """
    folder = _folder(path)
    options = _Options(features, masks, duplicates, padding_row)
    places = [place for place in (folder, folder / '5-core') if place.is_dir()]
    for place in places:
        if (place / 'train.json').is_file():
            files = [_existing(place / f'{part}.json') for part in _PARTS]
            parts = [read_user_lists(file) for file in files]
            return _build(folder, places, _joined(parts), options)
    for place in places:
        for suffix in ('', '.pkl'):
            if (place / f'train_mat{suffix}').is_file():
                files = [_existing(place / f'{part}_mat{suffix}') for part in _PARTS]
                return _from_matrices(folder, places, files, options)
    raise FileNotFoundError(
        f"'{folder}' must contain train.json or train_mat, or have them in 5-core "
        f'(got {_listing(folder)})'
    )


def read_mmrec(
    path: str | Path,
    *,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    padding_row: bool = False,
    min_rating: float | None = None,
    rating: str = 'rating',
    weight: str | None = None,
    where: Where | None = None,
) -> Split:
    """Returns the split of an MMRec folder: one ``<name>.inter`` (tab-separated
    with ``userID``, ``itemID``, ``x_label`` 0, 1 or 2, and perhaps
    ``timestamp``, the ``time`` of the interactions) and every ``<modality>_feat.npy``.

    Raw ids are those of ``u_id_mapping.csv`` and ``i_id_mapping.csv`` if the folder has
    them, else the numbers in the files, as strings. MMRec writes a row of zeros for
    a missing feature, so such rows are masked by default.

    Args:
        path: The folder.
        features: As in :func:`read_diffmm`.
        masks: As in :func:`read_diffmm`.
        duplicates: As in :func:`read_diffmm`.
        padding_row: As in :func:`read_diffmm`.
        min_rating: As in :func:`~promptmm_pyg.data.load_dataset`. (default: all count)
        rating: The column of ratings, for ``min_rating``. (default: ``'rating'``)
        weight: As in :func:`~promptmm_pyg.data.load_dataset`. (default: none)
        where: As in :func:`~promptmm_pyg.data.load_dataset`. (default: all rows)

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, is of another kind, or the files do
            not fit together.
    """
    folder = _folder(path)
    options = _Options(features, masks, duplicates, padding_row)
    pairs = read_inter_file(
        find_inter_file(folder),
        where=where,
        min_rating=min_rating,
        rating=rating,
        weight=weight,
    )
    return _build(folder, [folder], pairs, options, mapped=True)


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"'path' must be a folder (got '{folder}')")
    return folder


def _listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"'{path.parent}' must contain '{path.name}' (got "
            f'{_listing(path.parent)}). Fetch the missing file'
        )
    return path


def _from_matrices(
    folder: Path, places: list[Path], files: list[Path], options: _Options
) -> Split:
    matrices = [load_sparse_pickle(file) for file in files]
    shapes = {file.name: m.shape for file, m in zip(files, matrices, strict=True)}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"The matrices in '{folder}' must have one shape (got {shapes})"
        )
    parts = [np.stack([matrix.row, matrix.col]) for matrix in matrices]
    return _build(folder, places, _joined(parts), options, matrices[0].shape)


def _joined(parts: list[np.ndarray[Any, Any]]) -> Pairs:
    """The pairs of training, validation and test as one."""
    sizes = [pairs.shape[1] for pairs in parts]
    return Pairs(np.concatenate(parts, axis=1), np.repeat([0, 1, 2], sizes))


def _build(
    folder: Path,
    places: list[Path],
    pairs: Pairs,
    options: _Options,
    shape: tuple[int, int] | None = None,
    mapped: bool = False,
) -> Split:
    """The split of numbered users and items.

    Args:
        folder: The data set.
        places: The folders of its features.
        pairs: Its interactions.
        options: How to read it.
        shape: The numbers of users and items. (default: from the largest ones)
        mapped: Whether tables in the folder have the raw ids. (default: ``False``)
    """
    if pairs.edges.size == 0:
        raise ValueError(f"'{folder}' must contain interactions (got none)")
    arrays = load_features(folder, places, options.features, options.padding_row)
    counts = list(shape or (pairs.edges.max(axis=1) + 1).tolist())
    rows = max((len(x) for x in arrays.values()), default=0)
    if shape is None:  # Items without interactions have features.
        counts[1] = max(counts[1], rows)
    ids = []
    for node_type, count in zip(NODE_TYPES, counts, strict=True):
        num_rows = pairs.edges.shape[1] + (rows if node_type == ITEM else 0)
        try:
            check_size(f'num_{node_type}s', count, num_rows)
        except ValueError as error:
            raise ValueError(f"'{folder}': {error}") from error
        numbers = [str(i) for i in range(count)]
        ids.append(read_mapping(folder, node_type, count) if mapped else numbers)
    graph = build_graph_of(
        folder,
        pairs,
        options.duplicates,
        item_features=arrays,
        item_masks=zero_row_masks(arrays, options.masks),
        user_ids=ids[0],
        item_ids=ids[1],
    )
    return split_by_part(graph)


def build_graph_of(
    folder: Path, pairs: Pairs, duplicates: Duplicates, **options: Any
) -> HeteroData:
    """The graph of all parts of a data set.

    Args:
        folder: The data set, for messages.
        pairs: Its interactions.
        duplicates: What to do with repeated pairs, also across parts.
        **options: For :func:`~promptmm_pyg.data.build_graph`.
    """
    try:
        return build_graph(
            pairs.edges,
            edge_time=pairs.time,
            edge_weight=pairs.weight,
            edge_part=pairs.part,
            duplicates=duplicates,
            **options,
        )
    except ValueError as error:
        raise ValueError(f"'{folder}' does not fit together: {error}") from error
