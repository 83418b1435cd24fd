"""Lists of losses as one objective, and the teacher of the joint stage."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.distillation.adapters import Teacher, XDict
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.targets import SoftTargets, TeacherOutput

DistillationLoss = Callable[
    [XDict, Teacher, Triplets, CandidateLists], dict[str, Tensor]
]


class Objective(torch.nn.Module):
    """A list of distillation losses as one module.

    Args:
        losses: Adapters, or other callables of ``(student, teacher, batch, lists)``
            that return named scalars; modules among them are trained with the student.
    """

    def __init__(self, losses: Iterable[DistillationLoss]) -> None:
        super().__init__()
        self.losses = list(losses)
        self.modules_ = torch.nn.ModuleList(
            loss for loss in self.losses if isinstance(loss, torch.nn.Module)
        )

    def setup(self, targets: SoftTargets, width: int, train: HeteroData) -> None:
        """Calls the ``setup`` of every loss that has one."""
        for loss in self.losses:
            setup: Any = getattr(loss, 'setup', None)
            if callable(setup):
                setup(targets, width, train)

    def extend(
        self,
        values: dict[str, Tensor],
        weights: dict[str, float],
        student: XDict,
        teacher: Teacher,
        batch: Triplets,
        lists: CandidateLists,
    ) -> None:
        """Adds the losses of a batch, and their weights, by name; a second loss of one
        name gets the suffix ``_2``.
        """
        for loss in self.losses:
            for name, value in loss(student, teacher, batch, lists).items():
                unique, number = name, 1
                while unique in values:
                    number += 1
                    unique = f'{name}_{number}'
                values[unique] = value
                weights[unique] = float(getattr(loss, 'weight', 1.0))


class JointTeacher:
    """Trains the prompt of a frozen teacher, within a ``with`` block.

    Args:
        teacher: Has its prompt as the attribute ``prompt``. Stays in eval mode.
        inputs: The arguments of the teacher.

    Raises:
        TypeError: If ``teacher`` is not a module (soft targets have no prompt).
        ValueError: If the teacher has no prompt, or has it disabled.
    """

    def __init__(self, teacher: Any, inputs: tuple[Any, ...]) -> None:
        if not isinstance(teacher, torch.nn.Module):
            raise TypeError(
                f"'teacher' must be a module with prompt='joint' (got "
                f"{type(teacher).__name__}). Use prompt='frozen' for soft targets"
            )
        prompt = getattr(teacher, 'prompt', None)
        if not isinstance(prompt, torch.nn.Module):
            raise ValueError(
                f"'teacher' must have a module 'prompt' with prompt='joint' (got "
                f"{type(teacher).__name__} without one). Use prompt='frozen'"
            )
        if not getattr(teacher, 'prompt_enabled', True):
            raise ValueError(
                "'teacher' must have its prompt enabled with prompt='joint' (got a "
                "disabled one). Call 'enable_prompt()', or use prompt='frozen'"
            )
        self.teacher = teacher
        self.prompt = prompt
        self._inputs = inputs
        self._required = {p: p.requires_grad for p in teacher.parameters()}
        self._modes = [(part, part.training) for part in teacher.modules()]
        teacher.requires_grad_(False)
        prompt.requires_grad_(True)

    def __call__(self) -> TeacherOutput:
        # The training loop sets the prompt to train mode in every epoch.
        self.teacher.eval()
        output: TeacherOutput = self.teacher(*self._inputs)
        return output

    def __enter__(self) -> 'JointTeacher':
        return self

    def __exit__(self, *_: object) -> None:
        """Restores all flags of the teacher, also after an error."""
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
        for part, mode in self._modes:
            part.training = mode
