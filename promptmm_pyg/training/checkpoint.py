"""Training state in one safetensors file, without pickle."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from promptmm_pyg._distributed import rank_and_size, run_on_all, run_on_rank0
from promptmm_pyg._files import write_safetensors
from promptmm_pyg._reading import read_tensors

_SEPARATOR = '\x1f'  # Between nested keys; no parameter name contains it.
_FORMAT = 'promptmm_pyg.state.v1'


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Writes a nested dictionary of tensors and JSON values to one file, atomically.

    Args:
        path: The file to write.
        state: Tensors, numbers, strings, booleans, ``None``, and lists and dictionaries
            of them; keys are strings or integers.

    Raises:
        TypeError: If a value is neither a tensor nor JSON.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, '', tensors)
    metadata = {'format': _FORMAT, 'state': json.dumps(skeleton)}
    write_safetensors(path, tensors, metadata)


def load_state(path: str | Path) -> dict[str, Any]:
    """Reads what :func:`save_state` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or of another kind.
    """

    def parse(metadata: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, Any]:
        # Clones, as the file may be overwritten later.
        tensors = {key: x.clone() for key, x in tensors.items()}
        state: dict[str, Any] = _rebuild(json.loads(metadata['state']), tensors)
        return state

    return read_tensors(path, _FORMAT, 'a saved training state', parse)


def save_sharded_state(path: Path, state: dict[str, Any], epoch: int) -> None:
    """Saves the states of all processes, which differ in their rows of sharded tables.

    The state of rank 0 is written last and replaces the former one; until then the
    others' former files stay, so an interruption leaves the former states.
    """
    rank, size = rank_and_size()
    state = {**state, 'num_shards': size}
    if rank > 0:
        run_on_all(lambda: save_state(_shard(path, rank, epoch), state))
    else:
        run_on_all(lambda: None)
    run_on_rank0(lambda: save_state(path, state))
    if rank > 0:
        for file in path.parent.glob(_shard(path, rank, '*').name):
            if file != _shard(path, rank, epoch):
                file.unlink()


def load_sharded_state(path: Path) -> dict[str, Any]:
    """The state of this process, of those that :func:`save_sharded_state` wrote.

    Raises:
        ValueError: If it was written by another number of processes, or a file is
            missing.
    """
    rank, size = rank_and_size()
    own: dict[str, Any] = {}

    def read() -> tuple[int, int]:
        own.update(load_state(path))
        return own.get('num_shards', 1), len(own['records'])

    num_shards, epoch = run_on_rank0(read)
    if num_shards != size:
        raise ValueError(
            f"'resume' requires the {num_shards} processes of the run in "
            f"'{path.parent}' (got {size}), as each has its rows of sharded tables. "
            f'Start as many'
        )
    return run_on_all(lambda: load_state(_shard(path, rank, epoch)) if rank else own)


def _shard(path: Path, rank: int, epoch: int | str) -> Path:
    return path.with_name(f'{path.stem}-{rank:05}-epoch-{epoch}{path.suffix}')


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # Copies: safetensors does not support tensors that share memory.
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
