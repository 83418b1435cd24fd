"""Losses on plain tensors, student first, with torch only.

All raise a ``ValueError`` if shapes differ, a list is empty, a value that is used is
not finite or an option is out of range, and a ``TypeError`` if a mask is not boolean.
"""

from promptmm_pyg.losses.bernoulli import (
    CollaborativeKDLoss,
    PairwiseKDLoss,
    SoftLabelKDLoss,
    collaborative_kd_loss,
    pairwise_kd_loss,
    sample_by_rank,
    soft_label_kd_loss,
)
from promptmm_pyg.losses.bidirectional import (
    BidirectionalKDLoss,
    BidirectionalTerms,
    bidirectional_kd_terms,
    rank_discrepancy_weights,
)
from promptmm_pyg.losses.embedding import (
    DistillationExperts,
    ScaledCosineLoss,
    UnitMSELoss,
    scaled_cosine_loss,
    unit_mse_loss,
)
from promptmm_pyg.losses.info_nce import (
    InfoNCELoss,
    info_nce_loss,
)
from promptmm_pyg.losses.listwise import (
    DecoupledKDLoss,
    DecoupledTerms,
    ListwiseKDLoss,
    RankAwareKDLoss,
    decoupled_kd_terms,
    listwise_kd_loss,
    rank_aware_kd_loss,
)
from promptmm_pyg.losses.ranking import (
    BPRLoss,
    SampledSoftmaxLoss,
    bpr_loss,
    sampled_softmax_loss,
    squared_norm,
)
from promptmm_pyg.losses.ranking_distillation import (
    RankingDistillationLoss,
    RelaxedRankingLoss,
    estimate_rank,
    ranking_distillation_loss,
    relaxed_ranking_loss,
)
from promptmm_pyg.losses.relational import (
    AngleKDLoss,
    DistanceKDLoss,
    HierarchicalTopologyKDLoss,
    SimilarityKDLoss,
    TopologyKDLoss,
    angle_kd_loss,
    distance_kd_loss,
    hierarchical_topology_kd_loss,
    similarity_kd_loss,
    topology_kd_loss,
)
from promptmm_pyg.losses.wasserstein import (
    WassersteinKDLoss,
    wasserstein_kd_loss,
)
from promptmm_pyg.losses.weights import (
    FixedViewWeights,
    LearnedViewWeights,
    agreement_weights,
    weighted_sum,
)

__all__ = [
    'AngleKDLoss',
    'BPRLoss',
    'BidirectionalKDLoss',
    'BidirectionalTerms',
    'CollaborativeKDLoss',
    'DecoupledKDLoss',
    'DecoupledTerms',
    'DistanceKDLoss',
    'DistillationExperts',
    'FixedViewWeights',
    'HierarchicalTopologyKDLoss',
    'InfoNCELoss',
    'LearnedViewWeights',
    'ListwiseKDLoss',
    'PairwiseKDLoss',
    'RankAwareKDLoss',
    'RankingDistillationLoss',
    'RelaxedRankingLoss',
    'SampledSoftmaxLoss',
    'ScaledCosineLoss',
    'SimilarityKDLoss',
    'SoftLabelKDLoss',
    'TopologyKDLoss',
    'UnitMSELoss',
    'WassersteinKDLoss',
    'agreement_weights',
    'angle_kd_loss',
    'bidirectional_kd_terms',
    'bpr_loss',
    'collaborative_kd_loss',
    'decoupled_kd_terms',
    'distance_kd_loss',
    'estimate_rank',
    'hierarchical_topology_kd_loss',
    'info_nce_loss',
    'listwise_kd_loss',
    'pairwise_kd_loss',
    'rank_aware_kd_loss',
    'rank_discrepancy_weights',
    'ranking_distillation_loss',
    'relaxed_ranking_loss',
    'sample_by_rank',
    'sampled_softmax_loss',
    'scaled_cosine_loss',
    'similarity_kd_loss',
    'soft_label_kd_loss',
    'squared_norm',
    'topology_kd_loss',
    'unit_mse_loss',
    'wasserstein_kd_loss',
    'weighted_sum',
]
