"""How a student uses each loss of the library, by the loss's name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.data import ITEM, USER
from promptmm_pyg.distillation import (
    Adapter,
    OnEmbeddings,
    OnLists,
    OnPairs,
    OnTopK,
    promptmm_losses,
)
from promptmm_pyg.functional import l2_normalize, score_lists
from promptmm_pyg.loader import CandidateLists, Triplets
from promptmm_pyg.losses import (
    AngleKDLoss,
    CollaborativeKDLoss,
    DecoupledKDLoss,
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
from promptmm_pyg.targets import SoftTargets

NUM_GROUPS = 30  # Of HierarchicalTopologyKDLoss, per node type.
# Of the teacher, the width of the student and the weight.
Recipe = Callable[[SoftTargets, int, float], list[Adapter]]


def _on_lists(loss: torch.nn.Module) -> Recipe:
    return lambda _, __, weight: [OnLists(loss, weight, 'fused')]


def _on_rows(loss: torch.nn.Module, max_rows: int) -> Recipe:
    return lambda _, __, weight: [
        OnEmbeddings(loss, weight, 'fused', projection='none', max_rows=max_rows)
    ]


def _projected(loss: torch.nn.Module) -> Recipe:
    return lambda _, __, weight: [
        OnEmbeddings(loss, weight, 'fused', projection='per_type')
    ]


def _on_top_k(loss: torch.nn.Module, top_k: int, **options: Any) -> Recipe:
    return lambda _, __, weight: [OnTopK(loss, weight, top_k, **options)]


def _experts(teacher: SoftTargets, width: int, weight: float) -> list[Adapter]:
    loss = DistillationExperts(width, teacher.x_dict[ITEM].size(1))
    return [OnEmbeddings(loss, weight, 'fused', projection='none')]


def _hierarchical(teacher: SoftTargets, _: int, weight: float) -> list[Adapter]:
    groups = {key: _groups(x) for key, x in teacher.x_dict.items()}
    return [
        OnEmbeddings(
            HierarchicalTopologyKDLoss(),
            weight,
            'fused',
            projection='none',
            group_dict=groups,
            max_rows=512,
        )
    ]


def _groups(x: Tensor) -> Tensor:
    """K-means on the directions of the teacher's embeddings."""
    from sklearn.cluster import KMeans

    means = KMeans(min(NUM_GROUPS, x.size(0)), n_init=1, random_state=0)
    return torch.from_numpy(means.fit_predict(l2_normalize(x).numpy())).long()


class _OnBidirectional(Adapter):
    """The student's half of bidirectional distillation, with a fixed teacher."""

    default_name = 'listwise'

    def __init__(self, weight: float) -> None:
        super().__init__(torch.nn.Identity(), weight)

    def compute(
        self,
        student: dict[str, Tensor],
        teacher: Any,
        batch: Triplets,
        lists: CandidateLists,
    ) -> Tensor:
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
        return terms.student.mean()


def _ranks(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The rank of every candidate in its list, 1 for the best."""
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.argsort(dim=1, descending=True).argsort(dim=1) + 1


RECIPES: dict[str, Recipe] = {
    'PairwiseKDLoss': lambda _, __, weight: [OnPairs(PairwiseKDLoss(), weight)],
    'ListwiseKDLoss': _on_lists(ListwiseKDLoss()),
    'DecoupledKDLoss': _on_lists(DecoupledKDLoss()),
    'SoftLabelKDLoss': _on_lists(SoftLabelKDLoss()),
    'BidirectionalKDLoss': lambda _, __, weight: [_OnBidirectional(weight)],
    'RankingDistillationLoss': _on_top_k(RankingDistillationLoss(), 20, num_sampled=50),
    'CollaborativeKDLoss': _on_top_k(
        CollaborativeKDLoss(), 100, num_samples=20, decay=20.0
    ),
    'RelaxedRankingLoss': _on_top_k(RelaxedRankingLoss(), 20),
    'RankAwareKDLoss': _on_top_k(RankAwareKDLoss(), 50),
    'ScaledCosineLoss': _projected(ScaledCosineLoss()),
    'UnitMSELoss': _projected(UnitMSELoss()),
    'InfoNCELoss': _projected(InfoNCELoss()),
    'DistillationExperts': _experts,
    'DistanceKDLoss': _on_rows(DistanceKDLoss(), max_rows=512),
    'AngleKDLoss': _on_rows(AngleKDLoss(), max_rows=96),
    'SimilarityKDLoss': _on_rows(SimilarityKDLoss(), max_rows=512),
    'TopologyKDLoss': _on_rows(TopologyKDLoss(), max_rows=512),
    'HierarchicalTopologyKDLoss': _hierarchical,
    'PromptMM': lambda _, __, weight: promptmm_losses(
        pairwise_weight=weight,
        listwise_weight=weight,
        embedding_weight=weight,
        list_views='fused',
        embedding_views='fused',
    ),
}
