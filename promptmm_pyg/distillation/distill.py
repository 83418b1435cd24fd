"""Training a student on interactions and on its teacher."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._distributed import assert_equal_across_ranks
from promptmm_pyg._utils import check_choice, check_non_negative, check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM
from promptmm_pyg.data.split import Split
from promptmm_pyg.distillation.candidates import CandidateSampler, CandidateSampling
from promptmm_pyg.distillation.methods import promptmm_losses
from promptmm_pyg.distillation.objective import (
    DistillationLoss,
    FrozenTeacher,
    JointTeacher,
    Objective,
)
from promptmm_pyg.distillation.search import (
    BASELINE,
    in_folder,
    retried_at_random,
    search,
)
from promptmm_pyg.distillation.start import (
    STARTS,
    Start,
    check_sharded,
    start_student,
    truncate_embeddings,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.targets import SoftTargets, TeacherOutput, soft_targets
from promptmm_pyg.training.config import TrainingConfig
from promptmm_pyg.training.distributed import (
    assert_same_data_across_ranks,
    assert_same_rows_across_ranks,
    broadcast_module,
)
from promptmm_pyg.training.history import History
from promptmm_pyg.training.loop import (
    Step,
    StepOutput,
    fit,
    step_output,
)
from promptmm_pyg.training.sharded import BatchRows, looks_up_rows
from promptmm_pyg.training.train import (
    LossFunction,
    lazy_tables,
    negative_pool,
    resolve_losses,
    triplet_loader,
    whole_graph_step,
)
from promptmm_pyg.training.validation import (
    check_device,
    check_monitor,
    check_split,
    cutoff,
    sample_users,
    validation,
)

CLOSED_FORM_WIDTH = 64
# Of the baseline: training from the truncated teacher adds a few percent at most.
_WEAK = 0.95


class DistillationResult(NamedTuple):
    """A trained student, and what to compare it with."""

    student: torch.nn.Module
    history: History
    targets: SoftTargets
    """The output of the teacher at the end."""
    baseline: torch.nn.Module | None
    """The same student without distillation: a random start, the same batches."""
    baseline_history: History | None
    truncated_teacher: dict[str, Tensor]
    """The teacher's embeddings at the student's width, without training
    (:func:`~promptmm_pyg.distillation.truncate_embeddings`)."""
    start: Start
    """From where the student was trained; of ``'best'`` the one that was chosen."""
    trials: list[dict[str, float]] | None = None
    """The settings that were tried and the validation metric of ``student`` and
    ``baseline`` with each. (``None``: no search, so the baseline is not tuned)"""


def distill(
    student: torch.nn.Module,
    teacher: torch.nn.Module | SoftTargets | ClosedForm[Any],
    data: Split,
    *,
    start: Start | Literal['best'] = 'best',
    losses: Sequence[DistillationLoss] | None = None,
    loss_weights: Mapping[str, float] | None = None,
    prompt: Literal['frozen', 'joint'] = 'frozen',
    candidates: CandidateSampling | None = None,
    config: TrainingConfig | None = None,
    baseline: bool = True,
    baseline_loss_weights: Mapping[str, float] | None = None,
    tune: int = 0,
    anchor_weight: float = 10.0,
    negative_items: Tensor | None = None,
    inputs: tuple[Any, ...] | None = None,
    teacher_inputs: tuple[Any, ...] | None = None,
) -> DistillationResult:
    """Trains a student on interactions and on its teacher, and restores the state that
    was best on ``data.val``. ``data.test`` is not read.

    The student starts from its SVD-truncated teacher
    (:func:`~promptmm_pyg.distillation.start_student`), unless this is below 95 % of the
    baseline on ``data.val``: a weak teacher would hold the student back. It is
    validated before the first epoch, too, and never below such a start there. If it
    ends below the baseline, it is trained again from a random start, in the folder
    ``random`` of the run, and the better student is returned.

    With ``prompt='frozen'`` the teacher runs once, in eval mode, and its
    :class:`~promptmm_pyg.targets.SoftTargets` can replace it. With ``prompt='joint'``,
    the paper's second stage, the teacher's weights stay bitwise the same while its
    prompt is tuned through the student's losses. These could also be lowered by a worse
    teacher, so its embeddings are anchored to those at the start; and where a
    validation finds it worse than at the start, the prompt returns to its last state in
    which it was not. So the teacher of the result is at least as good on ``data.val``.

    A distillation loss is an adapter (:class:`~promptmm_pyg.distillation.OnPairs`,
    ``OnLists``, ``OnEmbeddings``, ``OnTopK``) or any callable of ``(student, teacher,
    batch, lists)``: the embeddings of the student, the teacher's output, the
    :class:`~promptmm_pyg.loader.Triplets` and their
    :class:`~promptmm_pyg.loader.CandidateLists`. It returns a dictionary of scalars,
    which are multiplied by its attribute ``weight`` (one without). A module among them
    is trained with the student, on its device and in its precision; its
    ``setup(targets, width, train)`` is called first, if it has one.

    In a ``torch.distributed`` group (:func:`~promptmm_pyg.training.process_group`)
    every process trains on its shard of each batch, and gradients are averaged.

    Args:
        student: Called as ``student(*inputs)``; its current parameters are the start of
            the baseline.
        teacher: A module that returns a
            :class:`~promptmm_pyg.targets.TeacherOutput`, or embeddings by node type,
            such as a student that assists the teacher; its soft targets; or a fitted
            model in closed form, which teaches by ``as_output`` at the width of the
            student or 64, whichever is larger (at most the number of users or items).
        data: The message edges of ``data.train`` are the training interactions; the
            positives of ``data.val`` are its ``edge_label_index``.
        start: The start of the student: ``'truncated'``, the SVD-truncated teacher;
            ``'random'``, its current parameters; ``'teacher tables'``, the id tables of
            a teacher of its width; or ``'best'``, the better one on ``data.val``:
            random where the truncated teacher is below 95 % of the baseline, or where
            the student ends better; without baseline, or with ``prompt='joint'``,
            training is not repeated. (default: ``'best'``)
        losses: The distillation losses. (default: ``promptmm_losses()``)
        loss_weights: Weights of the student's own losses; names that are left out keep
            the student's weight. (default: ``student.loss_weights``; for a module
            without, ``{'bpr': 1.0, 'l2': 1e-3}``)
        prompt: ``'frozen'`` or ``'joint'``. (default: ``'frozen'``)
        candidates: What candidate lists contain. (default: ten uniform negatives, and
            ten of the best items of each of teacher and student)
        config: Optimizer, batches, length, monitor, folder. (default:
            ``TrainingConfig()``)
        baseline: Whether to train the same student without its teacher, too, in the
            folder ``baseline`` of the run. (default: ``True``)
        baseline_loss_weights: Weights of the baseline's losses. A student without a
            teacher needs a stronger penalty: tune both before comparing them.
            (default: ``loss_weights``)
        tune: The number of settings to try, each for student and baseline, of which
            the best on validation are returned: the given learning rate and weight of
            ``l2``, then points between a tenth of the rate and four times, and
            between 0.0001 and 0.3. Costs as many trainings. (default: ``0``, no
            search: the baseline has the settings of the student and is not tuned)
        anchor_weight: With ``prompt='joint'``, weight of the ``anchor``, the squared
            distance of the teacher's embeddings from those at the start, relative to
            their squared length. (default: ``10.0``)
        negative_items: Ids of the items that negatives and all candidates are drawn
            from, ``[N]``. (default: the items with training interactions)
        inputs: Arguments of the student. (default: the normalized message edges of
            ``data.train``)
        teacher_inputs: Arguments of the teacher. (default: the same)

    Raises:
        ValueError: If options exclude each other or do not fit the teacher, or if
            student, teacher and graph are on different devices.
        FloatingPointError: If the loss becomes infinite or NaN.
    """
    check_choice('prompt', prompt, ('frozen', 'joint'))
    check_choice('start', start, ('best', *STARTS))
    check_positive('anchor_weight', anchor_weight)
    check_non_negative('tune', tune)
    check_split(data)
    given = config or TrainingConfig()
    num_interactions = data.train[INTERACTS].edge_index.size(1)
    config = given.resolve(num_interactions)
    _check_config(config)
    if tune:
        if baseline_loss_weights is not None:
            raise ValueError(
                f"'baseline_loss_weights' must be left out with 'tune' (got "
                f'{dict(baseline_loss_weights)}), which searches them'
            )
        again = partial(
            distill,
            data=data,
            start=start,
            losses=losses,
            prompt=prompt,
            candidates=candidates,
            baseline=baseline,
            anchor_weight=anchor_weight,
            negative_items=negative_items,
            inputs=inputs,
            teacher_inputs=teacher_inputs,
        )
        weights = resolve_losses(student, None, loss_weights)[1]
        config = replace(config, validate_every=given.validate_every)
        return search(again, student, teacher, weights, config, tune)
    check_monitor(config.monitor, data.val)
    assert_same_data_across_ranks(data.train, data.val)
    train, val = data.train, sample_users(data.val, config.validation_users)
    negative_items = negative_pool(negative_items, train)
    adj = (normalized_adj_dict(train),)
    inputs = adj if inputs is None else inputs
    teacher_inputs = adj if teacher_inputs is None else teacher_inputs
    check_device('data.train', train[INTERACTS].edge_index, 'student', student)
    width = int(get_embeddings(student, inputs)[ITEM].size(-1))
    targets = _targets(teacher, teacher_inputs, width)
    check_device('teacher', targets.x_dict[ITEM], 'student', student)
    own_losses, own_weights = resolve_losses(student, None, loss_weights)
    baseline_weights = own_weights
    if baseline_loss_weights is not None:
        _, baseline_weights = resolve_losses(student, None, baseline_loss_weights)
    assert_equal_across_ranks('loss_weights', (own_weights, baseline_weights))
    untrained = copy.deepcopy(student)
    is_open = start == 'best' and baseline and prompt == 'frozen'
    fresh = copy.deepcopy((student, losses)) if is_open else None
    check_sharded(student, losses or (), start)
    torch.manual_seed(config.seed)
    objective = _objective(losses, targets, width, data, student)
    source = FrozenTeacher(targets)
    if prompt == 'joint':
        source = JointTeacher(teacher, teacher_inputs, targets, anchor_weight)
    sampler = CandidateSampler(
        candidates or CandidateSampling(), train, targets, config.seed, negative_items
    )
    step = distillation_step(
        student, inputs, own_losses, own_weights, objective, source
    )
    validate = partial(validation, val=val, monitor=config.monitor)

    def validate_student() -> dict[str, float]:
        source.hold(validate, config.monitor)
        return validate(student, inputs)

    def run(
        module: torch.nn.Module,
        model: torch.nn.Module,
        step: Step,
        config: TrainingConfig,
        *,
        is_started: bool = False,
        **kwargs: Any,
    ) -> History:
        config = config.resolve(num_interactions, is_started=is_started)
        loader = triplet_loader(
            train,
            batch_size=int(config.batch_size),
            seed=config.seed,
            negative_items=negative_items,
        )
        with lazy_tables(model, inputs, config):
            return fit(
                module,
                step,
                loader,
                config=config,
                validate_start=is_started,
                **kwargs,
            )

    baseline_history = None
    own_config = given
    if baseline:
        own_config, baseline_config = _configs(given)
        baseline_step = whole_graph_step(
            untrained,
            inputs,
            resolve_losses(untrained, None, None)[0],
            baseline_weights,
            config,
        )
        baseline_history = run(
            untrained,
            untrained,
            baseline_step,
            baseline_config,
            validate=lambda: validate(untrained, inputs),
            name=BASELINE,
        )
    used = _start(start, targets, width, baseline_history, val, config.monitor)
    start_student(student, targets, start=used, inputs=inputs, teacher=teacher)
    if config.validate_every:
        source.hold(validate, config.monitor)
    parts = {'student': student, 'objective': objective, **source.parts}
    with source:
        history = run(
            torch.nn.ModuleDict(parts),
            student,
            step,
            own_config,
            validate=validate_student,
            lists=sampler.lists,
            stateful={'candidates': sampler, 'teacher': source},
            is_started=used != 'random',
            on_epoch=lambda epoch: sampler.refresh(
                epoch, lambda: get_embeddings(student, inputs)
            ),
            name='student',
        )
    targets = source.final_targets()
    result = DistillationResult(
        student,
        history,
        targets,
        untrained if baseline else None,
        baseline_history,
        truncate_embeddings(targets.x_dict, width),
        used,
    )
    if fresh is None:
        return result
    again = partial(
        distill,
        fresh[0],
        targets,
        data,
        start='random',
        losses=fresh[1],
        loss_weights=loss_weights,
        candidates=candidates,
        baseline=False,
        negative_items=negative_items,
        inputs=inputs,
    )
    return retried_at_random(result, again, given)


def distillation_step(
    student: torch.nn.Module,
    inputs: tuple[Any, ...],
    own_losses: LossFunction,
    own_weights: Mapping[str, float] | None,
    objective: Objective,
    source: FrozenTeacher,
) -> Step:
    """The losses of the student, of the teacher and of both, on a batch."""
    on_rows = looks_up_rows(student)

    def step(batch: Triplets, lists: CandidateLists | None) -> StepOutput:
        teacher_output = target = source()
        if on_rows:
            nodes = BatchRows.of(batch, lists)
            n_id_dict, batch, lists = nodes
            output, target = student(n_id_dict=n_id_dict), nodes.cut(teacher_output)
        else:
            output = student(*inputs)
        x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
        assert lists is not None
        values = own_losses(output, batch)
        weights = dict.fromkeys(values, 1.0) if own_weights is None else {**own_weights}
        objective.extend(values, weights, x_dict, target, batch, lists)
        source.extend(values, weights, teacher_output)
        return step_output(values, weights)

    return step


def _objective(
    losses: Sequence[DistillationLoss] | None,
    targets: SoftTargets,
    width: int,
    data: Split,
    student: torch.nn.Module,
) -> Objective:
    """The distillation losses, on the device and in the precision of the student."""
    objective = Objective(promptmm_losses() if losses is None else losses)
    objective.setup(targets, width, data.train)
    parameter = next(student.parameters(), None)
    return objective if parameter is None else objective.to(parameter)


def _configs(config: TrainingConfig) -> tuple[TrainingConfig, TrainingConfig]:
    """Those of student and baseline, of which the latter is trained first."""
    own, baseline = in_folder(config), in_folder(config, BASELINE)
    if config.resume and not baseline.resume:
        raise FileNotFoundError(
            f"'config' must have resume=False where nothing was trained (got "
            f"resume=True, and no checkpoint in '{baseline.run_dir}')"
        )
    return own, baseline


def _start(
    start: Start | Literal['best'],
    targets: SoftTargets,
    width: int,
    baseline: History | None,
    val: HeteroData,
    monitor: str,
) -> Start:
    """The start, of ``'best'`` a random one where the truncated teacher is far below
    the baseline.
    """
    if start != 'best':
        return start
    if baseline is None or not baseline.best_metrics:
        return 'truncated'
    truncated = truncate_embeddings(targets.x_dict, width)
    value = evaluate(truncated, val, ks=(cutoff(monitor),)).metrics[monitor]
    return 'random' if value < _WEAK * baseline.best_value else 'truncated'


def _check_config(config: TrainingConfig) -> None:
    if config.propagate_every > 1 or config.samples_neighbors:
        raise ValueError(
            f"'config' must have propagate_every=1 and num_neighbors='auto' or None "
            f"for 'distill' (got {config.propagate_every} and "
            f'{config.num_neighbors})'
        )


def _targets(
    teacher: torch.nn.Module | SoftTargets | ClosedForm[Any],
    inputs: tuple[Any, ...],
    width: int,
) -> SoftTargets:
    """The teacher's output, the same in all processes."""
    if isinstance(teacher, ClosedForm):
        width = min(max(CLOSED_FORM_WIDTH, width), teacher.num_users, teacher.num_items)
        return SoftTargets.from_output(teacher.as_output(width))
    if isinstance(teacher, SoftTargets):
        for x in teacher.x_dict.values():
            # A few rows: tables may be large and memory-mapped.
            assert_same_rows_across_ranks('teacher', x[:: max(1, x.size(0) // 100)])
        return teacher
    broadcast_module(teacher)
    return soft_targets(teacher, *inputs)
