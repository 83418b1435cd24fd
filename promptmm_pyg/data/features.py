"""Modality features in files: arrays, presence masks and chunks on disk."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from promptmm_pyg._files import replacing
from promptmm_pyg._reading import DAMAGE, check_file
from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.limits import check_memory

Masks = Literal['zero-rows'] | None
FeaturePaths = Mapping[str, str | Path | None]
_SUFFIX = '_feat.npy'
_NPY = b'\x93NUMPY'


def load_features(
    folder: Path,
    places: Iterable[Path],
    features: FeaturePaths | None,
    padding_row: bool = False,
) -> dict[str, np.ndarray[Any, Any]]:
    """Returns ``{modality: array}`` of every ``<modality>_feat.npy`` found.

    Args:
        folder: Where relative paths in ``features`` start.
        places: The folders to search; the first that has a modality is used.
        features: Paths to add to those found or to replace them; ``None``
            leaves a modality out.
        padding_row: Whether the first row of each array is padding, which is left out.
            (default: ``False``)
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
    start = int(padding_row)
    return {name: load_array(path)[start:] for name, path in sorted(paths.items())}


def load_array(path: Path) -> np.ndarray[Any, Any]:
    """The array of one ``.npy`` file; pickled objects inside are refused."""
    array = read_npy(path)
    if array.ndim != 2 or array.dtype.kind not in 'fiub':
        raise ValueError(
            f"'{path}' must contain one matrix of numbers with one row per item (got "
            f'{array.dtype} {list(array.shape)[:10]})'
        )
    check_memory(f"'{path}'", array.nbytes, 'Use fewer columns, or float16')
    return np.array(array)


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """The array of a ``.npy`` file, mapped into memory; objects are refused.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or smaller than its header describes.
    """
    if check_file(path) == 0:
        raise ValueError(f"'{path}' must be a .npy file (got an empty file)")
    try:
        with path.open('rb') as file:
            if file.read(6) != _NPY:
                raise ValueError('another kind of file')
        # An array is mapped only if the file is as large as its header describes.
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode='r', allow_pickle=False)
    except (*DAMAGE, EOFError, SyntaxError, TokenError, OSError) as error:
        raise ValueError(
            f"'{path}' must be a whole .npy file of numbers (it cannot be read as "
            f'such: {str(error)[:200]}). It may be truncated, of another kind, or '
            f'hold objects, which are never loaded: write or fetch it again'
        ) from error
    return array


def zero_row_masks(
    features: Mapping[str, np.ndarray[Any, Any]], masks: Masks
) -> dict[str, np.ndarray[Any, Any]]:
    """A presence mask for each modality with rows of nothing but zeros."""
    check_choice('masks', masks, ('zero-rows', None))
    if masks is None:
        return {}
    present = {name: (x != 0).any(axis=1) for name, x in features.items()}
    return {name: mask for name, mask in present.items() if not mask.all()}


FORMAT = 'promptmm_pyg.features.v1'
Precision = Literal['float16', 'bfloat16', 'float32']
Rows = Tensor | np.ndarray[Any, Any]

_NAME = 'x'
_CODES = {'float16': 'F16', 'bfloat16': 'BF16', 'float32': 'F32'}
_HEADER = 1024  # Bytes; written last, in the place reserved for it.
_BLOCK_NUMBERS = 2**22


def save_features(
    path: str | Path,
    x: Rows | Iterable[Rows],
    *,
    precision: Precision = 'float16',
    belongs_to: str = '',
    block_rows: int | None = None,
) -> str:
    """Writes a feature matrix to one safetensors file, some rows at a time, and returns
    the SHA-256 of what it holds.

    With ``'float16'`` a number has eleven bits: its error is at most ``2 ** -11`` of
    it, or ``2 ** -25`` where that is more. ``'bfloat16'`` has eight bits and has the
    range of ``float32``.

    Args:
        path: The file to write; it appears whole or not at all.
        x: The features ``[N, F]``: a tensor, an array (also one that
            :func:`numpy.load` maps into memory), or blocks of rows one after another,
            for a matrix that does not fit into memory.
        precision: ``'float16'``, ``'bfloat16'`` or ``'float32'``.
            (default: ``'float16'``)
        belongs_to: What the row numbers mean, such as the
            :func:`~promptmm_pyg.data.fingerprint` of a graph; has to be given again to
            open the file. (default: ``''``, nothing)
        block_rows: Rows at a time. (default: as many as have about four million
            numbers)

    Raises:
        ValueError: If there is no row, widths differ, or a number is not finite or
            beyond the range of ``precision``.

    Example:
        >>> path = getfixture('tmp_path') / 'image.safetensors'
        >>> _ = save_features(path, torch.eye(3), block_rows=2)
        >>> open_features(path)[1]
        tensor([0., 1., 0.], dtype=torch.float16)
    """
    check_choice('precision', precision, _CODES)
    if block_rows is not None:
        check_positive('block_rows', block_rows)
    dtype: torch.dtype = getattr(torch, precision)
    digest = hashlib.sha256(precision.encode())
    num_rows, width = 0, None
    with replacing(path) as temporary, temporary.open('wb') as file:
        file.write(b' ' * _HEADER)
        for block in _blocks(x, block_rows):
            if width not in (None, block.size(1)):
                raise ValueError(
                    f"'x' requires blocks of one width (got {block.size(1)} columns "
                    f'after '
                    f'{width}, from row {num_rows} on)'
                )
            width = block.size(1)
            content = _bytes(block, dtype, num_rows)
            digest.update(content)
            file.write(content)
            num_rows += block.size(0)
        if num_rows == 0:
            raise ValueError("'x' requires at least one row (got none)")
        digest.update(json.dumps([num_rows, width]).encode())
        metadata = {
            'format': FORMAT,
            'sha256': digest.hexdigest(),
            'belongs_to': belongs_to,
        }
        file.seek(0)
        file.write(_header(metadata, _CODES[precision], (num_rows, cast(int, width))))
    return digest.hexdigest()


