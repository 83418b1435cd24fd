"""The folder of a saved recommender. Reading it runs no code from it, and its tensors
are memory-mapped: what is never used stays on the disk.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from promptmm_pyg._files import (
    current,
    locked,
    replace_entries,
    temporary_folder,
    write_safetensors,
)
from promptmm_pyg._reading import checksum, read_tensors
from promptmm_pyg.ranking import ApproximateItems, SeenItems
from promptmm_pyg.serving._card import CARD, README, markdown
from promptmm_pyg.serving._ids import RawIds
from promptmm_pyg.serving._tables import Tables, Titles
from promptmm_pyg.serving._texts import Texts
from promptmm_pyg.serving.feature_mapper import FeatureMapper

FORMAT = 'promptmm_pyg.Recommender'
_INDEX_FORMAT = 'promptmm_pyg.ApproximateItems'
VERSION = 3
TENSORS = 'model.safetensors'
CONFIG = 'config.json'
INDEX = 'index.safetensors'
VERIFIED = 64 * 2**20
"""Bytes of the largest file of tensors that is read and compared by default."""
MAX_BYTES = 16 * 2**30
_MAX_CONFIG = 2**16
_FILES = (TENSORS, CARD)


class Artifact(NamedTuple):
    """The content of the folder."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    """The rest that is not in the card, as JSON values."""
    card: dict[str, Any]


class _Entry(NamedTuple):
    """The checksum and size that the configuration lists for a file."""

    sha256: str
    size: int


def write_artifact(path: Path, artifact: Artifact) -> None:
    """Writes tensors, ids, card and the configuration with their checksums.

    A crash at any time leaves the old or the new artifact.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"'path' must be a folder (got the file '{path}')")
    path.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path) as folder:
        staged = folder / 'new'
        staged.mkdir()
        _write_folder(staged, artifact)
        replace_entries(path, staged)


def _write_folder(path: Path, artifact: Artifact) -> None:
    metadata = {key: json.dumps(value) for key, value in artifact.state.items()}
    tensors = _separate(artifact.tensors)
    write_safetensors(path / TENSORS, tensors, metadata, has_checksum=True)
    (path / CARD).write_bytes(json.dumps(artifact.card, indent=2).encode())
    files = {}
    for name in _FILES:
        with (path / name).open('rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
        files[name] = {'bytes': (path / name).stat().st_size, 'sha256': digest}
    config = {'format': FORMAT, 'version': VERSION, 'files': files}
    # People may edit the page: it has no checksum and is never read.
    (path / README).write_bytes(markdown(artifact.card).encode())
    (path / CONFIG).write_bytes(json.dumps(config, indent=2).encode())


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU; the format refuses those that share memory."""
    separate: dict[str, Tensor] = {}
    pointers = set()
    for key, x in tensors.items():
        x = x.cpu().contiguous()
        if x.untyped_storage().nbytes() > x.nbytes or x.data_ptr() in pointers:
            x = x.clone()
        pointers.add(x.data_ptr())
        separate[key] = x
    return separate


def write_index(path: Path, item_x: Tensor, index: ApproximateItems) -> None:
    """Writes an index beside the tables, with the checksum of its items."""
    about = {'format': _INDEX_FORMAT, 'items': _digest(item_x)}
    write_safetensors(path / INDEX, index.state(), about)


def read_index(path: Path, item_x: Tensor, nprobe: int) -> ApproximateItems:
    """The index of :func:`write_index`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or belongs to other items.
    """
    file = current(path, INDEX)
    about, state = read_tensors(
        file, _INDEX_FORMAT, 'an index of items', lambda about, x: (about, x)
    )
    if about.get('items') != _digest(item_x):
        raise ValueError(
            f"'{file}' must be the index of these items (got that of others: items or "
            f"their embeddings have changed). Build it anew: 'index_items' and "
            f"'save_index', or --save-index"
        )
    return ApproximateItems.from_state(item_x, state, nprobe)


def _digest(item_x: Tensor) -> str:
    return checksum({'item_x': item_x}, {})


def read_artifact(
    path: Path, max_bytes: int, verify: bool | None
) -> tuple[Artifact, bool]:
    """Reads what :func:`write_artifact` wrote, also while it writes, and whether its
    tensors were compared with their checksum.
    """
    with locked(path, shared=True):
        return _read_folder(path, max_bytes, verify)


def _read_folder(
    path: Path, max_bytes: int, verify: bool | None
) -> tuple[Artifact, bool]:
    config, card_file, file = (current(path, x) for x in (CONFIG, CARD, TENSORS))
    entries = _read_config(config)
    with _opened(card_file, max_bytes, entries[CARD]) as opened:
        content = opened.read()
    _check_digest(card_file, entries[CARD], hashlib.sha256(content).hexdigest())
    card = _object(card_file, content)
    with _opened(file, max_bytes, entries[TENSORS]) as opened:
        if verify is None:
            verify = entries[TENSORS].size <= VERIFIED
        if verify:
            digest = hashlib.file_digest(opened, 'sha256').hexdigest()
            _check_digest(file, entries[TENSORS], digest)
        tensors, metadata = _map(file)
        # The open file has this number: what was mapped is what was checked.
        if file.stat().st_ino != os.fstat(opened.fileno()).st_ino:
            raise _mismatch(file, 'number')
    try:
        state = {key: _parse(text.encode()) for key, text in metadata.items()}
    except ValueError as error:
        raise ValueError(f"'{file}' has invalid metadata ({error})") from error
    return Artifact(tensors, state, card), verify


def _map(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Memory-mapped tensors, and the metadata."""
    try:
        with safe_open(path, framework='pt') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, RuntimeError, TypeError) as error:
        raise ValueError(f"'{path}' must be a safetensors file ({error})") from error


