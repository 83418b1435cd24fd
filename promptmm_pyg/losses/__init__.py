"""Losses on plain tensors, student first; nothing here knows a graph."""

from promptmm_pyg.losses.bidirectional import (
    BidirectionalKDLoss,
    BidirectionalTerms,
    bidirectional_kd_terms,
    rank_discrepancy_weights,
)
from promptmm_pyg.losses.bpr import BPRLoss, bpr_loss
from promptmm_pyg.losses.collaborative import (
    CollaborativeKDLoss,
    collaborative_kd_loss,
    sample_by_rank,
)
from promptmm_pyg.losses.decoupled import (
    DecoupledKDLoss,
    DecoupledTerms,
    decoupled_kd_terms,
)
from promptmm_pyg.losses.distillation_experts import DistillationExperts
from promptmm_pyg.losses.embedding import (
    ScaledCosineLoss,
    UnitMSELoss,
    scaled_cosine_loss,
    unit_mse_loss,
)
from promptmm_pyg.losses.info_nce import InfoNCELoss, info_nce_loss
from promptmm_pyg.losses.listwise import ListwiseKDLoss, listwise_kd_loss
from promptmm_pyg.losses.pairwise import PairwiseKDLoss, pairwise_kd_loss
from promptmm_pyg.losses.rank_aware import RankAwareKDLoss, rank_aware_kd_loss
from promptmm_pyg.losses.ranking_distillation import (
    RankingDistillationLoss,
    estimate_rank,
    ranking_distillation_loss,
)
from promptmm_pyg.losses.regularization import squared_norm
from promptmm_pyg.losses.relational import (
    AngleKDLoss,
    DistanceKDLoss,
    angle_kd_loss,
    distance_kd_loss,
)
from promptmm_pyg.losses.relaxed_ranking import RelaxedRankingLoss, relaxed_ranking_loss
from promptmm_pyg.losses.sampled_softmax import SampledSoftmaxLoss, sampled_softmax_loss
from promptmm_pyg.losses.similarity import SimilarityKDLoss, similarity_kd_loss
from promptmm_pyg.losses.soft_label import SoftLabelKDLoss, soft_label_kd_loss
from promptmm_pyg.losses.topology import (
    HierarchicalTopologyKDLoss,
    TopologyKDLoss,
    hierarchical_topology_kd_loss,
    topology_kd_loss,
)
from promptmm_pyg.losses.total import weighted_sum
from promptmm_pyg.losses.view_weights import (
    FixedViewWeights,
    LearnedViewWeights,
    agreement_weights,
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
    'weighted_sum',
]
