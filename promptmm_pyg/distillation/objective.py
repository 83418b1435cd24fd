"""The student's losses on one batch, given the teacher's soft targets."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from promptmm_pyg._distributed import Share
from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.functional import rows, score_lists, score_pairs
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    DecoupledKDLoss,
    FixedViewWeights,
    LearnedViewWeights,
    PairwiseKDLoss,
    ScaledCosineLoss,
    UnitMSELoss,
    agreement_weights,
)
from promptmm_pyg.targets import SoftTargets, TeacherOutput
from promptmm_pyg.training.loop import Terms
from promptmm_pyg.training.summands import share_lists

FUSED = 'fused'  # The teacher's final embeddings, named beside its modalities.


class DistillationObjective(torch.nn.Module):
    r"""What the teacher asks of the student, the three distillation losses of the
    `"PromptMM: Multi-Modal Knowledge Distillation for Recommendation with
    Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_ paper.

    * ``pairwise``: the student's margin of a positive over a negative follows the
      fused teacher's (:class:`~promptmm_pyg.losses.PairwiseKDLoss`);
    * ``listwise``: the student's scores of a candidate list follow each chosen
      view of the teacher (:class:`~promptmm_pyg.losses.DecoupledKDLoss`), averaged
      or weighted by ``view_weights``;
    * ``embedding``: the student's vectors point where each chosen view of the
      teacher points, averaged over views and sides. Where widths differ, a linear
      projector per view lifts the student; it is part of this module, not of the
      student, and is dropped with it.

    A *view* is the name of a modality or ``'fused'``, the final embeddings.

    Args:
        targets: The teacher's output, for names and widths.
        student_channels: The width of the student.
        list_views: Views for ``listwise``. (default: all modalities and ``'fused'``)
        view_weights: How the views of ``listwise`` are weighted: ``'uniform'``;
            ``'agreement'``, list by list the more, the closer a view is to the
            teacher's final list (:func:`~promptmm_pyg.losses.agreement_weights`);
            or a module of the views' losses by name, such as
            :class:`~promptmm_pyg.losses.FixedViewWeights` or
            :class:`~promptmm_pyg.losses.LearnedViewWeights`, whose parameters are
            trained with the student. (default: ``'uniform'``)
        embedding_views: Views for ``embedding``. (default: all modalities and
            ``'fused'``)
        sides: Node sides of ``embedding``: ``'items'``, ``'users'`` or ``'both'``.
            (default: ``'both'``)
        reweight: ``'coupled'`` (plain KL) or ``'decoupled'``. (default:
            ``'decoupled'``)
        alpha: Weight of the target part when decoupled. (default: ``1.0``)
        beta: Weight of the non-target part when decoupled. (default: ``1.0``)
        temperature: Of the pair-wise and list-wise losses. (default: ``1.0``)
        gamma: Exponent of the scaled cosine error. (default: ``2.0``)
        embedding_loss: ``'scaled_cosine'`` or ``'unit_mse'``.
            (default: ``'scaled_cosine'``)

    Raises:
        ValueError: If a view is unknown or lacks users or items, or an option is
            none of its choices.
    """

    def __init__(
        self,
        targets: SoftTargets,
        student_channels: int,
        *,
        list_views: Sequence[str] | None = None,
        view_weights: Literal['uniform', 'agreement'] | torch.nn.Module = 'uniform',
        embedding_views: Sequence[str] | None = None,
        sides: Literal['items', 'users', 'both'] = 'both',
        reweight: Literal['coupled', 'decoupled'] = 'decoupled',
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        gamma: float = 2.0,
        embedding_loss: Literal['scaled_cosine', 'unit_mse'] = 'scaled_cosine',
    ) -> None:
        super().__init__()
        check_choice('sides', sides, ('items', 'users', 'both'))
        check_choice('embedding_loss', embedding_loss, ('scaled_cosine', 'unit_mse'))
        known = [*targets.modality_x_dict, FUSED]
        self.list_views = _views('list_views', list_views, known)
        self.embedding_views = _views('embedding_views', embedding_views, known)
        self.sides = {'items': (ITEM,), 'users': (USER,), 'both': (USER, ITEM)}[sides]
        for name in {*self.list_views, *self.embedding_views}:
            missing = {USER, ITEM} - set(view(targets, name))
            if missing:
                raise ValueError(
                    f"'targets' requires vectors of users and items in view {name!r} "
                    f'(missing {sorted(missing)})'
                )
        if not isinstance(view_weights, torch.nn.Module):
            check_choice('view_weights', view_weights, ('uniform', 'agreement'))
        self.view_weights = view_weights
        self.temperature = temperature
        self.pairwise = PairwiseKDLoss(temperature)
        self.listwise = DecoupledKDLoss(
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            reweight=reweight,
            reduction='none',
        )
        self.embedding: torch.nn.Module = (
            ScaledCosineLoss(gamma)
            if embedding_loss == 'scaled_cosine'
            else UnitMSELoss()
        )
        self.projectors = torch.nn.ModuleDict()
        for name in self.embedding_views:
            width = view(targets, name)[ITEM].size(-1)
            if width != student_channels:
                self.projectors[name] = torch.nn.Linear(
                    student_channels, width, bias=False
                )

    def forward(
        self,
        student: dict[str, Tensor],
        teacher: SoftTargets | TeacherOutput,
        batch: Triplets,
        lists: CandidateLists,
    ) -> Terms:
        return {
            'pairwise': self._pairwise(student, view(teacher, FUSED), batch),
            'listwise': self._listwise(student, teacher, batch.user, lists),
            'embedding': self._embedding(student, teacher, batch, Share()),
        }

    def summands(
        self,
        student: dict[str, Tensor],
        teacher: SoftTargets | TeacherOutput,
        batch: Triplets,
        lists: CandidateLists,
        share: Share,
    ) -> Terms:
        """What one of several processes adds to the terms of a batch that all hold: a
        part of its examples, and of its distinct nodes. Lists stay whole with a module
        of view weights that is not of this package, as it may combine means as it
        likes.
        """
        part, part_lists, fraction = share_lists(share, batch, lists)
        linear = self.view_weights in ('uniform', 'agreement') or isinstance(
            self.view_weights, FixedViewWeights | LearnedViewWeights
        )
        if linear:
            listwise = fraction * self._listwise(
                student, teacher, part.user, part_lists
            )
        else:
            listwise = self._listwise(student, teacher, batch.user, lists) / share.size
        return {
            'pairwise': fraction * self._pairwise(student, view(teacher, FUSED), part),
            'listwise': listwise,
            'embedding': self._embedding(student, teacher, batch, share),
        }

    def _pairwise(
        self, student: dict[str, Tensor], teacher: dict[str, Tensor], batch: Triplets
    ) -> Tensor:
        loss: Tensor = self.pairwise(margins(student, batch), margins(teacher, batch))
        return loss

    def _listwise(
        self,
        student: dict[str, Tensor],
        teacher: SoftTargets | TeacherOutput,
        user: Tensor,
        lists: CandidateLists,
    ) -> Tensor:
        student_logits = list_logits(student, user, lists.item_index)
        logits = {
            name: list_logits(view(teacher, name), user, lists.item_index)
            for name in self.list_views
        }
        losses = {
            name: self.listwise(
                student_logits, teacher_logits, lists.target_mask, lists.mask
            )
            for name, teacher_logits in logits.items()
        }
        if isinstance(self.view_weights, torch.nn.Module):
            means = {name: loss.mean() for name, loss in losses.items()}
            weighted: Tensor = self.view_weights(means)
            return weighted
        every = torch.stack(list(losses.values()))
        if self.view_weights == 'uniform':
            return every.mean()
        fused = logits.get(FUSED)
        if fused is None:
            fused = list_logits(view(teacher, FUSED), user, lists.item_index)
        weights = agreement_weights(
            torch.stack(list(logits.values())), fused, self.temperature, lists.mask
        )
        return (weights * every).sum(dim=0).mean()

    def _embedding(
        self,
        student: dict[str, Tensor],
        teacher: SoftTargets | TeacherOutput,
        batch: Triplets,
        share: Share,
    ) -> Tensor:
        # Nodes of the batch, each once per step however often it occurs.
        nodes = {
            USER: share.part(batch.user.unique()),
            ITEM: share.part(torch.cat([batch.positive, batch.negative]).unique()),
        }
        losses = []
        for name in self.embedding_views:
            target = view(teacher, name)
            for side in self.sides:
                (chosen,), fraction = nodes[side]
                x = rows(student[side], chosen)
                if name in self.projectors:
                    x = self.projectors[name](x)
                loss = self.embedding(x, rows(target[side], chosen))
                losses.append(loss if fraction == 1 else fraction * loss)
        return torch.stack(losses).mean()


def margins(x_dict: dict[str, Tensor], batch: Triplets) -> Tensor:
    """How far each positive of a batch scores above its negative, ``[B]``."""
    user_x, item_x = x_dict[USER], x_dict[ITEM]
    return score_pairs(user_x, item_x, batch.user, batch.positive) - score_pairs(
        user_x, item_x, batch.user, batch.negative
    )


def list_logits(x_dict: dict[str, Tensor], user: Tensor, items: Tensor) -> Tensor:
    """Scores ``[B, K]`` of the items ``[B, K]`` of each user ``[B]``."""
    return score_lists(x_dict[USER], x_dict[ITEM], user, items)


def view(output: SoftTargets | TeacherOutput, name: str) -> dict[str, Tensor]:
    """One view of a teacher: a modality's vectors, or the final ones (``'fused'``)."""
    return output.x_dict if name == FUSED else output.modality_x_dict[name]


def _views(name: str, chosen: Sequence[str] | None, known: list[str]) -> list[str]:
    views = known if chosen is None else list(chosen)
    if not views or not set(views) <= set(known):
        raise ValueError(f"'{name}' requires some of {known} (got {views})")
    return views
