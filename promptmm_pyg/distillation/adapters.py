"""Objectives of a student, put together from single losses."""

import copy
from typing import Literal

import torch
from torch import Tensor

from promptmm_pyg._distributed import Share
from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.distillation.objective import FUSED, list_logits, margins, view
from promptmm_pyg.functional import rows
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    BidirectionalKDLoss,
    DecoupledKDLoss,
    ListwiseKDLoss,
    PairwiseKDLoss,
    ScaledCosineLoss,
    SoftLabelKDLoss,
    UnitMSELoss,
)
from promptmm_pyg.targets import SoftTargets, TeacherOutput
from promptmm_pyg.training.loop import Terms
from promptmm_pyg.training.summands import summands_of_objective

Teacher = SoftTargets | TeacherOutput
XDict = dict[str, Tensor]

# Means over rows, of which several processes may take a part each.
_BY_ROW = (
    BidirectionalKDLoss,
    DecoupledKDLoss,
    ListwiseKDLoss,
    PairwiseKDLoss,
    ScaledCosineLoss,
    SoftLabelKDLoss,
    UnitMSELoss,
)


class PairTerm(torch.nn.Module):
    """A loss of two margins, that of a positive over a negative by student and by
    teacher, as a term for :func:`~promptmm_pyg.distillation.distill`.

    Args:
        loss: Called as ``loss(student_margin, teacher_margin)``, each ``[B]``.
        view: What of the teacher, a modality or ``'fused'``. (default: ``'fused'``)
        name: The term's name among the weights. (default: ``'pairwise'``)
    """

    def __init__(
        self, loss: torch.nn.Module, view: str = FUSED, name: str = 'pairwise'
    ) -> None:
        super().__init__()
        self.loss = loss
        self.view = view
        self.name = name
        self.by_example = type(self) is PairTerm and _is_by_row(loss)

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        target = view(teacher, self.view)
        return {self.name: self.loss(margins(student, batch), margins(target, batch))}


class ListTerm(torch.nn.Module):
    """A loss of two score lists over one user's candidates, as a term for
    :func:`~promptmm_pyg.distillation.distill`.

    Args:
        loss: Called as ``loss(student_logits, teacher_logits, mask=mask)``, each
            ``[B, K]``.
        view: What of the teacher, a modality or ``'fused'``. (default: ``'fused'``)
        name: The term's name among the weights. (default: ``'listwise'``)
    """

    def __init__(
        self, loss: torch.nn.Module, view: str = FUSED, name: str = 'listwise'
    ) -> None:
        super().__init__()
        self.loss = loss
        self.view = view
        self.name = name
        self.by_example = type(self) is ListTerm and _is_by_row(loss)

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        logits = [
            list_logits(x, batch.user, lists.item_index)
            for x in (student, view(teacher, self.view))
        ]
        return {self.name: self.loss(*logits, mask=lists.mask)}


