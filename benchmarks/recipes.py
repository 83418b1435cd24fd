"""How a student uses each loss of the library: the objective, and its terms' shares."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data import INTERACTS, ITEM, USER, num_nodes_dict
from promptmm_pyg.distillation import (
    CollaborativeTerm,
    DistillationObjective,
    ListTerm,
    PairTerm,
    RankAwareTerm,
    RankingTerm,
    RelaxedRankingTerm,
    RowTerm,
)
from promptmm_pyg.functional import l2_normalize, score_lists
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    AngleKDLoss,
    CollaborativeKDLoss,
    DistanceKDLoss,
    DistillationExperts,
    HierarchicalTopologyKDLoss,
    InfoNCELoss,
    ListwiseKDLoss,
    PairwiseKDLoss,
    RankAwareKDLoss,
    RankingDistillationLoss,
    RelaxedRankingLoss,
    ScaledCosineLoss,
    SimilarityKDLoss,
    SoftLabelKDLoss,
    TopologyKDLoss,
    UnitMSELoss,
    bidirectional_kd_terms,
    rank_discrepancy_weights,
)
from promptmm_pyg.ranking import Ranking, SeenItems
from promptmm_pyg.targets import SoftTargets, topk_targets


@dataclass(frozen=True)
class Context:
    """What an objective is made of."""

    targets: SoftTargets
    train: HeteroData
    width: int  # Of the student.

    @cached_property
    def teacher_width(self) -> int:
        return self.targets.x_dict[ITEM].size(1)

    @cached_property
    def top(self) -> Ranking:
        return self.targets.top or topk_targets(self.targets, self.train, 100)

    @cached_property
    def seen(self) -> SeenItems:
        sizes = num_nodes_dict(self.train)
        edge_index = self.train[INTERACTS].edge_index
        return SeenItems.from_edge_index(edge_index, sizes[USER], sizes[ITEM])

    @cached_property
    def group_dict(self) -> dict[str, Tensor]:
        """Thirty groups a side, by k-means on the directions of the teacher's rows."""
        return {key: _groups(x, 30) for key, x in self.targets.x_dict.items()}


Recipe = Callable[[Context], tuple[torch.nn.Module, dict[str, float]]]


def _pair(loss: torch.nn.Module) -> Recipe:
    return lambda _: (PairTerm(loss), {'pairwise': 1.0})


def _list(loss: torch.nn.Module) -> Recipe:
    return lambda _: (ListTerm(loss), {'listwise': 1.0})


def _rows(loss: torch.nn.Module, max_rows: int | None = None) -> Recipe:
    return lambda _: (RowTerm(loss, max_rows=max_rows), {'embedding': 1.0})


def _projected(loss: torch.nn.Module) -> Recipe:
    return lambda c: (
        RowTerm(loss, project=(c.width, c.teacher_width)),
        {'embedding': 1.0},
    )


def _promptmm(shares: dict[str, float]) -> Recipe:
    return lambda c: (
        DistillationObjective(
            c.targets, c.width, list_views=['fused'], embedding_views=['fused']
        ),
        shares,
    )


class BidirectionalTerm(torch.nn.Module):
    """The student's half of bidirectional distillation, on a teacher that stays."""

    def forward(
        self,
        student: dict[str, Tensor],
        teacher: SoftTargets,
        batch: Triplets,
        lists: CandidateLists,
    ) -> dict[str, Tensor]:
        own, other = (
            score_lists(x[USER], x[ITEM], batch.user, lists.item_index)
            for x in (student, teacher.x_dict)
        )
        weights = rank_discrepancy_weights(
            _ranks(own.detach(), lists.mask), _ranks(other, lists.mask), mask=lists.mask
        )
        terms = bidirectional_kd_terms(
            own, other, student_weights=weights, mask=lists.mask
        )
        return {'listwise': terms.student.mean()}


def _ranks(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The place of every candidate in its list, 1 for the best."""
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.argsort(dim=1, descending=True).argsort(dim=1) + 1


def _groups(x: Tensor, num_groups: int) -> Tensor:
    from sklearn.cluster import KMeans

    means = KMeans(num_groups, n_init=1, random_state=0)
    return torch.from_numpy(means.fit_predict(l2_normalize(x).numpy())).long()


RECIPES: dict[str, Recipe] = {
    'PairwiseKDLoss': _pair(PairwiseKDLoss()),
    'ListwiseKDLoss': _list(ListwiseKDLoss()),
    'DecoupledKDLoss': _promptmm({'pairwise': 0, 'listwise': 1, 'embedding': 0}),
    'SoftLabelKDLoss': _list(SoftLabelKDLoss()),
    'BidirectionalKDLoss': lambda _: (BidirectionalTerm(), {'listwise': 1.0}),
    'RankingDistillationLoss': lambda c: (
        RankingTerm(RankingDistillationLoss(), c.top, depth=20, num_sampled=50),
        {'ranking': 1.0},
    ),
    'CollaborativeKDLoss': lambda c: (
        CollaborativeTerm(
            CollaborativeKDLoss(), c.top, depth=100, num_samples=20, decay=20.0
        ),
        {'ranking': 1.0},
    ),
    'RelaxedRankingLoss': lambda c: (
        RelaxedRankingTerm(RelaxedRankingLoss(), c.top, depth=20),
        {'ranking': 1.0},
    ),
    'RankAwareKDLoss': lambda c: (
        RankAwareTerm(RankAwareKDLoss(), c.top, c.seen, depth=50),
        {'ranking': 1.0},
    ),
    'ScaledCosineLoss': _projected(ScaledCosineLoss()),
    'UnitMSELoss': _projected(UnitMSELoss()),
    'InfoNCELoss': _projected(InfoNCELoss()),
    'DistillationExperts': lambda c: (
        RowTerm(DistillationExperts(c.width, c.teacher_width)),
        {'embedding': 1.0},
    ),
    'DistanceKDLoss': _rows(DistanceKDLoss(), max_rows=512),
    'AngleKDLoss': _rows(AngleKDLoss(), max_rows=96),
    'SimilarityKDLoss': _rows(SimilarityKDLoss(), max_rows=512),
    'TopologyKDLoss': _rows(TopologyKDLoss(), max_rows=512),
    'HierarchicalTopologyKDLoss': lambda c: (
        RowTerm(HierarchicalTopologyKDLoss(), group_dict=c.group_dict, max_rows=512),
        {'embedding': 1.0},
    ),
    'PromptMM': _promptmm({'pairwise': 1, 'listwise': 1, 'embedding': 1}),
}
