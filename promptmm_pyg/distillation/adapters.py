"""Adapters: the inputs of a distillation loss, and its weight."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_choice, check_non_negative, check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM, NODE_TYPES, USER
from promptmm_pyg.functional import rows, score_lists, score_pairs
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    CollaborativeKDLoss,
    DecoupledKDLoss,
    RankAwareKDLoss,
    RankingDistillationLoss,
    RelaxedRankingLoss,
    agreement_weights,
    estimate_rank,
    sample_by_rank,
)
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets, TeacherOutput, topk_targets

Teacher = SoftTargets | TeacherOutput
XDict = dict[NodeType, Tensor]
Views = str | Sequence[str]
Graph: TypeAlias = HeteroData | None

FUSED = 'fused'
"""The view of the teacher's final embeddings; the others are its modalities."""


class Adapter(torch.nn.Module):
    """Base class of the adapters.

    Args:
        loss: The loss module.
        weight: Its weight in the objective, zero or more.
        name: Its name in the history. (default: that of the class)
    """

    default_name = 'distillation'

    def __init__(
        self, loss: torch.nn.Module, weight: float = 1.0, *, name: str | None = None
    ) -> None:
        super().__init__()
        check_non_negative('weight', weight)
        self.loss = loss
        self.weight = weight
        self.name = self.default_name if name is None else name

    def setup(self, targets: SoftTargets, width: int, train: Graph = None) -> None:
        """Prepares the adapter for a teacher and a student; ``distill`` calls it.

        Args:
            targets: The teacher's output.
            width: The width of the student.
            train: Graph whose message edges are the training interactions.
        """

    def forward(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> dict[str, Tensor]:
        return {self.name: self.compute(student, teacher, batch, lists)}

    def compute(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Tensor:
        """The loss of a batch, a scalar, not multiplied by the weight."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f'weight={self.weight}, name={self.name!r}'


class OnPairs(Adapter):
    """A loss on margins, the differences of the scores of a positive and a negative, of
    student and teacher.

    Args:
        loss: Called as ``loss(student_margin, teacher_margin)``, each ``[B]``.
        weight: Its weight. (default: ``1.0``)
        view: A modality of the teacher, or ``'fused'`` for its final embeddings.
            (default: ``'fused'``)
        name: Its name in the history. (default: ``'pairwise'``)

    Raises:
        ValueError: On setup, if the teacher lacks the view.
    """

    default_name = 'pairwise'

    def __init__(
        self,
        loss: torch.nn.Module,
        weight: float = 1.0,
        view: str = FUSED,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(loss, weight, name=name)
        self.view = view

    def setup(self, targets: SoftTargets, width: int, train: Graph = None) -> None:
        resolve_views([self.view], targets)

    def compute(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Tensor:
        target = view_of(teacher, self.view)
        loss: Tensor = self.loss(margins(student, batch), margins(target, batch))
        return loss


class OnLists(Adapter):
    """A loss on the scores of one user's candidates, of the student and of each view of
    the teacher; views are averaged or weighted by ``view_weights``.

    Args:
        loss: Called as ``loss(student_logits, teacher_logits, mask=mask)``, each
            ``[B, K]``, and with ``target_mask=`` if its forward has that argument.
        weight: Its weight. (default: ``1.0``)
        views: ``'all'``, ``'modalities'``, ``'fused'``, a modality, or a list of these
            names. (default: ``'all'``)
        view_weights: ``'uniform'``; ``'agreement'``, per list by the agreement with the
            teacher's final list (:func:`~promptmm_pyg.losses.agreement_weights`; the
            loss must have ``reduction='none'``); or a module of the views' losses by
            name, such as :class:`~promptmm_pyg.losses.LearnedViewWeights`, whose
            parameters are trained with the student. (default: ``'uniform'``)
        name: Its name in the history. (default: ``'listwise'``)

    Raises:
        ValueError: If an option is unknown; on setup, if the teacher lacks a view.
    """

    default_name = 'listwise'

    def __init__(
        self,
        loss: torch.nn.Module,
        weight: float = 1.0,
        views: Views = 'all',
        view_weights: Literal['uniform', 'agreement'] | torch.nn.Module = 'uniform',
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(loss, weight, name=name)
        if not isinstance(view_weights, torch.nn.Module):
            check_choice('view_weights', view_weights, ('uniform', 'agreement'))
        if view_weights == 'agreement' and getattr(loss, 'reduction', '') != 'none':
            raise ValueError(
                f"'loss' must have reduction='none' with view_weights='agreement' (got "
                f'{loss})'
            )
        self.views = views
        self.view_weights = view_weights
        self._has_target = 'target_mask' in inspect.signature(loss.forward).parameters

    def setup(self, targets: SoftTargets, width: int, train: Graph = None) -> None:
        resolve_views(self.views, targets)

    def compute(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Tensor:
        user, items = batch.user, lists.item_index
        masks = {'mask': lists.mask}
        if self._has_target:
            masks['target_mask'] = lists.target_mask
        student_logits = list_logits(student, user, items)
        logits = {
            view: list_logits(view_of(teacher, view), user, items)
            for view in resolve_views(self.views, teacher)
        }
        views = list(logits.values())
        # A subclass may have another forward.
        if type(self.loss).forward is DecoupledKDLoss.forward:
            of_views = cast(DecoupledKDLoss, self.loss).of_views
            values = of_views(student_logits, views, lists.target_mask, lists.mask)
        else:
            values = [self.loss(student_logits, x, **masks) for x in views]
        losses = dict(zip(logits, values, strict=True))
        if isinstance(self.view_weights, torch.nn.Module):
            means = {view: loss.mean() for view, loss in losses.items()}
            weighted: Tensor = self.view_weights(means)
            return weighted
        stacked = torch.stack(list(losses.values()))
        if self.view_weights == 'uniform':
            return stacked.mean()
        fused = logits.get(FUSED)
        if fused is None:
            fused = list_logits(view_of(teacher, FUSED), user, items)
        weights = agreement_weights(
            torch.stack(list(logits.values())),
            fused,
            getattr(self.loss, 'temperature', 1.0),
            lists.mask,
        )
        return (weights * stacked).sum(dim=0).mean()


class OnEmbeddings(Adapter):
    """A loss on embeddings of the same nodes, of the student and of each view of the
    teacher: the distinct nodes of the batch, averaged over views and node types. It is
    zero for a batch with fewer nodes than the loss requires.

    Args:
        loss: Called as ``loss(student_x, teacher_x)``, each ``[N, D]``. A loss with
            parameters is copied for every view and node type.
        weight: Its weight. (default: ``1.0``)
        views: ``'all'``, ``'modalities'``, ``'fused'``, a modality, or a list of these
            names. (default: ``'all'``)
        node_types: ``'user'``, ``'item'`` or both. (default: both)
        projection: The linear map without bias from the student's width to that of the
            view, if they differ; not part of the student. ``'shared'`` between the node
            types of a view, ``'per_type'``, or ``'none'`` for losses of two widths.
            (default: ``'shared'``)
        group_dict: A group per node ``[N]`` by node type, the loss's third argument.
            (default: none)
        max_rows: The most nodes per node type, the first of the shuffled batch; for
            losses whose cost grows faster than the number of rows. (default: all)
        name: Its name in the history. (default: ``'embedding'``)

    Raises:
        ValueError: If an option is unknown; on setup, if the teacher lacks a view.
    """

    default_name = 'embedding'

    def __init__(
        self,
        loss: torch.nn.Module,
        weight: float = 1.0,
        views: Views = 'all',
        node_types: Sequence[NodeType] = NODE_TYPES,
        *,
        projection: Literal['shared', 'per_type', 'none'] = 'shared',
        group_dict: dict[NodeType, Tensor] | None = None,
        max_rows: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(loss, weight, name=name)
        node_types = [node_types] if isinstance(node_types, str) else list(node_types)
        if not node_types or not set(node_types) <= set(NODE_TYPES):
            raise ValueError(
                f"'node_types' must be some of {list(NODE_TYPES)} (got {node_types})"
            )
        check_choice('projection', projection, ('shared', 'per_type', 'none'))
        if max_rows is not None:
            check_positive('max_rows', max_rows)
        self.views = views
        self.node_types = node_types
        self.projection = projection
        self.max_rows = max_rows
        self.grouped = group_dict is not None
        for key, group in (group_dict or {}).items():
            self.register_buffer(f'group_{key}', group, persistent=False)
        self.copies = torch.nn.ModuleDict()
        self.projectors = torch.nn.ModuleDict()

    def setup(self, targets: SoftTargets, width: int, train: Graph = None) -> None:
        """Creates projections, and copies of a loss with parameters."""
        self.copies = torch.nn.ModuleDict()
        self.projectors = torch.nn.ModuleDict()
        for view in resolve_views(self.views, targets):
            for key in self.node_types:
                if any(True for _ in self.loss.parameters()):
                    self.copies[f'{view}/{key}'] = copy.deepcopy(self.loss)
                channels = view_of(targets, view)[key].size(-1)
                name = self._projector(view, key)
                if self.projection == 'none' or channels == width:
                    continue
                if name not in self.projectors:
                    self.projectors[name] = torch.nn.Linear(width, channels, bias=False)

    def _projector(self, view: str, node_type: NodeType) -> str:
        return f'{view}/{node_type}' if self.projection == 'per_type' else view

    def compute(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Tensor:
        nodes = {USER: batch.user, ITEM: torch.cat([batch.positive, batch.negative])}
        nodes = {k: _first_distinct(x, self.max_rows) for k, x in nodes.items()}
        losses = []
        for view in resolve_views(self.views, teacher):
            target = view_of(teacher, view)
            for key in self.node_types:
                index, name = nodes[key], self._projector(view, key)
                x = rows(student[key], index)
                if name in self.projectors:
                    x = self.projectors[name](x)
                inputs = [x, rows(target[key], index)]
                if self.grouped:
                    inputs.append(self.get_buffer(f'group_{key}')[index])
                loss: torch.nn.Module = self.loss
                if f'{view}/{key}' in self.copies:
                    loss = self.copies[f'{view}/{key}']
                enough = index.numel() >= getattr(loss, 'min_rows', 1)
                losses.append(loss(*inputs) if enough else x.sum() * 0.0)
        return torch.stack(losses).mean()


TopKMode = Literal['ranking', 'relaxed', 'collaborative', 'rank_aware']
_MODES: dict[type, TopKMode] = {
    RankingDistillationLoss: 'ranking',
    RelaxedRankingLoss: 'relaxed',
    CollaborativeKDLoss: 'collaborative',
    RankAwareKDLoss: 'rank_aware',
}


class OnTopK(Adapter):
    """A loss on the teacher's best unseen items of every user, in the teacher's order.

    * ``'ranking'`` (:class:`~promptmm_pyg.losses.RankingDistillationLoss`): as further
      positives; with ``num_sampled`` above zero, weighted by how low the student ranks
      them.
    * ``'relaxed'`` (:class:`~promptmm_pyg.losses.RelaxedRankingLoss`): in their order
      above the other candidates of the batch, which should be uniform.
    * ``'collaborative'`` (:class:`~promptmm_pyg.losses.CollaborativeKDLoss`): soft
      targets on ``num_samples`` items drawn by the teacher's rank.
    * ``'rank_aware'`` (:class:`~promptmm_pyg.losses.RankAwareKDLoss`): the best items
      of both models in one list. The student's are ranked every ``refresh_every``
      steps, with scores of all items for every user.

    Args:
        loss: One of these losses, or one with the same arguments.
        weight: Its weight. (default: ``1.0``)
        top_k: The number of the teacher's best items, at most the catalogue; fewer for
            users with fewer unseen items. (default: ``100``)
        mode: One of the four modes. (default: that of the loss)
        num_sampled: Items sampled to estimate the student's ranks. (default: ``0``)
        num_samples: Items sampled per user. (default: ``10``)
        decay: The ranks after which the sampling probability is divided by :math:`e`.
            (default: ``10.0``)
        refresh_every: Steps between two rankings by the student. (default: ``100``)
        name: Its name in the history. (default: ``'topk'``)

    Raises:
        ValueError: If an option is out of its range, or ``mode`` is missing for another
            loss.
        RuntimeError: If it is called before ``setup``.
    """

    default_name = 'topk'
    top: Tensor
    own: Tensor
    step: Tensor

    def __init__(
        self,
        loss: torch.nn.Module,
        weight: float = 1.0,
        top_k: int = 100,
        *,
        mode: TopKMode | None = None,
        num_sampled: int = 0,
        num_samples: int = 10,
        decay: float = 10.0,
        refresh_every: int = 100,
        name: str | None = None,
    ) -> None:
        super().__init__(loss, weight, name=name)
        mode = _MODES.get(type(loss)) if mode is None else mode
        check_choice('mode', mode, tuple(_MODES.values()))
        check_positive('top_k', top_k)
        check_non_negative('num_sampled', num_sampled)
        check_positive('num_samples', num_samples)
        check_positive('decay', decay)
        check_positive('refresh_every', refresh_every)
        self.top_k = top_k
        self.mode = mode
        self.num_sampled = num_sampled
        self.num_samples = num_samples
        self.decay = decay
        self.refresh_every = refresh_every
        self.seen: SeenItems | None = None

    def setup(self, targets: SoftTargets, width: int, train: Graph = None) -> None:
        """Ranks the teacher's best items, unless ``targets.top`` has enough."""
        top = targets.top
        k = min(self.top_k, targets.x_dict[ITEM].size(0))
        if train is not None and (top is None or top.item_index.size(1) < k):
            top = topk_targets(targets, train, k)
        if top is None:
            raise ValueError(
                "'train' must be a graph for targets without top items (got None)"
            )
        best = top.item_index[:, :k].long()
        self.register_buffer('top', best, persistent=False)
        if self.mode != 'rank_aware':
            return
        if train is not None:
            sizes, edges = train.num_nodes_dict, train[INTERACTS].edge_index
            self.seen = SeenItems.from_edge_index(edges, sizes[USER], sizes[ITEM])
        self.register_buffer('own', torch.full_like(best, -1))
        self.register_buffer('step', torch.zeros((), dtype=torch.long))

    def compute(
        self, student: XDict, teacher: Teacher, batch: Triplets, lists: CandidateLists
    ) -> Tensor:
        if 'top' not in self._buffers:
            raise RuntimeError(
                "'setup(targets, width, train)' must be called before 'OnTopK'. "
                "'distill' calls it"
            )
        items = self.top[batch.user]
        nonempty = items[:, 0] >= 0
        negative = ~lists.target_mask
        negative = negative if lists.mask is None else negative & lists.mask
        best = _Best(
            batch.user[nonempty],
            items[nonempty].clamp_min(0),
            items[nonempty] >= 0,
            lists.item_index[nonempty],
            negative[nonempty],
        )
        loss: Tensor = getattr(self, f'_{self.mode}')(student, teacher, best)
        return loss

    def _ranking(self, student: XDict, _: Teacher, best: '_Best') -> Any:
        logits, rank = list_logits(student, best.users, best.items), None
        if self.num_sampled > 0:
            num_items = student[ITEM].size(0)
            size = best.users.numel(), self.num_sampled
            items = torch.randint(num_items, size).to(best.users.device)
            with torch.no_grad():
                sampled = list_logits(student, best.users, items)
            rank = estimate_rank(logits, sampled, num_items)
        return self.loss(logits, rank, mask=best.mask)

    def _relaxed(self, student: XDict, _: Teacher, best: '_Best') -> Any:
        # Candidates that are not among the best items.
        equal = best.candidates[:, :, None] == best.items[:, None]
        others = best.negative & ~(equal & best.mask[:, None]).any(dim=-1)
        nonempty = others.any(dim=-1)
        interesting, uninteresting = (
            list_logits(student, best.users[nonempty], x[nonempty])
            for x in (best.items, best.candidates)
        )
        return self.loss(
            interesting, uninteresting, best.mask[nonempty], others[nonempty]
        )

    def _collaborative(self, student: XDict, teacher: Teacher, best: '_Best') -> Any:
        size = best.users.numel()
        rank = sample_by_rank(self.top.size(1), self.num_samples, size, self.decay)
        rank = rank.to(best.users.device)
        # No list is empty: the best item exists.
        rank[:, 0] = rank[:, 0].where(best.mask.gather(1, rank).any(dim=1), 0)
        items, mask = best.items.gather(1, rank), best.mask.gather(1, rank)
        pair = student, view_of(teacher, FUSED)
        return self.loss(*(list_logits(x, best.users, items) for x in pair), mask=mask)

    def _rank_aware(self, student: XDict, teacher: Teacher, best: '_Best') -> Any:
        if int(self.step) % self.refresh_every == 0:
            pair = student[USER].detach(), student[ITEM].detach()
            users = torch.arange(self.own.size(0), device=self.own.device)
            k = self.top.size(1)
            self.own = rank_items(pair, users, k, seen=self.seen).item_index
        self.step += 1
        own, mask = self.own[best.users], best.mask
        both = torch.cat([best.items, own.clamp_min(0)], dim=1)
        # An item in both lists is used once, in the teacher's part.
        shared = (best.items[:, :, None] == own[:, None]) & mask[:, :, None]
        teacher_top = torch.cat([mask, torch.zeros_like(mask)], dim=1)
        student_top = torch.cat([shared.any(2), (own >= 0) & ~shared.any(1)], dim=1)
        logits = (
            list_logits(x, best.users, both) for x in (student, view_of(teacher, FUSED))
        )
        return self.loss(*logits, teacher_top, student_top)

    def extra_repr(self) -> str:
        return f'top_k={self.top_k}, mode={self.mode!r}, {super().extra_repr()}'


class _Best(NamedTuple):
    """The users of a batch with a nonempty list of best items."""

    users: Tensor
    items: Tensor
    mask: Tensor
    """False for padding of the items."""
    candidates: Tensor
    """The candidates of the batch."""
    negative: Tensor
    """True for candidates that are used and not the positive."""


def margins(x_dict: XDict, batch: Triplets) -> Tensor:
    """The score of each positive of a batch minus that of its negative, ``[B]``."""
    user_x, item_x = x_dict[USER], x_dict[ITEM]
    return score_pairs(user_x, item_x, batch.user, batch.positive) - score_pairs(
        user_x, item_x, batch.user, batch.negative
    )


def list_logits(x_dict: XDict, user: Tensor, items: Tensor) -> Tensor:
    """Scores ``[B, K]`` of the items ``[B, K]`` of each user ``[B]``."""
    return score_lists(x_dict[USER], x_dict[ITEM], user, items)


def view_of(output: Teacher, name: str) -> XDict:
    """One view of a teacher: a modality's vectors, or the final ones (``'fused'``)."""
    return output.x_dict if name == FUSED else output.modality_x_dict[name]


def resolve_views(views: Views, teacher: Teacher) -> list[str]:
    """The names of views, with ``'all'`` and ``'modalities'`` replaced by theirs.

    Raises:
        ValueError: If a view is unknown, or has no users or items.
    """
    modalities = list(teacher.modality_x_dict)
    groups = {'all': [*modalities, FUSED], 'modalities': modalities}
    views = [views] if isinstance(views, str) else list(views)
    names = [name for view in views for name in groups.get(view, [view])]
    names = list(dict.fromkeys(names))
    if not names or not set(names) <= set(groups['all']):
        raise ValueError(f"'views' must be some of {groups['all']} (got {views})")
    for name in names:
        missing = {USER, ITEM} - set(view_of(teacher, name))
        if missing:
            raise ValueError(
                f"'teacher' must have vectors of users and items in view {name!r} "
                f'(missing {sorted(missing)})'
            )
    return names


def _first_distinct(nodes: Tensor, max_rows: int | None) -> Tensor:
    """The distinct nodes, ascending; at most ``max_rows``, by first occurrence."""
    distinct: Tensor
    distinct, inverse = nodes.unique(return_inverse=True)
    if max_rows is None or distinct.numel() <= max_rows:
        return distinct
    position = torch.arange(nodes.numel(), device=nodes.device)
    first = torch.full_like(distinct, nodes.numel()).scatter_reduce_(
        0, inverse, position, 'amin'
    )
    result: Tensor = distinct[first.argsort()[:max_rows].sort().values]
    return result