def restore(
    artifact: Artifact, device: str | torch.device, verify: bool
) -> tuple[Tables, FeatureMapper | None]:
    """The parts of a recommender.

    Args:
        artifact: Its content.
        device: The device of the embeddings.
        verify: Whether to check all values, which reads all tensors.

    Raises:
        ValueError: If the parts of the artifact do not fit each other.
    """
    tensors, state = artifact.tensors, artifact.state
    user_x, item_x = (_embeddings(tensors, name) for name in ('user_x', 'item_x'))
    users, items = (_ids(tensors, name, verify) for name in ('user_ids', 'item_ids'))
    added = state.get('num_added', 0)
    if type(added) is not int or not 0 <= added <= item_x.size(0):
        raise ValueError(f'got {added!r} added items')
    mapper = None
    if state.get('feature_mapper') is not None:
        mapper = FeatureMapper.from_state(tensors, state['feature_mapper'])
    tables = Tables(
        user_x.to(device),
        item_x.to(device),
        users,
        items,
        _seen(tensors, user_x.size(0), item_x.size(0), verify),
        _titles(tensors, items, verify),
        added,
    )
    tables.check(values=verify)
    return tables, mapper


def table_tensors(tables: Tables) -> dict[str, Tensor]:
    """The tensors that :func:`restore` reads."""
    rows = tables.items.rows('titles', list(tables.titles))
    texts = Texts.pack(tables.titles.values())
    arrays = {
        **tables.users.arrays('user_ids'),
        **tables.items.arrays('item_ids'),
        'titles.row': np.array(rows, dtype=np.int64),
        'titles.text': texts.data,
        'titles.offsets': texts.offsets,
    }
    return {
        'user_x': tables.user_x,
        'item_x': tables.item_x,
        'seen_rowptr': tables.seen.rowptr,
        'seen_col': tables.seen.col,
        **{name: torch.from_numpy(x) for name, x in arrays.items()},
    }


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError('it is nested too deeply') from error


def _read_config(path: Path) -> dict[str, _Entry]:
    """The entries of the files. Their names are compared with the fixed ones of the
    format and never opened as paths.
    """
    with _opened(path, _MAX_CONFIG) as file:
        content = file.read()
    try:
        config = _parse(content)
        kind = (config['format'], config['version'])
        if kind != (FORMAT, VERSION):
            raise ValueError(f'format {kind[0]!r} version {kind[1]!r} is unknown')
        files = {
            name: _Entry(str(entry['sha256']), int(entry['bytes']))
            for name, entry in config['files'].items()
        }
        if set(files) != set(_FILES):
            raise ValueError(f'its files are {sorted(files)}, not {sorted(_FILES)}')
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"'{path}' must be the configuration of a recommender of format "
            f"'{FORMAT}' version {VERSION} ({error!r})"
        ) from error
    return files


