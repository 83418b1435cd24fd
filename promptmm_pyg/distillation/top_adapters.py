"""Objectives on the teacher's best items, in the teacher's order."""

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import ITEM, USER
from promptmm_pyg.distillation.adapters import Teacher, XDict
from promptmm_pyg.distillation.objective import FUSED, list_logits, view
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import estimate_rank, sample_by_rank
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items
from promptmm_pyg.training.loop import Terms


class _TopTerm(torch.nn.Module):
    """A loss on the best ``depth`` unseen items of the users of a batch.

    Args:
        loss: The loss, see each term.
        top: The teacher's best items of every user,
            :func:`~promptmm_pyg.targets.topk_targets` or ``SoftTargets.top``.
        depth: How many of them; a user with fewer is left with those. (default: all)
        name: The term's name among the weights. (default: ``'ranking'``)
    """

    top: Tensor

    def __init__(
        self,
        loss: torch.nn.Module,
        top: Ranking,
        depth: int | None = None,
        name: str = 'ranking',
    ) -> None:
        super().__init__()
        known = top.item_index.size(1)
        depth = known if depth is None else depth
        check_positive('depth', depth)
        if depth > known:
            raise ValueError(
                f"'depth' must be at most the {known} items that 'top' holds a "
                f'user (got {depth}). Rank more of them'
            )
        self.loss = loss
        self.depth = depth
        self.name = name
        best = top.item_index[:, :depth].long()
        self.register_buffer('top', best, persistent=False)

    def best(self, batch: Triplets) -> tuple[Tensor, Tensor, Tensor]:
        """Users with an item left, their best items, and which of these there are."""
        items = self.top[batch.user]
        some = items[:, 0] >= 0
        users, items = batch.user[some], items[some]
        return users, items.clamp_min(0), items >= 0

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return f"depth={self.depth}, name='{self.name}'"


def _others(lists: CandidateLists) -> tuple[Tensor, Tensor]:
    """The unseen candidates of each list, and which of them count."""
    counts = ~lists.target_mask
    return lists.item_index, counts if lists.mask is None else counts & lists.mask


class RankingTerm(_TopTerm):
    """Ranking distillation: the teacher's best items are further positives
    (:class:`~promptmm_pyg.losses.RankingDistillationLoss`); with ``num_sampled`` above
    zero they count the more, the lower the student ranks them.
    """

    def __init__(
        self,
        loss: torch.nn.Module,
        top: Ranking,
        depth: int | None = None,
        name: str = 'ranking',
        *,
        num_sampled: int = 0,
    ) -> None:
        super().__init__(loss, top, depth, name)
        self.num_sampled = num_sampled

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        users, items, mask = self.best(batch)
        logits = list_logits(student, users, items)
        rank = None
        if self.num_sampled > 0:
            num_items = student[ITEM].size(0)
            drawn = torch.randint(num_items, (users.numel(), self.num_sampled))
            drawn = drawn.to(users.device)
            with torch.no_grad():
                sampled = list_logits(student, users, drawn)
            rank = estimate_rank(logits, sampled, num_items)
        return {self.name: self.loss(logits, rank, mask=mask)}


class RelaxedRankingTerm(_TopTerm):
    """Relaxed ranking distillation: the teacher's best items in its order above the
    batch's other candidates (:class:`~promptmm_pyg.losses.RelaxedRankingLoss`). Give
    it uniform candidates; those that are among the best do not count as others.
    """

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        users, items, mask = self.best(batch)
        others, counts = (x[self.top[batch.user][:, 0] >= 0] for x in _others(lists))
        among = ((others[:, :, None] == items[:, None]) & mask[:, None]).any(dim=-1)
        counts = counts & ~among
        some = counts.any(dim=-1)
        interesting, uninteresting = (
            list_logits(student, users[some], x[some]) for x in (items, others)
        )
        loss = self.loss(interesting, uninteresting, mask[some], counts[some])
        return {self.name: loss}


class CollaborativeTerm(_TopTerm):
    """Collaborative distillation: soft targets on items drawn by the teacher's rank
    (:class:`~promptmm_pyg.losses.CollaborativeKDLoss`).
    """

    def __init__(
        self,
        loss: torch.nn.Module,
        top: Ranking,
        depth: int | None = None,
        name: str = 'ranking',
        *,
        num_samples: int = 10,
        decay: float = 10.0,
    ) -> None:
        super().__init__(loss, top, depth, name)
        check_positive('num_samples', num_samples)
        check_positive('decay', decay)
        self.num_samples = num_samples
        self.decay = decay

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        users, items, mask = self.best(batch)
        place = sample_by_rank(self.depth, self.num_samples, users.numel(), self.decay)
        place = place.to(users.device)
        # The best item is always there: no list stays empty.
        place[:, 0] = place[:, 0].where(mask.gather(1, place).any(dim=1), 0)
        items, mask = items.gather(1, place), mask.gather(1, place)
        logits = [list_logits(x, users, items) for x in (student, view(teacher, FUSED))]
        return {self.name: self.loss(*logits, mask=mask)}


class RankAwareTerm(_TopTerm):
    """Both models' best items in one list
    (:class:`~promptmm_pyg.losses.RankAwareKDLoss`). The student's are ranked anew now
    and then, for which it scores the catalogue for every user.

    Args:
        loss: The loss.
        top: The teacher's best items of every user.
        seen: Training items, which the student's best leave out.
        depth: How many best items of either model. (default: all of ``top``)
        name: The term's name among the weights. (default: ``'ranking'``)
        refresh_every: Steps between two looks at the student's best items; they are
            part of the state, so that a resumed run goes on alike. (default: ``100``)
    """

    own: Tensor
    step: Tensor

    def __init__(
        self,
        loss: torch.nn.Module,
        top: Ranking,
        seen: SeenItems,
        depth: int | None = None,
        name: str = 'ranking',
        *,
        refresh_every: int = 100,
    ) -> None:
        super().__init__(loss, top, depth, name)
        check_positive('refresh_every', refresh_every)
        self.seen = seen
        self.refresh_every = refresh_every
        self.register_buffer('own', torch.full_like(self.top, -1))
        self.register_buffer('step', torch.zeros((), dtype=torch.long))

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Terms:
        users, items, mask = self.best(batch)
        if int(self.step) % self.refresh_every == 0:
            pair = student[USER].detach(), student[ITEM].detach()
            every = torch.arange(self.own.size(0), device=self.own.device)
            self.own = rank_items(pair, every, self.depth, seen=self.seen).item_index
        self.step += 1
        own = self.own[users]
        both = torch.cat([items, own.clamp_min(0)], dim=1)
        # An item in both counts once, in the teacher's part.
        shared = (items[:, :, None] == own[:, None]) & mask[:, :, None]
        teacher_top = torch.cat([mask, torch.zeros_like(mask)], dim=1)
        student_top = torch.cat([shared.any(2), (own >= 0) & ~shared.any(1)], dim=1)
        logits = [list_logits(x, users, both) for x in (student, view(teacher, FUSED))]
        return {self.name: self.loss(*logits, teacher_top, student_top)}
