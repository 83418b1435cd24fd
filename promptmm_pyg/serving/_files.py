"""The folder a recommender is saved in; runs no code it reads."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from promptmm_pyg._utils import replacing
from promptmm_pyg.serving._card import CARD, README, markdown
from promptmm_pyg.serving._header import check_header, parse

FORMAT = 'promptmm_pyg.Recommender'
VERSION = 2
TENSORS = 'model.safetensors'
IDS = 'ids.json'
CONFIG = 'config.json'
MAX_BYTES = 16 * 2**30
_MAX_CONFIG = 2**16
_FILES = {1: (TENSORS, IDS), 2: (TENSORS, IDS, CARD)}


class Artifact(NamedTuple):
    """What is in the folder."""

    tensors: dict[str, Tensor]
    ids: dict[str, Any]
    card: dict[str, Any]


class _Vouched(NamedTuple):
    """What the configuration says of a file."""

    sha256: str
    size: int | None


def write_files(path: Path, artifact: Artifact) -> None:
    """Writes the tensors, the ids, the card and then the file that vouches for them.

    Each file replaces its predecessor in one step. A crash between two of them leaves
    checksums that do not match, which :func:`read_files` refuses.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"'path' must be a folder (got the file '{path}')")
    path.mkdir(parents=True, exist_ok=True)
    # The format refuses tensors that share memory.
    layout = torch.contiguous_format
    own = {
        key: x.cpu().clone(memory_format=layout) for key, x in artifact.tensors.items()
    }
    contents = {
        TENSORS: save(own),
        IDS: json.dumps(artifact.ids).encode(),
        CARD: json.dumps(artifact.card, indent=2).encode(),
    }
    files = {
        name: {'bytes': len(content), 'sha256': _digest(content)}
        for name, content in contents.items()
    }
    config = {'format': FORMAT, 'version': VERSION, 'files': files}
    # For people, who may add to it: nothing vouches for it, and it is never read.
    contents[README] = markdown(artifact.card).encode()
    contents[CONFIG] = json.dumps(config, indent=2).encode()
    for name, content in contents.items():
        with replacing(path / name) as temporary:
            temporary.write_bytes(content)


def read_files(path: Path, max_bytes: int) -> Artifact:
    """What :func:`write_files` was given; a recommender of version 1 has no card."""
    contents = {}
    for name, vouched in _read_config(path / CONFIG).items():
        contents[name] = _read(path / name, max_bytes, vouched)
        if _digest(contents[name]) != vouched.sha256:
            raise _another(path / name, 'checksum')
    try:
        tensors = load(contents[TENSORS])
    except SafetensorError as error:
        raise ValueError(
            f"'{path / TENSORS}' must be a safetensors file ({error})"
        ) from error
    objects = {name: _object(path / name, contents.get(name)) for name in (IDS, CARD)}
    return Artifact(tensors, objects[IDS], objects[CARD])


def _read_config(path: Path) -> dict[str, _Vouched]:
    """The files of the folder, which are always the same ones: what the configuration
    lists is compared with them, never opened.
    """
    content = _read(path, _MAX_CONFIG)
    try:
        config = parse(content)
        found = (config['format'], config['version'])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_config(path, error) from error
    if found not in [(FORMAT, version) for version in _FILES]:
        raise ValueError(
            f"'{path}' must be of format '{FORMAT}' version 1 to {VERSION} "
            f"(got '{found[0]}' version {found[1]})"
        )
    try:
        files = _vouched(config)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise _no_config(path, error) from error
    expected = _FILES[found[1]]
    if set(files) != set(expected):
        raise ValueError(
            f"'{path}' must list the files {sorted(expected)} (got {sorted(files)})"
        )
    return files


def _vouched(config: dict[str, Any]) -> dict[str, _Vouched]:
    if config['version'] == 1:
        digests = config['sha256'].items()
        return {name: _Vouched(str(digest), None) for name, digest in digests}
    return {
        name: _Vouched(str(entry['sha256']), int(entry['bytes']))
        for name, entry in config['files'].items()
    }


def _read(path: Path, max_bytes: int, vouched: _Vouched | None = None) -> bytes:
    """The content of a file, if its size is what it needs to be; a larger one is
    never read.
    """
    if not path.is_file():
        raise ValueError(f"'{path}' must be a file (there is none)")
    if path.resolve().parent != path.parent.resolve():
        raise ValueError(
            f"'{path}' must be in its folder (got a link to '{path.resolve()}'). "
            f'Copy the folder with its links followed'
        )
    with path.open('rb') as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(
                f"'{path}' must be at most {max_bytes} bytes (got {size}). Pass a "
                f"larger 'max_bytes' if it is yours"
            )
        if vouched is not None and vouched.size not in (None, size):
            raise _another(path, 'size')
        if path.name == TENSORS:
            try:
                check_header(file, size)
            except ValueError as error:
                raise ValueError(
                    f"'{path}' must be a sound safetensors file ({error}). Save "
                    f'the recommender again'
                ) from error
            file.seek(0)
        return file.read(size)


def _object(path: Path, content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        found = parse(content)
    except ValueError as error:
        raise ValueError(f"'{path}' must be JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"'{path}' must contain an object (got '{type(found).__name__}')"
        )
    return found


def _another(path: Path, what: str) -> ValueError:
    return ValueError(
        f"'{path}' must be the file that was saved (got another {what} than "
        f"'{CONFIG}' names). Save the recommender again"
    )


def _no_config(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"'{path}' must be the configuration of a recommender ({error!r})"
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
