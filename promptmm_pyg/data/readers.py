"""Distributed data sets with the split that they came with."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch_geometric.data import HeteroData

from promptmm_pyg._reading import DAMAGE, check_parsed_size
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
from promptmm_pyg.data.split import PARTS, Split, split_by_part


def read_user_lists(path: Path) -> np.ndarray[Any, Any]:
    """The pairs ``[2, E]`` in a file ``{"user": [item, ...]}`` of numbers.

    Raises:
        ValueError: If the file is not such an object.
    """
    check_parsed_size(path)
    try:
        lists = json.loads(path.read_bytes())
        users = np.array([_number(user) for user in lists], dtype=np.int64)
        counts = [len(items) for items in lists.values()]
        items = np.array(list(chain.from_iterable(lists.values())))
        if not len(items):
            return np.zeros((2, 0), dtype=np.int64)
        if items.dtype.kind not in 'iu' or items.ndim != 1:
            raise ValueError('items that are not whole numbers')
    except DAMAGE as error:
        raise ValueError(
            f"'{path}' must contain '{{\"user\": [item, ...]}}' with whole numbers "
            f'(got {error}). If it is truncated, fetch the file again'
        ) from error
    return np.stack([np.repeat(users, counts), items.astype(np.int64)])


def _number(user: str) -> int:
    if str(int(user)) != user:  # '07' and '7' are not one user.
        raise ValueError(f'the user {user!r}')
    return int(user)


_DIFFMM = ('trnMat.pkl', 'valMat.pkl', 'tstMat.pkl')


def read_diffmm(folder: Path, **options: Any) -> Split:
    """The split of a DiffMM folder; its pickles are read without running them.

    Args:
        folder: The folder.
        **options: ``features``, ``masks``, ``duplicates`` and ``padding_row`` of
            :func:`~promptmm_pyg.data.load_dataset`.
    """
    files = [_existing(folder / name) for name in _DIFFMM]
    return _from_matrices(folder, [folder], files, options)


def read_mmssl(folder: Path, **options: Any) -> Split:
    """The split of an MMSSL, LATTICE or PromptMM folder, of its json files if it has
    matrices, too.
    """
    places = [place for place in (folder, folder / '5-core') if place.is_dir()]
    for place in places:
        if (place / 'train.json').is_file():
            files = [_existing(place / f'{part}.json') for part in PARTS]
            parts = [read_user_lists(file) for file in files]
            return _build(folder, places, _joined(parts), **options)
    for place in places:
        for suffix in ('', '.pkl'):
            if (place / f'train_mat{suffix}').is_file():
                files = [_existing(place / f'{part}_mat{suffix}') for part in PARTS]
                return _from_matrices(folder, places, files, options)
    raise FileNotFoundError(
        f"'{folder}' must contain train.json or train_mat, or have them in 5-core "
        f'(got {_listing(folder)})'
    )


def read_mmrec(
    folder: Path,
    *,
    min_rating: float | None = None,
    rating: str = 'rating',
    weight: str | None = None,
    where: Where | None = None,
    **options: Any,
) -> Split:
    """The split of an MMRec folder."""
    pairs = read_inter_file(
        find_inter_file(folder),
        where=where,
        min_rating=min_rating,
        rating=rating,
        weight=weight,
    )
    return _build(folder, [folder], pairs, mapped=True, **options)


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
    folder: Path, places: list[Path], files: list[Path], options: Mapping[str, Any]
) -> Split:
    matrices = [load_sparse_pickle(file) for file in files]
    shapes = {file.name: m.shape for file, m in zip(files, matrices, strict=True)}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"The matrices in '{folder}' must have one shape (got {shapes})"
        )
    parts = [np.stack([matrix.row, matrix.col]) for matrix in matrices]
    pairs = _joined(parts)
    return _build(folder, places, pairs, shape=matrices[0].shape, **options)


def _joined(parts: list[np.ndarray[Any, Any]]) -> Pairs:
    """The pairs of training, validation and test as one."""
    sizes = [pairs.shape[1] for pairs in parts]
    return Pairs(np.concatenate(parts, axis=1), np.repeat([0, 1, 2], sizes))


def _build(
    folder: Path,
    places: list[Path],
    pairs: Pairs,
    *,
    shape: tuple[int, int] | None = None,
    mapped: bool = False,
    features: FeaturePaths | None = None,
    masks: Masks = 'zero-rows',
    duplicates: Duplicates = 'error',
    padding_row: bool = False,
) -> Split:
    """The split of numbered users and items: so many as ``shape``, else as the largest
    ones. If ``mapped``, tables in the folder may have raw ids; features are in
    ``places``.
    """
    if pairs.edges.size == 0:
        raise ValueError(f"'{folder}' must contain interactions (got none)")
    arrays = load_features(folder, places, features, padding_row)
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
        duplicates,
        item_features=arrays,
        item_masks=zero_row_masks(arrays, masks),
        user_ids=ids[0],
        item_ids=ids[1],
    )
    return split_by_part(graph)


def build_graph_of(
    folder: Path, pairs: Pairs, duplicates: Duplicates, **options: Any
) -> HeteroData:
    """The graph of all parts of a data set; errors name its folder."""
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
