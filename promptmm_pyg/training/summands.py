"""What one of several processes adds to the losses of a batch."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from promptmm_pyg._distributed import Share
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.models import FREEDOM, GRCN, LATTICE, MMGCN, NGCF, VBPR, LightGCNM

# Their terms are BPR and penalties on rows of a batch, all of them means over it.
_BY_EXAMPLE = (FREEDOM, GRCN, LATTICE, MMGCN, NGCF, VBPR, LightGCNM)

F = TypeVar('F', bound=Callable[..., Any])


def by_example(terms: F) -> F:
    """Marks named losses as means over the examples of a batch, and returns them:
    several processes then take a part of the batch each. Without the mark every
    process computes them on the whole batch, which is right for all losses.

    It is right to mark a function (or module) if each of its terms is a mean over the
    triplets of the batch or does not depend on the batch, and draws nothing at random
    that is as long as the batch. It is wrong for losses in which examples meet, such as
    in-batch negatives, and for means over the distinct nodes of a batch.

    Args:
        terms: Named losses for :func:`~promptmm_pyg.training.train_teacher`, or an
            objective for :func:`~promptmm_pyg.distillation.distill`.

    Example:
        >>> @by_example
        ... def terms(x_dict, batch):
        ...     x = x_dict['user'][batch.user]
        ...     return {'l2': x.square().sum(dim=1).mean()}
    """
    terms.by_example = True  # type: ignore[attr-defined]
    return terms


def is_by_example(terms: Callable[..., Any]) -> bool:
    """Whether terms are marked by :func:`by_example`, or a model's that are known."""
    known = getattr(terms, '__func__', terms)
    marked = bool(getattr(terms, 'by_example', False))
    return marked or any(known is model.losses for model in _BY_EXAMPLE)


def summands(
    terms: Callable[[Triplets], dict[str, Tensor]], batch: Triplets, divide: bool
) -> dict[str, Tensor]:
    """This process's summands of the terms of a batch that all processes hold: those of
    its part if the terms may be divided by example, an equal share of all if not.
    """
    share = Share.current()
    if share.size == 1:
        return terms(batch)
    if not divide:
        return scaled(terms(batch), 1 / share.size)
    part, fraction = share.part(*batch)
    return scaled(terms(Triplets(*part)), fraction)


def summands_of_objective(
    objective: Callable[..., dict[str, Tensor]],
    student: Mapping[str, Tensor],
    teacher: Any,
    batch: Triplets,
    lists: CandidateLists,
    share: Share,
) -> dict[str, Tensor]:
    """The terms of an objective as this process's summands of them. An objective may
    know best: ``objective.summands(student, teacher, batch, lists, share)``.
    """
    if share.size == 1:
        return objective(student, teacher, batch, lists)
    if _knows_best(objective):
        own: Callable[..., dict[str, Tensor]] = objective.summands  # type: ignore[attr-defined]
        return own(student, teacher, batch, lists, share)
    if not is_by_example(objective):
        return scaled(objective(student, teacher, batch, lists), 1 / share.size)
    part, part_lists, fraction = share_lists(share, batch, lists)
    return scaled(objective(student, teacher, part, part_lists), fraction)


def share_lists(
    share: Share, batch: Triplets, lists: CandidateLists
) -> tuple[Triplets, CandidateLists, float]:
    """This process's examples, their lists, and which fraction of all they are."""
    given = [x for x in lists if x is not None]
    part, fraction = share.part(*batch, *given)
    return Triplets(*part[:3]), CandidateLists(*part[3:]), fraction


def scaled(terms: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Every term times ``fraction``."""
    return {name: fraction * term for name, term in terms.items()}


def _knows_best(objective: Callable[..., Any]) -> bool:
    """Whether ``summands`` is of no older class than ``forward``."""
    for cls in type(objective).__mro__:
        if 'summands' in vars(cls):
            return True
        if 'forward' in vars(cls):
            return False
    return False
