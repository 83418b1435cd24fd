"""Stage two: the student learns from interactions and from its teacher."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._distributed import Share, run_on_rank0
from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.distillation.candidates import CandidateSampler, CandidateSampling
from promptmm_pyg.distillation.joint import JointTeacher
from promptmm_pyg.distillation.objective import DistillationObjective
from promptmm_pyg.distillation.truncate import truncate_embeddings
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models.base import bpr_of as bpr_term
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import SoftTargets, soft_targets
from promptmm_pyg.training.devices import check_graph_device, check_targets_device
from promptmm_pyg.training.distributed import (
    assert_same_rows_across_ranks,
    broadcast_module,
)
from promptmm_pyg.training.history import History
from promptmm_pyg.training.inputs import (
    check_monitor,
    cutoff,
    triplet_loader,
    validation,
)
from promptmm_pyg.training.loop import CHECKPOINT, Schedule, Terms, fit
from promptmm_pyg.training.optimizer import OptimizerKind, make_optimizer
from promptmm_pyg.training.row_tables import looked_up
from promptmm_pyg.training.summands import summands, summands_of_objective
from promptmm_pyg.training.teacher import bpr_terms

CONTROL_WEIGHTS: Mapping[str, float] = {'bpr': 1.0, 'l2': 1e-3}
STUDENT_WEIGHTS: Mapping[str, float] = {
    **CONTROL_WEIGHTS,
    'pairwise': 1.0,
    'listwise': 1.0,
    'embedding': 1.0,
}


class DistillationResult(NamedTuple):
    """A trained student, and what to hold it against."""

    student: torch.nn.Module
    history: History
    targets: SoftTargets
    """Of the teacher as it was in the end."""
    control: torch.nn.Module | None
    """The same student, from the same start and batches, without a teacher."""
    control_history: History | None
    copied: dict[str, float]
    """Validation metrics of the teacher's tables in the student's place, cut to its
    width (:func:`~promptmm_pyg.distillation.truncate_embeddings`)."""


def distill(
    student: torch.nn.Module,
    teacher: torch.nn.Module | SoftTargets,
    train: HeteroData,
    val: HeteroData,
    *,
    objective: torch.nn.Module | None = None,
    prompt: Literal['frozen', 'joint'] = 'frozen',
    candidates: CandidateSampling | None = None,
    weights: Mapping[str, float] = STUDENT_WEIGHTS,
    teacher_bpr_weight: float = 1.0,
    control: bool = True,
    control_weights: Mapping[str, float] | None = None,
    inputs: tuple[Any, ...] | None = None,
    teacher_inputs: tuple[Any, ...] | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: OptimizerKind = 'dense',
    batch_size: int = 2048,
    negative_items: torch.Tensor | None = None,
    seed: int = 0,
    schedule: Schedule | None = None,
) -> DistillationResult:
    """Trains a student on interactions and on its teacher, and leaves it in the state
    that was best on validation.

    With ``prompt='frozen'`` the teacher is asked once, in eval mode; it takes no
    further part, and :class:`~promptmm_pyg.targets.SoftTargets` alone will do. With
    ``prompt='joint'``, the paper's second stage, the teacher's weights stay as they
    are, bit for bit, while its prompt is tuned through the student's losses. On its
    own that would let the teacher drift towards the student, so the teacher's own
    BPR stays in the objective as an anchor.

    Several processes train together where ``torch.distributed`` is initialized, see
    :func:`~promptmm_pyg.training.process_group`.

    Args:
        student: Called as ``student(*inputs)``, returns ``x_dict``. Its present
            parameters are the start.
        teacher: A module that returns a
            :class:`~promptmm_pyg.targets.TeacherOutput`, or its soft targets.
        train: Graph whose message edges are the training interactions.
        val: Graph with validation positives as ``edge_label_index``.
        objective: The distillation losses; any module that is called as
            ``objective(student, teacher, batch, lists)`` and returns named scalars,
            each with a weight in ``weights``. (default: ``DistillationObjective``
            of all views)
        prompt: ``'frozen'`` or ``'joint'``. (default: ``'frozen'``)
        candidates: What the lists are made of. (default: ten uniform negatives)
        weights: One weight per term. (default: ``STUDENT_WEIGHTS``)
        teacher_bpr_weight: Weight of the teacher's own BPR with ``prompt='joint'``.
            (default: ``1.0``)
        control: Also train the same student, from the same start, on the same
            batches, without its teacher. (default: ``True``)
        control_weights: Weights of the control's ``bpr`` and ``l2``. A student alone
            needs a stronger penalty than one with a teacher: tune both before their
            difference is believed. (default: those among ``weights``)
        inputs: Arguments of the student. (default: its message operators)
        teacher_inputs: Arguments of the teacher. (default: its message operators)
        learning_rate: Of Adam. (default: ``1e-3``)
        weight_decay: Decoupled (AdamW). (default: ``0.0``)
        optimizer: ``'dense'``, or ``'lazy'`` to update only the rows of a batch, for
            students that return their tables as they are
            (:class:`~promptmm_pyg.training.LazyAdamW`). (default: ``'dense'``)
        batch_size: Interactions per step, of all processes. (default: ``2048``)
        negative_items: Ids of the items that negatives and all candidates are drawn
            among, ``[N]``. (default: every item)
        seed: Seed of batches, negatives, candidates and dropout. (default: ``0``)
        schedule: Epochs, patience, monitor, run directory (with the control in its
            folder ``control``), resume.

    Raises:
        ValueError: If options do not fit each other or the teacher, or if student,
            teacher and graph are not on one device.
        FloatingPointError: If the loss becomes infinite or NaN.
    """
    check_choice('prompt', prompt, ('frozen', 'joint'))
    check_positive('teacher_bpr_weight', teacher_bpr_weight)
    schedule = schedule or Schedule()
    check_monitor(schedule.monitor, val)
    operators = (normalized_adj_dict(train),)
    inputs = operators if inputs is None else inputs
    teacher_inputs = operators if teacher_inputs is None else teacher_inputs
    check_graph_device('student', student, train)
    targets = _targets(teacher, teacher_inputs)
    check_targets_device(student, targets.x_dict)
    control_weights = _control_weights(weights, control_weights)
    start = copy.deepcopy(student)
    torch.manual_seed(seed)
    if objective is None:
        objective = DistillationObjective(targets, _width(student, inputs))
        # Its projections are multiplied with what the student returns.
        objective.to(next(student.parameters()))
    joint = None
    if prompt == 'joint':
        joint = JointTeacher(teacher, teacher_inputs)
        weights = {**weights, 'anchor': teacher_bpr_weight}
    source = CandidateSampler(
        candidates or CandidateSampling(), train, targets, seed, negative_items
    )

    def distillation_terms(batch: Triplets) -> Terms:
        x_dict = looked_up(student(*inputs), optimizer)
        output = targets if joint is None else joint()
        terms = summands(partial(bpr_terms, x_dict), batch, divide=True)
        lists = source.lists(batch)  # Drawn for all processes' examples by each.
        terms.update(
            summands_of_objective(
                objective, x_dict, output, batch, lists, Share.current()
            )
        )
        if joint is not None:
            anchor = partial(bpr_term, output.x_dict, USER, ITEM)
            terms.update(
                summands(lambda part: {'anchor': anchor(part)}, batch, divide=True)
            )
        return terms

    def control_terms(batch: Triplets) -> Terms:
        x_dict = looked_up(start(*inputs), optimizer)
        return summands(partial(bpr_terms, x_dict), batch, divide=True)

    def run(module: torch.nn.Module, model: torch.nn.Module, **kwargs: Any) -> History:
        return fit(
            module,
            make_optimizer(module.parameters(), learning_rate, weight_decay, optimizer),
            triplet_loader(
                train, batch_size=batch_size, seed=seed, negative_items=negative_items
            ),
            validate=lambda: validation(model, inputs, val, schedule.monitor),
            divided=True,
            **kwargs,
        )

    parts = {'student': student, 'objective': objective}
    if joint is not None:
        parts['prompt'] = joint.prompt
    with joint or nullcontext():
        history = run(
            torch.nn.ModuleDict(parts),
            student,
            terms=distillation_terms,
            weights=weights,
            schedule=schedule,
            stateful={'candidates': source},
            on_epoch=lambda epoch: source.refresh(
                epoch, lambda: get_embeddings(student, inputs)
            ),
            name='student',
        )
    if joint is not None:
        targets = soft_targets(joint.teacher, *teacher_inputs)
    control_history = None
    if control:
        control_history = run(
            start,
            start,
            terms=control_terms,
            weights=control_weights,
            schedule=_beside(schedule),
            name='control',
        )
    return DistillationResult(
        student,
        history,
        targets,
        start if control else None,
        control_history,
        evaluate(
            truncate_embeddings(targets.x_dict, _width(student, inputs)),
            val,
            ks=(cutoff(schedule.monitor),),
        ).metrics,
    )


def _targets(
    teacher: torch.nn.Module | SoftTargets, inputs: tuple[Any, ...]
) -> SoftTargets:
    """What the teacher says, the same in all processes."""
    if isinstance(teacher, SoftTargets):
        for x in teacher.x_dict.values():
            # A few rows: tables may be mapped from disk, and large.
            assert_same_rows_across_ranks('teacher', x[:: max(1, x.size(0) // 100)])
        return teacher
    broadcast_module(teacher)
    return soft_targets(teacher, *inputs)


def _control_weights(
    weights: Mapping[str, float], own: Mapping[str, float] | None
) -> Mapping[str, float]:
    if own is None:
        return {k: weight for k, weight in weights.items() if k in CONTROL_WEIGHTS}
    if set(own) != set(CONTROL_WEIGHTS):
        raise ValueError(
            f"'control_weights' requires a weight for each of {sorted(CONTROL_WEIGHTS)} "
            f'and no other (got {sorted(own)})'
        )
    return own


def _width(student: torch.nn.Module, inputs: tuple[Any, ...]) -> int:
    return int(get_embeddings(student, inputs)[ITEM].size(-1))


def _beside(schedule: Schedule) -> Schedule:
    """The schedule of the control, which has a folder of its own in the run's."""
    if schedule.run_dir is None:
        return schedule
    folder = Path(schedule.run_dir) / 'control'
    # The student may have been interrupted before its control began.
    resume = schedule.resume and run_on_rank0((folder / CHECKPOINT).is_file)
    return schedule._replace(run_dir=folder, resume=resume)
