"""A frozen teacher whose prompt stays trainable."""

from typing import Any

import torch

from promptmm_pyg.targets import TeacherOutput


class JointTeacher:
    """Lets gradients reach a teacher's prompt and nothing else of it, until the
    ``with`` block ends.

    Args:
        teacher: Has its prompt as the attribute ``prompt``. Stays in eval mode.
        inputs: What the teacher is called with.

    Raises:
        TypeError: If ``teacher`` is no module (soft targets hold no prompt).
        ValueError: If the teacher has no prompt, or has it disabled.
    """

    def __init__(self, teacher: Any, inputs: tuple[Any, ...]) -> None:
        if not isinstance(teacher, torch.nn.Module):
            raise TypeError(
                f"'teacher' must be a module with prompt='joint' (got "
                f"{type(teacher).__name__}). Use prompt='frozen' with soft targets"
            )
        prompt = getattr(teacher, 'prompt', None)
        if not isinstance(prompt, torch.nn.Module):
            raise ValueError(
                f"'teacher' requires a module 'prompt' with prompt='joint' (got "
                f"{type(teacher).__name__} without one). Use prompt='frozen'"
            )
        if not getattr(teacher, 'prompt_enabled', True):
            raise ValueError(
                "'teacher' requires its prompt in use with prompt='joint' (got one that "
                "is disabled). Call 'enable_prompt()', or use prompt='frozen'"
            )
        self.teacher = teacher
        self.prompt = prompt
        self._inputs = inputs
        self._required = {p: p.requires_grad for p in teacher.parameters()}
        self._modes = [(part, part.training) for part in teacher.modules()]
        teacher.requires_grad_(False)
        prompt.requires_grad_(True)

    def __call__(self) -> TeacherOutput:
        # The loop puts what it trains, the prompt, in train mode every epoch.
        self.teacher.eval()
        output: TeacherOutput = self.teacher(*self._inputs)
        return output

    def __enter__(self) -> 'JointTeacher':
        return self

    def __exit__(self, *_: object) -> None:
        """Gives every flag of the teacher back, also after an error."""
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
        for part, mode in self._modes:
            part.training = mode
