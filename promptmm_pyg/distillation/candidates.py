"""Candidate lists for distillation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_non_negative, check_positive
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.loader import (
    CandidateLists,
    ExactNegativeSampler,
    Triplets,
    mixed_candidates,
    uniform_candidates,
)
from promptmm_pyg.ranking import SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets


class CandidateSampling(NamedTuple):
    """The candidates of a list besides its positive."""

    num_uniform: int = 10
    """Uniform negatives."""
    num_teacher_topk: int = 10
    """Draws from the teacher's best unseen items."""
    num_student_topk: int = 10
    """Draws from the student's best unseen items."""
    top_k: int = 100
    """The number of best items to draw from."""
    refresh_every: int = 5
    """Epochs between two rankings by the student."""


class CandidateSampler:
    """Draws the candidate lists of every batch.

    Args:
        candidates: The candidates of a list.
        train: Graph whose message edges are the training interactions.
        targets: The output of the teacher, for its best items.
        seed: Seed of the draws.
        items: Ids of the items to draw from, ``[N]``. (default: every item)
    """

    def __init__(
        self,
        candidates: CandidateSampling,
        train: HeteroData,
        targets: SoftTargets,
        seed: int,
        items: Tensor | None = None,
    ) -> None:
        check_positive('num_uniform', candidates.num_uniform)
        check_positive('top_k', candidates.top_k)
        check_positive('refresh_every', candidates.refresh_every)
        check_non_negative('num_teacher_topk', candidates.num_teacher_topk)
        check_non_negative('num_student_topk', candidates.num_student_topk)
        self.candidates = candidates
        sizes = train.num_nodes_dict
        edge_index = train[INTERACTS].edge_index
        self.sampler = ExactNegativeSampler(edge_index, sizes[USER], sizes[ITEM], items)
        self._allowed: Tensor | None = None
        if items is not None:
            self._allowed = torch.zeros(sizes[ITEM], dtype=torch.bool)
            self._allowed[items.cpu()] = True
        self._device = edge_index.device
        self.generator = torch.Generator(device=self._device).manual_seed(seed)
        self._seen = SeenItems.from_edge_index(edge_index, sizes[USER], sizes[ITEM])
        self._users = torch.arange(sizes[USER])
        self._top_k = min(candidates.top_k, sizes[ITEM])
        self._empty = torch.full((sizes[USER], 1), -1, device=self._device)
        self._student_top = self._empty
        self._teacher_top = (
            self._teacher_best(targets) if candidates.num_teacher_topk else self._empty
        )

    @property
    def is_uniform(self) -> bool:
        """Whether lists hold uniform negatives only."""
        return self.candidates.num_teacher_topk == self.candidates.num_student_topk == 0

    def refresh(self, epoch: int, student: Callable[[], dict[str, Tensor]]) -> None:
        """Ranks the student's best items again, every ``refresh_every`` epochs."""
        due = (epoch - 1) % self.candidates.refresh_every == 0
        if self.candidates.num_student_topk and due:
            self._student_top = self._best(student())

    def state_dict(self) -> dict[str, Any]:
        """The state between two epochs."""
        return {
            'generator': self.generator.get_state(),
            'student_top': self._student_top,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.generator.set_state(state['generator'])
        self._student_top = state['student_top'].to(self._device)

    def lists(self, batch: Triplets) -> CandidateLists:
        """The lists of one batch."""
        if self.is_uniform:
            return uniform_candidates(
                self.sampler,
                batch.user,
                batch.positive,
                self.candidates.num_uniform,
                self.generator,
            )
        return mixed_candidates(
            self.sampler,
            batch.user,
            batch.positive,
            self._teacher_top,
            self._student_top,
            num_teacher_topk=self.candidates.num_teacher_topk,
            num_student_topk=self.candidates.num_student_topk,
            num_uniform=self.candidates.num_uniform,
            generator=self.generator,
        )

    def _teacher_best(self, targets: SoftTargets) -> Tensor:
        top = targets.top if self._allowed is None else None  # It has all items.
        if top is not None and top.item_index.size(1) >= self._top_k:
            return top.item_index[:, : self._top_k].to(self._device)
        return self._best(targets.x_dict)

    def _best(self, x_dict: dict[str, Tensor]) -> Tensor:
        pair = x_dict[USER].detach(), x_dict[ITEM].detach()
        ranking = rank_items(
            pair,
            self._users,
            self._top_k,
            seen=self._seen,
            candidates=self._allowed,
        )
        return ranking.item_index.to(self._device)
