"""Named prompts of a module, and one prompt in one safetensors file."""

import json
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from promptmm_pyg._files import write_safetensors
from promptmm_pyg._reading import read_tensors

_FORMAT = 'promptmm_pyg.prompt.v1'


class Prompt(torch.nn.Module):
    """The base of prompts, small modules that are tuned in place of a model."""

    def describe(self) -> dict[str, Any]:
        """The sizes of the prompt as JSON values; states are exchangeable between
        prompts with equal sizes.
        """
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def kilobytes(self) -> float:
        """The size of the state, including starting points, in 1,000 bytes."""
        num_bytes = sum(
            x.numel() * x.element_size() for x in self.state_dict().values()
        )
        return float(num_bytes) / 1000


P = TypeVar('P', bound=Prompt)


class PromptHolder(torch.nn.Module, Generic[P]):
    """A module with named prompts, of which one is in use, unless it is disabled.

    The prompt in use is the attribute ``prompt`` (``None`` without any). All prompts
    are in ``parameters()`` and in the state, but only the one in use gets gradients. A
    state can be loaded into a module with the same names and the same prompt in use.
    """

    prompt: P | None

    def _hold_prompt(self, prompt: P | None, name: str = 'default') -> None:
        """Called once, in the constructor; parameters are registered in this order."""
        self.prompt = prompt
        self.prompt_name = name if prompt is not None else None
        self.prompt_enabled = True
        self.other_prompts = torch.nn.ModuleDict()
        if prompt is not None:
            self._watch(prompt)

    def _new_prompt(self) -> P:
        """A prompt like the one in use, with parameters of its own."""
        raise NotImplementedError

    def _check_prompt(self, prompt: P) -> None:
        """Raises unless ``prompt`` fits this module."""
        raise NotImplementedError

    def _prompt_changed(self) -> None:
        """Called after the prompt in use, or its state, was replaced."""

    def _watch(self, prompt: torch.nn.Module) -> None:
        prompt.register_load_state_dict_post_hook(self._prompt_loaded)

    def _prompt_loaded(self, prompt: torch.nn.Module, _: object) -> None:
        if prompt is self.prompt:
            self._prompt_changed()

    @property
    def prompt_names(self) -> list[str]:
        """The names of all prompts, sorted."""
        in_use = [] if self.prompt_name is None else [self.prompt_name]
        return sorted([*in_use, *self.other_prompts])

    @property
    def num_prompt_parameters(self) -> int:
        """The number of trainable parameters of the prompt in use."""
        return 0 if self.prompt is None else self.prompt.num_parameters

    @property
    def prompt_kilobytes(self) -> float:
        """The size of the state of the prompt in use, in 1,000 bytes."""
        return 0.0 if self.prompt is None else self.prompt.kilobytes

    @property
    def active_prompt(self) -> P | None:
        """The prompt of the forward; ``None`` without any or if it is disabled."""
        return self.prompt if self.prompt_enabled else None

    def get_prompt(self, name: str | None = None) -> P:
        """Returns a prompt; the one in use when no name is given.

        Raises:
            ValueError: If there is no such prompt.
        """
        if self.prompt is not None and name in (None, self.prompt_name):
            return self.prompt
        if name is None or name not in self.other_prompts:
            raise ValueError(
                f"'name' must be one of the prompts {self.prompt_names} (got "
                f"{name!r}). Add it with 'add_prompt'"
            )
        other: Any = self.other_prompts[name]
        prompt: P = other
        return prompt

    def add_prompt(self, name: str, prompt: P | None = None) -> None:
        """Adds a further prompt; :meth:`set_prompt` puts it in use.

        Args:
            name: A new name, without dots.
            prompt: The prompt. (default: one like the prompt in use, with random
                parameters)

        Raises:
            ValueError: If the name exists or is invalid, or the prompt does not fit.
        """
        exists = name in self.prompt_names
        # Names become parts of keys, and a ModuleDict has attributes of its own.
        invalid = not name or '.' in name or hasattr(self.other_prompts, name)
        if exists or invalid:
            raise ValueError(
                f"'name' must be new, not empty, without dots and no attribute of "
                f"'torch.nn.ModuleDict' (got {name!r} beside {self.prompt_names})"
            )
        prompt = self._new_prompt() if prompt is None else prompt
        self._check_prompt(prompt)
        like = next((self.prompt or self).parameters(), None)
        if like is not None:
            prompt.to(like)
        self._watch(prompt)
        self.other_prompts[name] = prompt.train(self.training)

    def set_prompt(self, name: str) -> None:
        """Puts a prompt in use and enables it.

        Raises:
            ValueError: If there is no such prompt.
        """
        prompt = self.get_prompt(name)
        self.prompt_enabled = True
        if name == self.prompt_name:
            return
        del self.other_prompts[name]
        if self.prompt is not None and self.prompt_name is not None:
            self.other_prompts[self.prompt_name] = self.prompt
        self.prompt, self.prompt_name = prompt, name
        self._prompt_changed()

    def disable_prompt(self) -> None:
        """Disables the prompt: the output is bit for bit that of a module without."""
        self.prompt_enabled = False

    def enable_prompt(self) -> None:
        """Undoes :meth:`disable_prompt`."""
        self.prompt_enabled = True


