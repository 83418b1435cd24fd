"""The folder a recommender is saved in; runs no code it reads."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from promptmm_pyg._files import replacing

FORMAT = 'promptmm_pyg.Recommender'
VERSION = 1
TENSORS = 'model.safetensors'
IDS = 'ids.json'
CONFIG = 'config.json'


def write_files(path: Path, tensors: dict[str, Tensor], ids: dict[str, Any]) -> None:
    """Writes the tensors, the ids and then the file that vouches for both.

    Each file replaces its predecessor in one step. A crash between two of them leaves
    checksums that do not match, which :func:`read_files` refuses.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"'path' needs to be a folder (got the file '{path}')")
    path.mkdir(parents=True, exist_ok=True)
    # The format refuses tensors that share memory.
    layout = torch.contiguous_format
    own = {key: x.cpu().clone(memory_format=layout) for key, x in tensors.items()}
    contents = {TENSORS: save(own), IDS: json.dumps(ids).encode()}
    config = {
        'format': FORMAT,
        'version': VERSION,
        'sha256': {name: _digest(content) for name, content in contents.items()},
    }
    contents[CONFIG] = json.dumps(config, indent=2).encode()
    for name, content in contents.items():
        with replacing(path / name) as temporary:
            temporary.write_bytes(content)


def read_files(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the ids that :func:`write_files` was given."""
    digests = _read_config(path / CONFIG)
    contents = {}
    for name in (TENSORS, IDS):
        contents[name] = _read(path / name)
        if _digest(contents[name]) != digests.get(name):
            raise ValueError(
                f"'{path / name}' needs to be the file that was saved (got another "
                f"checksum than '{CONFIG}' names). Save the recommender again"
            )
    try:
        return load(contents[TENSORS]), json.loads(contents[IDS])
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"'{path}' needs to hold a recommender ({error})") from error


def _read_config(path: Path) -> dict[str, str]:
    content = _read(path)
    try:
        config = json.loads(content)
        found = (config['format'], config['version'])
        digests = dict(config['sha256'])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' needs to be the configuration of a recommender ({error!r})"
        ) from error
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"'{path}' needs to be of format '{FORMAT}' version {VERSION} "
            f"(got '{found[0]}' version {found[1]})"
        )
    return digests


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"'{path}' needs to be a file (there is none)")
    return path.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
