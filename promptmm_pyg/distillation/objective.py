"""Lists of losses as one objective, and the teacher of the joint stage."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.distillation.adapters import Teacher, XDict
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.targets import SoftTargets, TeacherOutput, soft_targets

DistillationLoss = Callable[
    [XDict, Teacher, Triplets, CandidateLists], dict[str, Tensor]
]
Validate = Callable[[torch.nn.Module, tuple[Any, ...]], dict[str, float]]


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


class FrozenTeacher:
    """The constant output of a teacher.

    Args:
        targets: The output.
    """

    def __init__(self, targets: SoftTargets) -> None:
        self.targets = targets
        self.parts: dict[str, torch.nn.Module] = {}
        """What is trained with the student."""

    def __call__(self) -> Teacher:
        return self.targets

    def extend(
        self, values: dict[str, Tensor], weights: dict[str, float], output: Any
    ) -> None:
        """Adds the teacher's own losses of its output, and their weights, by name."""

    def hold(self, validate: Validate, monitor: str) -> None:
        """Called at the start and in every validation, with the function of a model and
        its inputs that returns the metrics, and the name of the monitored one.
        """

    def final_targets(self) -> SoftTargets:
        """The output after training."""
        return self.targets

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def __enter__(self) -> 'FrozenTeacher':
        return self

    def __exit__(self, *_: object) -> None:
        pass


class JointTeacher(FrozenTeacher):
    """Trains the prompt of a frozen teacher, within a ``with`` block.

    Args:
        teacher: Has its prompt as the attribute ``prompt``. Stays in eval mode.
        inputs: The arguments of the teacher.
        targets: Its output at the start, to which it is anchored.
        anchor_weight: The weight of the anchor.

    Raises:
        TypeError: If ``teacher`` is not a module (soft targets have no prompt).
        ValueError: If the teacher has no prompt, or has it disabled.
    """

    def __init__(
        self,
        teacher: Any,
        inputs: tuple[Any, ...],
        targets: SoftTargets,
        anchor_weight: float,
    ) -> None:
        super().__init__(targets)
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
        self.parts = {'prompt': prompt}
        self.anchor_weight = anchor_weight
        self._inputs = inputs
        self._floor: float | None = None
        self._held = self._prompt_state()
        self._required = {p: p.requires_grad for p in teacher.parameters()}
        self._modes = [(part, part.training) for part in teacher.modules()]
        teacher.requires_grad_(False)
        prompt.requires_grad_(True)

    def __call__(self) -> TeacherOutput:
        # The training loop sets the prompt to train mode in every epoch.
        self.teacher.eval()
        output: TeacherOutput = self.teacher(*self._inputs)
        return output

    def extend(
        self, values: dict[str, Tensor], weights: dict[str, float], output: Any
    ) -> None:
        """Adds the ``anchor``: the squared distance of the embeddings from those at the
        start, relative to their squared length, averaged over node types.
        """
        ratios = [
            (output.x_dict[key] - x).square().sum() / x.square().sum().clamp_min(1e-12)
            for key, x in self.targets.x_dict.items()
        ]
        values['anchor'] = torch.stack(ratios).mean()
        weights['anchor'] = self.anchor_weight

    def hold(self, validate: Validate, monitor: str) -> None:
        """Restores the prompt's last state in which the teacher was at least as good
        as in the first call, if it is worse now.
        """
        value = validate(self.teacher, self._inputs)[monitor]
        if self._floor is None:
            self._floor = value
        if value >= self._floor:
            self._held = self._prompt_state()
            return
        with torch.no_grad():
            for name, p in self.prompt.named_parameters():
                p.copy_(self._held[name])

    def final_targets(self) -> SoftTargets:
        return soft_targets(self.teacher, *self._inputs)

    def _prompt_state(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.prompt.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        return {'floor': self._floor, 'held': self._held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._floor, self._held = state['floor'], state['held']

    def __enter__(self) -> 'JointTeacher':
        return self

    def __exit__(self, *_: object) -> None:
        """Restores all flags of the teacher, also after an error."""
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
        for part, mode in self._modes:
            part.training = mode
