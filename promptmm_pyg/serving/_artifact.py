"""The folder of a saved recommender. Reading it runs no code from it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from promptmm_pyg._utils import replacing
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving._card import CARD, README, markdown
from promptmm_pyg.serving.feature_mapper import FeatureMapper

FORMAT = 'promptmm_pyg.Recommender'
VERSION = 2
TENSORS = 'model.safetensors'
IDS = 'ids.json'
CONFIG = 'config.json'
MAX_BYTES = 16 * 2**30
_MAX_CONFIG = 2**16
_FILES = (TENSORS, IDS, CARD)
_NEXT = '.next'


class Artifact(NamedTuple):
    """The content of the folder."""

    tensors: dict[str, Tensor]
    ids: dict[str, Any]
    card: dict[str, Any]


class _Entry(NamedTuple):
    """The checksum and size that the configuration lists for a file."""

    sha256: str
    size: int


def write_artifact(path: Path, artifact: Artifact) -> None:
    """Writes tensors, ids, card and the configuration with their checksums.

    They are written to a folder inside, which is renamed to ``.next`` once it is
    complete. From then on it is the artifact, until its files have replaced those of
    ``path``. A crash at any time leaves the old or the new artifact.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"'path' must be a folder (got the file '{path}')")
    path.mkdir(parents=True, exist_ok=True)
    # The format refuses tensors that share memory.
    layout = torch.contiguous_format
    tensors = {
        key: x.cpu().clone(memory_format=layout) for key, x in artifact.tensors.items()
    }
    contents = {
        TENSORS: save(tensors),
        IDS: json.dumps(artifact.ids).encode(),
        CARD: json.dumps(artifact.card, indent=2).encode(),
    }
    files = {
        name: {'bytes': len(content), 'sha256': _digest(content)}
        for name, content in contents.items()
    }
    config = {'format': FORMAT, 'version': VERSION, 'files': files}
    # People may edit the page: it has no checksum and is never read.
    contents[README] = markdown(artifact.card).encode()
    contents[CONFIG] = json.dumps(config, indent=2).encode()
    with _lock(path):
        _move_into_place(path)  # What an interrupted writer has left.
        for stale in path.glob('.*.tmp'):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        staging = path / f'.{uuid4().hex}.tmp'
        staging.mkdir()
        try:
            for name, content in contents.items():
                (staging / name).write_bytes(content)
            staging.rename(path / _NEXT)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        _move_into_place(path)


def _move_into_place(path: Path) -> None:
    new = path / _NEXT
    if not new.is_dir():
        return
    for name in (*_FILES, README, CONFIG):
        with replacing(path / name) as temporary:
            try:
                os.link(new / name, temporary)
            except OSError:  # Not every file system has links.
                shutil.copyfile(new / name, temporary)
    shutil.rmtree(new.rename(path / f'.{uuid4().hex}.tmp'), ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One writer at a time, where the system has such locks; they end with it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_artifact(path: Path, max_bytes: int) -> Artifact:
    """Reads what :func:`write_artifact` wrote, also while it writes."""
    while True:
        state, folder = _state(path), path
        if state[0] is not None and not (path / _NEXT).is_symlink():
            folder = path / _NEXT
        try:
            return _read_folder(folder, max_bytes)
        except (ValueError, OSError):
            if state == _state(path):
                raise


def _state(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """What differs after another process has written the artifact."""
    state: list[tuple[int, int] | None] = []
    for file in (path / _NEXT / CONFIG, path / CONFIG):
        try:
            status = file.stat()
        except OSError:
            state.append(None)
        else:
            state.append((status.st_ino, status.st_mtime_ns))
    return tuple(state)


def _read_folder(path: Path, max_bytes: int) -> Artifact:
    contents = {}
    for name, entry in _read_config(path / CONFIG).items():
        contents[name] = _read(path / name, max_bytes, entry)
        if _digest(contents[name]) != entry.sha256:
            raise _mismatch(path / name, 'checksum')
    try:
        tensors = load(contents[TENSORS])
    except SafetensorError as error:
        raise ValueError(
            f"'{path / TENSORS}' must be a safetensors file ({error})"
        ) from error
    objects = {name: _object(path / name, contents[name]) for name in (IDS, CARD)}
    return Artifact(tensors, objects[IDS], objects[CARD])


def restore(artifact: Artifact, device: str | torch.device) -> dict[str, Any]:
    """The arguments of a recommender, by name.

    Raises:
        ValueError: If the parts of the artifact do not fit each other.
    """
    tensors, ids = artifact.tensors, artifact.ids
    user_x, item_x = (_embeddings(tensors, name) for name in ('user_x', 'item_x'))
    lists = {name: _list(ids, name) for name in ('user_ids', 'item_ids', 'titles')}
    mapper = None
    if ids.get('feature_mapper') is not None:
        mapper = FeatureMapper.from_state(tensors, ids['feature_mapper'])
    return {
        'user_x': user_x.to(device),
        'item_x': item_x.to(device),
        'user_ids': lists['user_ids'],
        'item_ids': lists['item_ids'],
        'seen': _seen(tensors, user_x.size(0), item_x.size(0)),
        'titles': _titles(lists['item_ids'], lists['titles']),
        'feature_mapper': mapper,
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
    content = _read(path, _MAX_CONFIG)
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


def _read(path: Path, max_bytes: int, entry: _Entry | None = None) -> bytes:
    """The content of a file of the expected size; others are not read."""
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
        return file.read(size)


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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


def _seen(tensors: Mapping[str, Tensor], num_users: int, num_items: int) -> SeenItems:
    """Compressed rows, once no index is out of range."""
    rowptr, col = (_tensor(tensors, name) for name in ('seen_rowptr', 'seen_col'))
    valid = (
        rowptr.dtype == col.dtype == torch.long
        and list(rowptr.shape) == [num_users + 1]
        and col.dim() == 1
        and int(rowptr[0]) == 0
        and int(rowptr[-1]) == col.numel()
        and bool((rowptr.diff() >= 0).all())
        and bool(((col >= 0) & (col < num_items)).all())
    )
    if not valid:
        raise ValueError(
            f"'seen_rowptr' and 'seen_col' are not compressed rows of {num_users} "
            f'users and {num_items} items'
        )
    return SeenItems(rowptr, col, num_items)


def _list(ids: Mapping[str, Any], name: str) -> list[Any]:
    values = ids.get(name)
    if not isinstance(values, list):
        raise ValueError(f"there is no list of '{name}'")
    return values


def _titles(item_ids: list[Any], titles: list[Any]) -> dict[Any, str]:
    if len(titles) != len(item_ids):
        raise ValueError(f"'titles' are {len(titles)} for {len(item_ids)} items")
    if not set(map(type, titles)) <= {str, type(None)}:
        raise ValueError("'titles' are not all text")
    if not set(map(type, item_ids)) <= {str, int}:
        raise ValueError("'item_ids' are not all text or integers")
    pairs = zip(item_ids, titles, strict=True)
    return {raw: title for raw, title in pairs if title is not None}