class RowTerm(torch.nn.Module):
    """A loss of two sets of embeddings, row by row the same nodes, as a term for
    :func:`~promptmm_pyg.distillation.distill`: users and items of the batch, each node
    once, the two sides averaged.

    Args:
        loss: Called as ``loss(student_x, teacher_x)``, each ``[N, D]``; copied, so
            that each side has its own parameters where the loss has any.
        project: Maps the student's rows from the first width to the second, by a
            linear map without bias a side that is dropped with this module.
            (default: none)
        view: What of the teacher, a modality or ``'fused'``. (default: ``'fused'``)
        sides: ``'items'``, ``'users'`` or ``'both'``. (default: ``'both'``)
        group_dict: A group a node ``[N]`` by node type, handed to the loss as its third
            argument. (default: none)
        max_rows: At most so many rows of a side, the first of the shuffled batch;
            for losses whose cost grows faster than the number of rows.
            (default: all)
        name: The term's name among the weights. (default: ``'embedding'``)
    """

    def __init__(
        self,
        loss: torch.nn.Module,
        *,
        project: tuple[int, int] | None = None,
        view: str = FUSED,
        sides: Literal['items', 'users', 'both'] = 'both',
        group_dict: dict[str, Tensor] | None = None,
        max_rows: int | None = None,
        name: str = 'embedding',
    ) -> None:
        super().__init__()
        check_choice('sides', sides, ('items', 'users', 'both'))
        if max_rows is not None:
            check_positive('max_rows', max_rows)
        chosen = {'items': (ITEM,), 'users': (USER,), 'both': (USER, ITEM)}[sides]
        self.losses = torch.nn.ModuleDict(
            {side: copy.deepcopy(loss) for side in chosen}
        )
        self.projectors = torch.nn.ModuleDict(
            {}
            if project is None
            else {side: torch.nn.Linear(*project, bias=False) for side in chosen}
        )
        if group_dict is not None:
            for side in chosen:
                key, group = f'group_{side}', group_dict[side]
                self.register_buffer(key, group, persistent=False)
        self.grouped = group_dict is not None
        self.by_row = _is_by_row(loss)
        self.view = view
        self.max_rows = max_rows
        self.name = name

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        return self.summands(student, teacher, batch, lists, Share())

    def summands(
        self,
        student: XDict,
        teacher: Teacher,
        batch: Triplets,
        lists: CandidateLists,
        share: Share,
    ) -> Terms:
        """What one of several processes adds to the term of a batch that all hold: a
        part of the rows if the loss is a mean over them; an equal share of the whole
        loss, where rows meet or the loss is not of this package.
        """
        nodes = {USER: batch.user, ITEM: torch.cat([batch.positive, batch.negative])}
        target = view(teacher, self.view)
        terms = []
        for side, loss in self.losses.items():
            chosen = _first_distinct(nodes[side], self.max_rows)
            fraction = 1 / share.size
            if self.by_row:
                (chosen,), fraction = share.part(chosen)
            x = rows(student[side], chosen)
            if side in self.projectors:
                x = self.projectors[side](x)
            pair = x, rows(target[side], chosen)
            group = (self.get_buffer(f'group_{side}')[chosen],) if self.grouped else ()
            term = loss(*pair, *group)
            terms.append(term if fraction == 1 else fraction * term)
        return {self.name: torch.stack(terms).mean()}


class JoinedTerms(torch.nn.Module):
    """Several terms as one objective.

    Args:
        *parts: Modules of this file, or others that are called alike and return a
            dictionary of named scalars.

    Raises:
        ValueError: If none is given, or two parts return a term of one name.
    """

    def __init__(self, *parts: torch.nn.Module) -> None:
        super().__init__()
        if not parts:
            raise ValueError("'parts' requires at least one objective (got none)")
        self.parts = torch.nn.ModuleList(parts)

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        return self.summands(student, teacher, batch, lists, Share())

    def summands(
        self,
        student: XDict,
        teacher: Teacher,
        batch: Triplets,
        lists: CandidateLists,
        share: Share,
    ) -> Terms:
        """What one of several processes adds to the terms of a batch that all hold."""
        terms: Terms = {}
        for part in self.parts:
            added = summands_of_objective(part, student, teacher, batch, lists, share)
            twice = sorted(terms.keys() & added.keys())
            if twice:
                raise ValueError(
                    f"'parts' requires terms of different names (got {twice} twice). Give "
                    f"one of them another 'name'"
                )
            terms.update(added)
        return terms


def _first_distinct(nodes: Tensor, most: int | None) -> Tensor:
    """The nodes that come first, each once, ascending; ``most`` of all, if given."""
    distinct: Tensor
    distinct, inverse = nodes.unique(return_inverse=True)
    if most is None or distinct.numel() <= most:
        return distinct
    place = torch.arange(nodes.numel(), device=nodes.device)
    first = torch.full_like(distinct, nodes.numel()).scatter_reduce_(
        0, inverse, place, 'amin'
    )
    kept: Tensor = distinct[first.argsort()[:most].sort().values]
    return kept


def _is_by_row(loss: torch.nn.Module) -> bool:
    known = type(loss) in _BY_ROW  # A subclass may do anything.
    return known and getattr(loss, 'reduction', None) == 'mean'
