"""The paper's distillation losses, and lists of losses as one objective."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.schema import NODE_TYPES
from promptmm_pyg.distillation.adapters import (
    Adapter,
    OnEmbeddings,
    OnLists,
    OnPairs,
    Teacher,
    Views,
    XDict,
)
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    DecoupledKDLoss,
    PairwiseKDLoss,
    ScaledCosineLoss,
    UnitMSELoss,
)
from promptmm_pyg.targets import SoftTargets, TeacherOutput

DistillationLoss = Callable[
    [XDict, Teacher, Triplets, CandidateLists], dict[str, Tensor]
]


def promptmm_losses(
    *,
    pairwise_weight: float = 1.0,
    listwise_weight: float = 1.0,
    embedding_weight: float = 1.0,
    list_views: Views = 'all',
    view_weights: Literal['uniform', 'agreement'] | torch.nn.Module = 'uniform',
    embedding_views: Views = 'all',
    node_types: Sequence[NodeType] = NODE_TYPES,
    listwise: Literal['dkd', 'kl'] = 'dkd',
    alpha: float = 1.0,
    beta: float = 1.0,
    temperature: float = 1.0,
    gamma: float = 2.0,
    embedding_loss: Literal['scaled_cosine', 'unit_mse'] = 'scaled_cosine',
) -> list[Adapter]:
    r"""The three distillation losses of the `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper, the default of
    :func:`~promptmm_pyg.distillation.distill`.

    * ``pairwise``: :class:`~promptmm_pyg.losses.PairwiseKDLoss` on the margins of the
      fused teacher;
    * ``listwise``: :class:`~promptmm_pyg.losses.DecoupledKDLoss` on the candidate
      lists of each view;
    * ``embedding``: :class:`~promptmm_pyg.losses.ScaledCosineLoss` on the embeddings
      of each view, projected if widths differ.

    A *view* is the name of a modality or ``'fused'``, the final embeddings.

    Args:
        pairwise_weight: Weight of ``pairwise``. (default: ``1.0``)
        listwise_weight: Weight of ``listwise``. (default: ``1.0``)
        embedding_weight: Weight of ``embedding``. (default: ``1.0``)
        list_views: Views of ``listwise``. (default: ``'all'``)
        view_weights: How these are weighted, see
            :class:`~promptmm_pyg.distillation.OnLists`. (default: ``'uniform'``)
        embedding_views: Views of ``embedding``. (default: ``'all'``)
        node_types: Node types of ``embedding``. (default: both)
        listwise: ``'dkd'`` (decoupled) or ``'kl'``. (default: ``'dkd'``)
        alpha: Weight of the target part of ``'dkd'``. (default: ``1.0``)
        beta: Weight of its non-target part. (default: ``1.0``)
        temperature: Of ``pairwise`` and ``listwise``. (default: ``1.0``)
        gamma: Exponent of the scaled cosine error. (default: ``2.0``)
        embedding_loss: ``'scaled_cosine'`` or ``'unit_mse'``.
            (default: ``'scaled_cosine'``)

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> [loss.name for loss in promptmm_losses(listwise='kl')]
        ['pairwise', 'listwise', 'embedding']
    """
    check_choice('listwise', listwise, ('dkd', 'kl'))
    check_choice('embedding_loss', embedding_loss, ('scaled_cosine', 'unit_mse'))
    on_lists = DecoupledKDLoss(
        alpha=alpha,
        beta=beta,
        temperature=temperature,
        listwise=listwise,
        reduction='none',
    )
    on_rows = ScaledCosineLoss(gamma) if embedding_loss != 'unit_mse' else UnitMSELoss()
    return [
        OnPairs(PairwiseKDLoss(temperature), pairwise_weight),
        OnLists(on_lists, listwise_weight, list_views, view_weights),
        OnEmbeddings(on_rows, embedding_weight, embedding_views, node_types),
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
