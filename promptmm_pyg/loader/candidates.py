"""Candidate lists for list-wise distillation."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_non_negative, check_positive
from promptmm_pyg.loader.triplets import ExactNegativeSampler


class CandidateLists(NamedTuple):
    """One list per user; all tensors are ``[B, K]``."""

    item_index: Tensor
    """The candidates; the positive is the first."""
    target_mask: Tensor
    """True for the positive."""
    mask: Tensor | None = None
    """True for the candidates to use; ``None`` for all."""


def uniform_candidates(
    sampler: ExactNegativeSampler,
    users: Tensor,
    positives: Tensor,
    num_negatives: int = 10,
    generator: torch.Generator | None = None,
) -> CandidateLists:
    """Lists of one positive and negatives drawn uniformly from the user's unobserved
    items.

    Args:
        sampler: The sampler of the training interactions.
        users: User ids ``[B]``.
        positives: One observed item per user ``[B]``.
        num_negatives: The number of negatives. (default: ``10``)
        generator: Source of randomness. (default: the global one)

    Raises:
        ValueError: If ``num_negatives`` is not positive or a user has no negative.
    """
    check_positive('num_negatives', num_negatives)
    negatives = sampler.sample(users, num_negatives, generator)
    item_index = torch.cat([positives[:, None], negatives], dim=1)
    return CandidateLists(item_index, _first_column(item_index))


def mixed_candidates(
    sampler: ExactNegativeSampler,
    users: Tensor,
    positives: Tensor,
    teacher_top: Tensor,
    student_top: Tensor,
    *,
    num_teacher_topk: int = 10,
    num_student_topk: int = 10,
    num_uniform: int = 10,
    generator: torch.Generator | None = None,
) -> CandidateLists:
    """Lists of one positive, items from the teacher's top, items from the student's top
    and uniform negatives.

    Uniform negatives are rarely among the top of a list, where a student should match
    its teacher. Repeated items are used once, training positives never. A top is
    divided into equal slices with one draw from each, so every item has the same
    probability and a draw covers the whole top.

    Args:
        sampler: The sampler of the training interactions.
        users: User ids ``[B]``.
        positives: One observed item per user ``[B]``.
        teacher_top: The teacher's best items per user ``[num_users, N]``, padded
            with -1.
        student_top: The student's ``[num_users, M]``, padded with -1.
        num_teacher_topk: Draws from the teacher's. (default: ``10``)
        num_student_topk: Draws from the student's. (default: ``10``)
        num_uniform: Uniform negatives, at least one. (default: ``10``)
        generator: Source of randomness. (default: the global one)

    Raises:
        ValueError: If a number is out of range, a top does not have one row per user,
            or a user has no negative.
    """
    for name, number in (
        ('num_teacher_topk', num_teacher_topk),
        ('num_student_topk', num_student_topk),
    ):
        check_non_negative(name, number)
    check_positive('num_uniform', num_uniform)
    for name, top in (('teacher_top', teacher_top), ('student_top', student_top)):
        if top.dim() != 2 or top.size(0) != sampler.num_users or top.size(1) == 0:
            raise ValueError(
                f"'{name}' must have the shape [{sampler.num_users}, N], one row "
                f'per user (got {list(top.size())})'
            )
    item_index = torch.cat(
        [
            positives[:, None],
            _draw(teacher_top, users, num_teacher_topk, generator),
            _draw(student_top, users, num_student_topk, generator),
            sampler.sample(users, num_uniform, generator),
        ],
        dim=1,
    )
    target_mask = _first_column(item_index)
    padding = item_index < 0
    item_index = item_index.clamp_min(0)
    negative = ~(padding | sampler.is_positive(users[:, None], item_index))
    mask = (negative & ~_repeated(item_index.masked_fill(padding, -1))) | target_mask
    return CandidateLists(item_index, target_mask, mask)


def _draw(
    top: Tensor, users: Tensor, number: int, generator: torch.Generator | None
) -> Tensor:
    """One item from each of ``number`` slices of equal length."""
    uniform = torch.rand(
        (users.numel(), number), generator=generator, device=users.device
    )
    slices = torch.arange(number, device=users.device)
    position = (slices + uniform) * (top.size(1) / max(number, 1))
    # Rounding can reach the end of the last slice.
    return top[users[:, None], position.long().clamp_max(top.size(1) - 1)]


def _first_column(item_index: Tensor) -> Tensor:
    mask = torch.zeros_like(item_index, dtype=torch.bool)
    mask[:, 0] = True
    return mask


def _repeated(item_index: Tensor) -> Tensor:
    """True for every occurrence of an item in its row but the first."""
    ordered, order = item_index.sort(dim=1, stable=True)
    later = torch.zeros_like(item_index, dtype=torch.bool)
    later[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(later).scatter_(1, order, later)
