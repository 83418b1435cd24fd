"""Distributed data sets with the split that they came with."""

import json
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from promptmm_pyg.data.build import Duplicates, build_graph, merge_repeats
from promptmm_pyg.data.features import (
    FeaturePaths,
    Masks,
    load_features,
    zero_row_masks,
)
from promptmm_pyg.data.mmrec import find_inter_file, read_inter_file, read_mapping
from promptmm_pyg.data.safe_pickle import load_sparse_pickle
from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.data.split import Split, split_by_part


def read_user_lists(path: Path) -> np.ndarray[Any, Any]:
    """The pairs ``[2, E]`` in a file ``{"user": [item, ...]}`` of numbers.

    Raises:
        ValueError: If the file is not such an object.
    """
    try:
        lists = json.loads(path.read_bytes())
        users = np.array([int(user) for user in lists], dtype=np.int64)
        counts = [len(items) for items in lists.values()]
        items = np.array(list(chain.from_iterable(lists.values())))
        if not len(items):
            return np.zeros((2, 0), dtype=np.int64)
        if items.dtype.kind not in 'iu' or items.ndim != 1:
            raise ValueError('items that are not whole numbers')
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{path}' must contain '{{\"user\": [item, ...]}}' with whole numbers "
            f'(got {error}). If it is truncated, fetch the file again'
        ) from error
    return np.stack([np.repeat(users, counts), items.astype(np.int64)])


_PARTS = ('train', 'val', 'test')
_DIFFMM = ('trnMat.pkl', 'valMat.pkl', 'tstMat.pkl')


class Pairs(NamedTuple):
    """Interactions with the part of the split that each belongs to."""

    edges: np.ndarray[Any, Any]  # [2, E]
    part: np.ndarray[Any, Any]  # [E]
    time: np.ndarray[Any, Any] | None = None  # [E]
    weight: np.ndarray[Any, Any] | None = None  # [E]

    def merged(self, num_items: int, duplicates: Duplicates) -> 'Pairs':
        """Without repeated pairs; ``'error'`` leaves them for ``build_graph``."""
        if duplicates == 'error':
            return self
        columns = [None if x is None else torch.from_numpy(x) for x in self[2:]]
        edges = torch.from_numpy(self.edges)
        merged = merge_repeats(edges, num_items, duplicates, *columns)
        assert not isinstance(merged, int)
        rows = slice(None) if merged.rows is None else merged.rows.numpy()
        time, weight = (None if x is None else x.numpy() for x in merged[1:])
        return Pairs(self.edges[:, rows], self.part[rows], time, weight)


class _Options(NamedTuple):
    features: FeaturePaths | None
    masks: Masks
    duplicates: Duplicates


def read_diffmm(
    path: str | Path,
    *,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
) -> Split:
    """Returns the split of a DiffMM folder: ``trnMat.pkl``, ``valMat.pkl`` and
    ``tstMat.pkl`` (scipy matrices, read without running the pickle) and every
    ``<modality>_feat.npy``.

    Raw ids are the row and column numbers, as strings.

    Args:
        path: The folder.
        features: ``{modality: file}``, relative to the folder, to add or to
            put in place of what is found; ``None`` leaves a modality out.
            (default: all that is found)
        masks: ``'zero-rows'`` takes rows of nothing but zeros for missing;
            ``None`` takes every row as it is. (default: ``'zero-rows'``)
        duplicates: what to do with repeated pairs, as in
            :func:`~promptmm_pyg.data.build_graph`; ``'first'`` keeps a pair in the
            first part that has it (training, validation, test). (default: ``'error'``)

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, holds something else, or the files do
            not fit together.
    """
    folder = _folder(path)
    files = [_existing(folder / name) for name in _DIFFMM]
    options = _Options(features, masks, duplicates)
    return _from_matrices(folder, [folder], files, options)


def read_mmssl(
    path: str | Path,
    *,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
) -> Split:
    """Returns the split of an MMSSL, LATTICE or PromptMM folder:
    ``train.json``, ``val.json``, ``test.json`` (``{user: [items]}``), or the
    pickled matrices ``train_mat``, ``val_mat``, ``test_mat``, and every
    ``<modality>_feat.npy``; all in the folder or in ``5-core`` under it.

    Where both are there, the json files are read. Raw ids are the numbers in
    the files, as strings.

    Args:
        path: The folder.
        features: As in :func:`read_diffmm`.
        masks: As in :func:`read_diffmm`.
        duplicates: As in :func:`read_diffmm`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, holds something else, or the files do
            not fit together.
    """
    folder = _folder(path)
    options = _Options(features, masks, duplicates)
    places = [place for place in (folder, folder / '5-core') if place.is_dir()]
    for place in places:
        if (place / 'train.json').is_file():
            files = [_existing(place / f'{part}.json') for part in _PARTS]
            pairs = [read_user_lists(file) for file in files]
            return _build(folder, places, pairs, None, options)
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
) -> Split:
    """Returns the split of an MMRec folder: one ``<name>.inter`` (tab-separated
    with ``userID``, ``itemID``, ``x_label`` 0, 1 or 2, and perhaps
    ``timestamp``, which is kept as ``time``) and every ``<modality>_feat.npy``.

    Raw ids are those of ``u_id_mapping.csv`` and ``i_id_mapping.csv`` where they
    lie beside it, else the numbers in the files, as strings. MMRec writes a row of
    zeros for a feature that it lacks, so such rows are masked by default.

    Args:
        path: The folder.
        features: As in :func:`read_diffmm`.
        masks: As in :func:`read_diffmm`.
        duplicates: As in :func:`read_diffmm`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, holds something else, or the files do
            not fit together.
    """
    folder = _folder(path)
    table = read_inter_file(find_inter_file(folder))
    options = _Options(features, masks, duplicates)
    pairs = [table.pairs[:, table.part == code] for code in range(3)]
    time = None
    if table.time is not None:
        time = np.concatenate([table.time[table.part == code] for code in range(3)])
    return _build(folder, [folder], pairs, None, options, time, mapped=True)


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
    pairs = [np.stack([matrix.row, matrix.col]) for matrix in matrices]
    return _build(folder, places, pairs, matrices[0].shape, options)


