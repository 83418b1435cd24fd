"""Prompts as parts with a name, of which a module uses one or none."""

from typing import Any, Generic, TypeVar

import torch


class Prompt(torch.nn.Module):
    """What is tuned in place of a model: small, and complete in its state."""

    def describe(self) -> dict[str, Any]:
        """The shape of the prompt in JSON values; equal where states fit."""
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def kilobytes(self) -> float:
        """The size of what is saved, starting points included, in 1,000 bytes."""
        num_bytes = sum(
            x.numel() * x.element_size() for x in self.state_dict().values()
        )
        return float(num_bytes) / 1000


P = TypeVar('P', bound=Prompt)


class PromptHolder(torch.nn.Module, Generic[P]):
    """A module that has a prompt in use, any number of others set aside, and that
    does without when told to.

    The prompt in use is the attribute ``prompt`` (``None`` without any), those set
    aside are saved and moved along. Both are what an optimizer over
    ``parameters()`` gets, and only the first ever has gradients.

    A state is loaded into a module with the same names and the same one in use.
    """

    prompt: P | None

    def _hold_prompt(self, prompt: P | None, name: str = 'default') -> None:
        """Called once, where the parameters of the prompt have their place."""
        self.prompt = prompt
        self.prompt_name = name if prompt is not None else None
        self.prompt_enabled = True
        self.other_prompts = torch.nn.ModuleDict()  # Empty, it adds no state.
        if prompt is not None:
            self._watch(prompt)

    def _new_prompt(self) -> P:
        """A prompt like the one in use, with parameters of its own."""
        raise NotImplementedError

    def _check_prompt(self, prompt: P) -> None:
        """Raises unless ``prompt`` fits this module."""
        raise NotImplementedError

    def _prompt_changed(self) -> None:
        """Called after another prompt, or another state of it, came in use."""

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
        """The size of the prompt in use as it is saved, in 1,000 bytes."""
        return 0.0 if self.prompt is None else self.prompt.kilobytes

    @property
    def active_prompt(self) -> P | None:
        """The prompt that takes part in the forward, if any."""
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
        found: P = other
        return found

    def add_prompt(self, name: str, prompt: P | None = None) -> None:
        """Sets a further prompt aside; :meth:`set_prompt` brings it in use.

        Args:
            name: A new name, without dots.
            prompt: The prompt; ``None`` makes one like that in use, with random
                parameters. (default: ``None``)

        Raises:
            ValueError: If the name is taken or unfit, or the prompt does not fit.
        """
        taken = name in self.prompt_names
        # Names become parts of keys, and a ModuleDict has attributes of its own.
        unfit = not name or '.' in name or hasattr(self.other_prompts, name)
        if taken or unfit:
            raise ValueError(
                f"'name' must be new, not empty, without dots and no name of "
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
        """Brings a prompt in use, also after :meth:`disable_prompt`.

        Raises:
            ValueError: If there is no such prompt.
        """
        chosen = self.get_prompt(name)
        self.prompt_enabled = True
        if name == self.prompt_name:
            return
        del self.other_prompts[name]
        if self.prompt is not None and self.prompt_name is not None:
            self.other_prompts[self.prompt_name] = self.prompt
        self.prompt, self.prompt_name = chosen, name
        self._prompt_changed()

    def disable_prompt(self) -> None:
        """Leaves the prompt out: bit for bit the module that never had one."""
        self.prompt_enabled = False

    def enable_prompt(self) -> None:
        """Undoes :meth:`disable_prompt`."""
        self.prompt_enabled = True