def save_prompt(
    path: str | Path, module: torch.nn.Module, name: str | None = None
) -> None:
    """Writes one prompt, without its model, to one safetensors file, atomically.

    Args:
        path: The file to write.
        module: A prompt, or a module with prompts
            (:class:`~promptmm_pyg.models.PromptMM`,
            :class:`~promptmm_pyg.nn.PromptedEncoder`).
        name: The name of a prompt of ``module``. (default: the one in use)

    Raises:
        TypeError: If ``module`` is not a prompt and has none.
        ValueError: If there is no prompt of that name.
    """
    prompt = _prompt_of(module, name)
    # Copies: safetensors refuses tensors that share memory.
    state = {
        key: x.detach().clone().contiguous() for key, x in prompt.state_dict().items()
    }
    metadata = {'format': _FORMAT, 'prompt': json.dumps(_description(prompt))}
    write_safetensors(path, state, metadata)


def load_prompt(
    path: str | Path, module: torch.nn.Module, name: str | None = None
) -> None:
    """Loads what :func:`save_prompt` wrote into a prompt of the same sizes; after an
    error, the prompt is unchanged.

    Args:
        path: The file to read.
        module: A prompt, or a module with prompts.
        name: The name of a prompt of ``module``. (default: the one in use)

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If ``module`` is not a prompt and has none.
        ValueError: If there is no prompt of that name, the file is truncated or of
            another format, or its prompt is of another class or size.
    """
    prompt = _prompt_of(module, name)
    description, state = read_tensors(
        path,
        _FORMAT,
        'a saved prompt',
        lambda metadata, tensors: (json.loads(metadata['prompt']), tensors),
    )
    for key, expected in _description(prompt).items():
        if description.get(key) != expected:
            raise ValueError(
                f"'path' must be a prompt with {key}={expected!r} (got "
                f"{key}={description.get(key)!r} in '{path}')"
            )
    shapes = {key: list(x.shape) for key, x in prompt.state_dict().items()}
    saved_shapes = {key: list(x.shape) for key, x in state.items()}
    if saved_shapes != shapes:
        raise ValueError(
            f"'path' must have the tensors {shapes} (got {saved_shapes} in '{path}')"
        )
    prompt.load_state_dict(state)


def _prompt_of(module: torch.nn.Module, name: str | None) -> Prompt:
    if isinstance(module, PromptHolder):
        prompt: Prompt = module.get_prompt(name)
        return prompt
    if not isinstance(module, Prompt):
        raise TypeError(
            f"'module' must be a prompt or have prompts (got "
            f"'{type(module).__name__}'). Wrap an encoder in 'PromptedEncoder'"
        )
    if name is not None:
        raise ValueError(
            f"'name' must be left out for a prompt on its own (got {name!r})"
        )
    return module


def _description(prompt: Prompt) -> dict[str, Any]:
    return {'class': type(prompt).__name__, **prompt.describe()}