def _build(
    folder: Path,
    places: list[Path],
    pairs: list[np.ndarray[Any, Any]],
    shape: tuple[int, int] | None,
    options: _Options,
    time: np.ndarray[Any, Any] | None = None,
    mapped: bool = False,
) -> Split:
    arrays = load_features(folder, places, options.features)
    edges = np.concatenate(pairs, axis=1)
    part = np.repeat([0, 1, 2], [pair.shape[1] for pair in pairs])
    if edges.size == 0:
        raise ValueError(f"'{folder}' must contain interactions (got none)")
    num_users, num_items = shape or tuple((edges.max(axis=1) + 1).tolist())
    if shape is None and arrays:  # Items that nobody has touched have features.
        num_items = max(num_items, *(len(x) for x in arrays.values()))
    user_ids = [str(user) for user in range(num_users)]
    item_ids = [str(item) for item in range(num_items)]
    if mapped:
        user_ids = read_mapping(folder, USER, num_users)
        item_ids = read_mapping(folder, ITEM, num_items)
        num_users, num_items = len(user_ids), len(item_ids)
    merged = Pairs(edges, part, time).merged(num_items, options.duplicates)
    edges, part, time = merged.edges, merged.part, merged.time
    try:
        graph = build_graph(
            edges,
            num_users=num_users,
            num_items=num_items,
            item_features=arrays,
            item_masks=zero_row_masks(arrays, options.masks),
            user_ids=user_ids,
            item_ids=item_ids,
            edge_time=time,
            edge_weight=merged.weight,
        )
    except ValueError as error:
        raise ValueError(f"'{folder}' does not fit together: {error}") from error
    return split_by_part(graph, torch.from_numpy(part))