def open_features(
    path: str | Path,
    *,
    belongs_to: str | None = None,
    sha256: str | None = None,
    verify: bool = False,
) -> Tensor:
    """The features that :func:`save_features` wrote, ``[N, F]``, mapped into memory:
    rows are read from the file when they are used, and never written back.

    In half precision, models of this package take them as they are and read them in
    blocks of rows; in ``float32``, :class:`~promptmm_pyg.nn.ChunkedFeatures` makes
    them.

    Args:
        path: The file.
        belongs_to: What the file has to be bound to. (default: anything)
        sha256: What :func:`save_features` has to have returned. (default: anything)
        verify: Whether to read all of the file now, to see that it is as it was
            written. (default: ``False``)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, of another kind, bound to something else,
            of other content or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"'path' must be saved features (got {str(path)!r})")
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            x: Tensor = file.get_tensor(_NAME)
    except (SafetensorError, *DAMAGE, RuntimeError) as error:
        raise ValueError(
            f'{str(path)!r} is truncated or no safetensors file ({error}). Save the '
            f'features again'
        ) from error
    if metadata.get('format') != FORMAT or not {'belongs_to', 'sha256'} <= set(
        metadata
    ):
        raise ValueError(
            f"'path' must be saved features (got {str(path)!r} of format "
            f'{metadata.get("format")!r})'
        )
    wanted = {'belongs_to': belongs_to, 'sha256': sha256}
    for name, value in wanted.items():
        if value is not None and metadata[name] != value:
            raise ValueError(
                f"'{name}' must be that of the features in {str(path)!r}, "
                f'{metadata[name]!r} (got {value!r}). Save the features again, or open '
                f'the file of this data set'
            )
    if verify and _digest(x) != metadata['sha256']:
        raise ValueError(
            f'{str(path)!r} is not what was written (its content has another SHA-256). '
            f'Save the features again'
        )
    return x


def _blocks(x: Rows | Iterable[Rows], block_rows: int | None) -> Iterator[Tensor]:
    """Matrices of at most so many rows, with at least one."""
    parts: Iterable[Any] = [x] if isinstance(x, Tensor | np.ndarray) else x
    for part in parts:
        if part.ndim != 2 or part.shape[1] == 0:
            raise ValueError(
                f"'x' must be a matrix [N, F], or blocks of its rows (got shape "
                f'{list(part.shape)})'
            )
        size = block_rows or max(1, _BLOCK_NUMBERS // part.shape[1])
        for start in range(0, part.shape[0], size):
            block = part[start : start + size]
            if isinstance(block, np.ndarray):
                # A copy: arrays that are mapped read-only give no tensor.
                block = torch.from_numpy(np.array(block))
            yield block.detach().cpu()


def _bytes(block: Tensor, dtype: torch.dtype, start: int) -> bytes:
    stored = block.to(dtype).contiguous()
    lost = ~stored.isfinite().all(dim=1)
    if bool(lost.any()):
        row = int(lost.nonzero()[0])
        limit = torch.finfo(dtype).max
        raise ValueError(
            f"'x' requires finite numbers of at most {limit:.4g} in {dtype} (got "
            f'{float(block[row].abs().max())} in row {start + row}). Fill absent rows '
            f"with zeros, scale the features, or use precision='float32'"
        )
    return stored.view(torch.uint8).numpy().tobytes()


def _header(metadata: dict[str, str], code: str, shape: tuple[int, int]) -> bytes:
    num_bytes = shape[0] * shape[1] * (4 if code == 'F32' else 2)
    described = {
        '__metadata__': metadata,
        _NAME: {'dtype': code, 'shape': list(shape), 'data_offsets': [0, num_bytes]},
    }
    text = json.dumps(described).encode()
    room = _HEADER - 8
    if len(text) > room:
        raise ValueError(
            f"'belongs_to' must be a short name, such as a fingerprint (got "
            f'{len(metadata["belongs_to"])} characters)'
        )
    return room.to_bytes(8, 'little') + text.ljust(room)


def _digest(x: Tensor) -> str:
    digest = hashlib.sha256(str(x.dtype).removeprefix('torch.').encode())
    for block in _blocks(x, None):
        digest.update(block.contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(list(x.shape)).encode())
    return digest.hexdigest()
