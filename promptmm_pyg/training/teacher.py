"""Stage one: teacher and prompt together, on interactions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.functional import rows
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import bpr_loss, squared_norm
from promptmm_pyg.models import PromptMM
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training.amortized import AmortizedTerms
from promptmm_pyg.training.devices import check_graph_device
from promptmm_pyg.training.history import History
from promptmm_pyg.training.inputs import check_monitor, triplet_loader, validation
from promptmm_pyg.training.loop import Schedule, Terms, fit
from promptmm_pyg.training.optimizer import OptimizerKind, make_optimizer
from promptmm_pyg.training.row_tables import looked_up
from promptmm_pyg.training.summands import by_example, is_by_example, summands

TEACHER_WEIGHTS: Mapping[str, float] = PromptMM.loss_weights


@by_example
def bpr_terms(x_dict: Mapping[str, torch.Tensor], batch: Triplets) -> Terms:
    """BPR and the penalty on the rows of one batch, for any embedding model."""
    user_x, item_x = x_dict[USER], x_dict[ITEM]
    user, positive, negative = (
        rows(user_x, batch.user),
        rows(item_x, batch.positive),
        rows(item_x, batch.negative),
    )
    return {
        'bpr': bpr_loss((user * positive).sum(-1), (user * negative).sum(-1)),
        'l2': squared_norm(user, positive, negative),
    }


@by_example
def promptmm_terms(output: TeacherOutput, batch: Triplets) -> Terms:
    r"""The losses of PromptMM's teacher on one batch.

    ``bpr`` and ``l2`` on the fused embeddings; ``prompt_bpr`` on the prompts alone;
    ``modality_bpr``, averaged over the modalities; ``modality_l2``, half the mean
    squared norm of the modality vectors. Terms of parts that a teacher does not
    have are zero.

    Args:
        output: What the teacher returned.
        batch: User, positive and negative items ``[B]``.
    """
    model = PromptMM.__new__(PromptMM)
    torch.nn.Module.__init__(model)
    model.user, model.item = USER, ITEM
    return model.losses(output, batch)


def train_teacher(
    teacher: torch.nn.Module,
    train: HeteroData,
    val: HeteroData,
    *,
    inputs: tuple[Any, ...] | None = None,
    terms: Callable[[Any, Triplets], Terms] = promptmm_terms,
    weights: Mapping[str, float] = TEACHER_WEIGHTS,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: OptimizerKind = 'dense',
    batch_size: int = 2048,
    propagate_every: int = 1,
    negative_items: torch.Tensor | None = None,
    seed: int = 0,
    schedule: Schedule | None = None,
) -> History:
    """Trains a teacher and leaves it in the state that was best on validation.

    Any module whose forward returns a
    :class:`~promptmm_pyg.targets.TeacherOutput` will do, and so will any embedding
    model that returns ``x_dict`` with ``terms=bpr_terms``. The global random
    generator is seeded, for dropout.

    Several processes train together where ``torch.distributed`` is initialized, see
    :func:`~promptmm_pyg.training.process_group`.

    Args:
        teacher: Called as ``teacher(*inputs)``.
        train: Graph whose message edges are the training interactions.
        val: Graph with validation positives as ``edge_label_index``.
        inputs: Arguments of the teacher. (default: its message operators,
            :func:`~promptmm_pyg.models.inference.normalized_adj_dict`)
        terms: Named losses of an output on a batch.
            (default: :func:`promptmm_terms`)
        weights: One weight per term. (default: ``TEACHER_WEIGHTS``)
        learning_rate: Of Adam. (default: ``1e-3``)
        weight_decay: Decoupled (AdamW). (default: ``0.0``)
        optimizer: ``'dense'``, or ``'lazy'`` to update only the rows of a batch in
            tables that the model returns as they are
            (:class:`~promptmm_pyg.training.LazyAdamW`). (default: ``'dense'``)
        batch_size: Interactions per batch, of all processes. (default: ``2048``)
        propagate_every: Batches that share one forward of the teacher and one step:
            the step that ``batch_size * propagate_every`` gives, with the memory of
            ``batch_size``, where terms are means over a batch
            (:class:`~promptmm_pyg.training.AmortizedTerms` tells what differs). An
            epoch has fewer steps. (default: ``1``)
        negative_items: Ids of the items that negatives are drawn among, ``[N]``.
            (default: every item)
        seed: Seed of batches, negatives and dropout. (default: ``0``)
        schedule: Epochs, patience, monitor, run directory, resume.

    Raises:
        ValueError: If the weights do not match the terms, the monitor is unknown,
            options do not fit each other, or the graph is on another device than the
            teacher.
        FloatingPointError: If the loss becomes infinite or NaN.
    """
    schedule = schedule or Schedule()
    check_monitor(schedule.monitor, val)
    _check_shared(propagate_every, optimizer)
    check_graph_device('teacher', teacher, train)
    torch.manual_seed(seed)
    loader = triplet_loader(
        train,
        batch_size=batch_size * propagate_every,
        seed=seed,
        negative_items=negative_items,
    )
    arguments = (normalized_adj_dict(train),) if inputs is None else inputs

    def batch_terms(batch: Triplets) -> Terms:
        return terms(looked_up(teacher(*arguments), optimizer), batch)

    shared_terms = AmortizedTerms(
        lambda: teacher(*arguments), terms, weights, teacher.parameters(), batch_size
    )
    step_terms = batch_terms if propagate_every == 1 else shared_terms
    divide = is_by_example(terms)

    return fit(
        teacher,
        make_optimizer(teacher.parameters(), learning_rate, weight_decay, optimizer),
        loader,
        terms=lambda batch: summands(step_terms, batch, divide),
        divided=True,
        weights=weights,
        validate=lambda: validation(teacher, arguments, val, schedule.monitor),
        schedule=schedule,
        name=type(teacher).__name__,
    )


def _check_shared(propagate_every: int, optimizer: OptimizerKind) -> None:
    check_positive('propagate_every', propagate_every)
    if propagate_every > 1 and optimizer == 'lazy':
        raise ValueError(
            f"'propagate_every' must be 1 with optimizer='lazy' (got "
            f'{propagate_every}). Tables that are returned as they are have no forward '
            f'to share'
        )
