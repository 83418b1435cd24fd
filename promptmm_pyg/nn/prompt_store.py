"""One prompt in one safetensors file: no pickle, no half-written file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from promptmm_pyg._utils import replacing
from promptmm_pyg.nn.prompt_holder import Prompt, PromptHolder

_FORMAT = 'promptmm_pyg.prompt.v1'


def save_prompt(
    path: str | Path, module: torch.nn.Module, name: str | None = None
) -> None:
    """Writes one prompt, without the model that it steers, to one file.

    The file appears whole or not at all.

    Args:
        path: The file to write.
        module: A prompt, or a module that holds prompts
            (:class:`~promptmm_pyg.models.PromptMM`,
            :class:`~promptmm_pyg.nn.PromptedEncoder`).
        name: Which of the prompts of ``module``. (default: the one in use)

    Raises:
        TypeError: If ``module`` is and holds no prompt.
        ValueError: If there is no prompt of that name.
    """
    prompt = _prompt_of(module, name)
    # Copies: safetensors refuses tensors that share memory.
    state = {
        key: x.detach().clone().contiguous() for key, x in prompt.state_dict().items()
    }
    metadata = {'format': _FORMAT, 'prompt': json.dumps(_description(prompt))}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def load_prompt(
    path: str | Path, module: torch.nn.Module, name: str | None = None
) -> None:
    """Copies what :func:`save_prompt` wrote into a prompt of the same shape; nothing
    is changed before all of the file is read and found to fit.

    Args:
        path: The file to read.
        module: A prompt, or a module that holds prompts.
        name: Which of the prompts of ``module``. (default: the one in use)

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If ``module`` is and holds no prompt.
        ValueError: If there is no prompt of that name, if the file is of another kind
            or incomplete, or if its prompt is of another class or size.
    """
    prompt = _prompt_of(module, name)
    description, state = _read(Path(path))
    for key, expected in _description(prompt).items():
        if description.get(key) != expected:
            raise ValueError(
                f"'path' must be a prompt with {key}={expected!r} (got "
                f"{key}={description.get(key)!r} in '{path}')"
            )
    shapes = {key: list(x.shape) for key, x in prompt.state_dict().items()}
    found = {key: list(x.shape) for key, x in state.items()}
    if found != shapes:
        raise ValueError(
            f"'path' requires the tensors {shapes} (got {found} in '{path}')"
        )
    prompt.load_state_dict(state)


def _prompt_of(module: torch.nn.Module, name: str | None) -> Prompt:
    if isinstance(module, PromptHolder):
        held: Prompt = module.get_prompt(name)
        return held
    if not isinstance(module, Prompt):
        raise TypeError(
            f"'module' must be a prompt or to hold prompts (got "
            f"'{type(module).__name__}'). Wrap an encoder in 'PromptedEncoder'"
        )
    if name is not None:
        raise ValueError(
            f"'name' must be left out for a prompt on its own (got {name!r})"
        )
    return module


def _description(prompt: Prompt) -> dict[str, Any]:
    return {'class': type(prompt).__name__, **prompt.describe()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"'path' must be a saved prompt (got '{path}')")
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            if metadata.get('format') != _FORMAT:
                raise ValueError(
                    f"'path' must be a saved prompt (got '{path}' of format "
                    f'{metadata.get("format")!r})'
                )
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"'path' must be a saved prompt (got '{path}', truncated or no "
            f'safetensors file: {error})'
        ) from error
    return json.loads(metadata['prompt']), state
