"""What a teacher hands over; the one place where gradients are cut."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg.ranking import Ranking


class TeacherOutput(NamedTuple):
    """What a teacher's forward returns."""

    x_dict: dict[str, Tensor]
    """The final embeddings ``[N_t, D]`` per node type."""
    modality_x_dict: dict[str, dict[str, Tensor]]
    """Modality vectors ``[N_t, D]`` per modality and node type."""
    prompt_dict: dict[str, Tensor] = {}  # noqa: RUF012
    """Prompts ``[N_t, P]`` per node type, for teachers that have them."""


class SoftTargets(NamedTuple):
    """A teacher's output as constants: what a student needs of it, and no more."""

    x_dict: dict[str, Tensor]
    """The final embeddings ``[N_t, D]`` per node type."""
    modality_x_dict: dict[str, dict[str, Tensor]]
    """Modality vectors ``[N_t, D]`` per modality and node type."""
    top: Ranking | None = None
    """The best unseen items of every user, if they were ranked before."""

    @classmethod
    def from_output(cls, output: TeacherOutput) -> 'SoftTargets':
        """Copies an output without its gradients: a teacher that returns its own
        tables may be trained on, the targets stay.
        """
        return cls(
            _constants(output.x_dict),
            {
                modality: _constants(x_dict)
                for modality, x_dict in output.modality_x_dict.items()
            },
        )

    def to(self, device: str | torch.device) -> 'SoftTargets':
        """The same on another device."""

        def moved(x_dict: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: x.to(device) for key, x in x_dict.items()}

        return SoftTargets(
            moved(self.x_dict),
            {name: moved(x_dict) for name, x_dict in self.modality_x_dict.items()},
            None if self.top is None else Ranking(*(x.to(device) for x in self.top)),
        )


def _constants(x_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.detach().clone() for key, x in x_dict.items()}


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Puts ``module`` in eval mode and gives every part its former mode back, also
    after an error.

    Example:
        >>> layer = torch.nn.Dropout().train()
        >>> with evaluating(layer):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def soft_targets(teacher: torch.nn.Module, *args: Any, **kwargs: Any) -> SoftTargets:
    """Asks a teacher once, in eval mode and without gradients.

    Args:
        teacher: Returns a :class:`TeacherOutput` for the further arguments.
        *args: Handed to the teacher.
        **kwargs: Handed to the teacher.

    Raises:
        TypeError: If the teacher returns anything else.
    """
    with evaluating(teacher), torch.no_grad():
        output = teacher(*args, **kwargs)
    if not isinstance(output, TeacherOutput):
        raise TypeError(
            f"'teacher' needs to return a 'TeacherOutput' (got "
            f"'{type(output).__name__}'). Wrap its embeddings: "
            f"'TeacherOutput(x_dict, modality_x_dict={{}})'"
        )
    return SoftTargets.from_output(output)