@contextmanager
def _opened(
    path: Path, max_bytes: int, entry: _Entry | None = None
) -> Iterator[BufferedReader]:
    """A file of the expected size; others are not read."""
    if not path.is_file():
        raise ValueError(f"'{path}' must be a file (there is none)")
    if path.resolve().parent != path.parent.resolve():
        raise ValueError(
            f"'{path}' must be in its folder (got a link to '{path.resolve()}'). "
            f'Copy the folder with its links resolved'
        )
    with path.open('rb') as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(
                f"'{path}' must be at most {max_bytes} bytes (got {size}). Pass a "
                f"larger 'max_bytes' if you trust the file"
            )
        if entry is not None and entry.size != size:
            raise _mismatch(path, 'size')
        yield file


def _object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = _parse(content)
    except ValueError as error:
        raise ValueError(f"'{path}' must be JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"'{path}' must contain an object (got '{type(value).__name__}')"
        )
    return value


def _mismatch(path: Path, what: str) -> ValueError:
    return ValueError(
        f"'{path}' must be the saved file (its {what} differs from that in "
        f"'{CONFIG}'). Save the recommender again"
    )


def _check_digest(path: Path, entry: _Entry, digest: str) -> None:
    if digest != entry.sha256:
        raise _mismatch(path, 'checksum')


def _embeddings(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    x = _tensor(tensors, name)
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(
            f"'{name}' is not a floating point matrix ({list(x.shape)}, {x.dtype})"
        )
    return x


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"there is no tensor '{name}'")
    return tensors[name]


def _seen(
    tensors: Mapping[str, Tensor], num_users: int, num_items: int, verify: bool
) -> SeenItems:
    """Compressed rows, once no index is out of range if ``verify``."""
    rowptr, col = (_tensor(tensors, name) for name in ('seen_rowptr', 'seen_col'))
    valid = (
        rowptr.dtype == col.dtype == torch.long
        and list(rowptr.shape) == [num_users + 1]
        and col.dim() == 1
        and int(rowptr[0]) == 0
        and int(rowptr[-1]) == col.numel()
    )
    if valid and verify:
        valid = bool((rowptr[1:] >= rowptr[:-1]).all()) and (
            col.numel() == 0 or 0 <= int(col.min()) <= int(col.max()) < num_items
        )
    if not valid:
        raise ValueError(
            f"'seen_rowptr' and 'seen_col' are not compressed rows of {num_users} "
            f'users and {num_items} items'
        )
    return SeenItems(rowptr, col, num_items)


def _ids(tensors: Mapping[str, Tensor], name: str, verify: bool) -> RawIds:
    arrays = {key: x.numpy() for key, x in tensors.items() if key.startswith(name)}
    try:
        return RawIds.from_arrays(name, arrays, verify)
    except KeyError as error:
        raise ValueError(f'there is no tensor {error}') from error


def _titles(tensors: Mapping[str, Tensor], items: RawIds, verify: bool) -> Titles:
    """Titles that are read when they are needed."""
    row, text, offsets = (
        _tensor(tensors, f'titles.{part}') for part in ('row', 'text', 'offsets')
    )
    texts = Texts.checked(text.numpy(), offsets.numpy(), verify)
    if row.dtype != torch.long or list(row.shape) != [len(texts)]:
        raise ValueError(f"'titles' are {len(texts)} for {list(row.shape)} rows")
    if len(texts) and not 0 <= int(row.min()) <= int(row.max()) < len(items):
        raise ValueError(f"'titles' belong to other rows than {len(items)} items")

    def read() -> dict[Any, str]:
        pairs = zip(row.tolist(), texts, strict=True)
        return {items[number]: title for number, title in pairs}

    return Titles(read)
