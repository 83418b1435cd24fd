"""Losses on plain tensors, student first; nothing here knows a graph."""

from promptmm_pyg.losses.bpr import BPRLoss, bpr_loss
from promptmm_pyg.losses.decoupled import (
    DecoupledKDLoss,
    DecoupledTerms,
    decoupled_kd_terms,
)
from promptmm_pyg.losses.embedding import (
    ScaledCosineLoss,
    UnitMSELoss,
    scaled_cosine_loss,
    unit_mse_loss,
)
from promptmm_pyg.losses.listwise import ListwiseKDLoss, listwise_kd_loss
from promptmm_pyg.losses.pairwise import PairwiseKDLoss, pairwise_kd_loss
from promptmm_pyg.losses.regularization import squared_norm
from promptmm_pyg.losses.total import weighted_sum

__all__ = [
    'BPRLoss',
    'DecoupledKDLoss',
    'DecoupledTerms',
    'ListwiseKDLoss',
    'PairwiseKDLoss',
    'ScaledCosineLoss',
    'UnitMSELoss',
    'bpr_loss',
    'decoupled_kd_terms',
    'listwise_kd_loss',
    'pairwise_kd_loss',
    'scaled_cosine_loss',
    'squared_norm',
    'unit_mse_loss',
    'weighted_sum',
]
