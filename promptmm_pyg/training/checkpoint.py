"""Training state in one safetensors file, without pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from promptmm_pyg._utils import replacing

_SEPARATOR = '\x1f'  # Between nested keys; no parameter name contains it.
_FORMAT = 'promptmm_pyg.state.v1'


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Writes a nested dictionary of tensors and JSON values to one file, atomically.
    Keys are strings or integers, and keep their type.

    Args:
        path: The file to write.
        state: Tensors, numbers, strings, booleans, ``None``, lists of those, and
            dictionaries of all of it.

    Raises:
        TypeError: If a value is neither a tensor nor JSON.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, '', tensors)
    metadata = {'format': _FORMAT, 'state': json.dumps(skeleton)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_state(path: str | Path) -> dict[str, Any]:
    """Reads what :func:`save_state` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"'path' must be a saved state (got {str(path)!r})")
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            if metadata.get('format') != _FORMAT:
                raise ValueError(
                    f"'path' must be a saved training state (got {str(path)!r} of "
                    f'format {metadata.get("format")!r})'
                )
            # `safe_open` maps the file; clones outlive a later overwrite.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f'{str(path)!r} is truncated or no safetensors file ({error}). '
            f'Delete it and start again'
        ) from error
    state = _rebuild(json.loads(metadata['state']), tensors)
    assert isinstance(state, dict)
    return state


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A copy each: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().clone().contiguous()
        return {'tensor': name}
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        parts = [
            [key, _flatten(item, f'{name}{_SEPARATOR}{key}', tensors)]
            for key, item in pairs
        ]
        return {'dict' if isinstance(value, dict) else 'list': parts}
    if value is None or isinstance(value, bool | int | float | str):
        return {'value': value}
    raise TypeError(
        f"'state' must contain tensors and JSON values only (got "
        f'{type(value).__name__} at {name.replace(_SEPARATOR, "/")!r})'
    )


def _rebuild(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == 'tensor':
        return tensors[content]
    if kind == 'dict':
        return {key: _rebuild(item, tensors) for key, item in content}
    if kind == 'list':
        return [_rebuild(item, tensors) for _, item in content]
    return content
