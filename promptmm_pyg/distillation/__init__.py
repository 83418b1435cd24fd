"""Distillation: a teacher's knowledge into a small student, by losses that combine."""

from promptmm_pyg.distillation.adapters import JoinedTerms, ListTerm, PairTerm, RowTerm
from promptmm_pyg.distillation.candidates import CandidateSampler, CandidateSampling
from promptmm_pyg.distillation.distill import (
    CONTROL_WEIGHTS,
    STUDENT_WEIGHTS,
    DistillationResult,
    distill,
)
from promptmm_pyg.distillation.ensemble import ensemble_targets
from promptmm_pyg.distillation.ensemble_weights import fit_ensemble_weights
from promptmm_pyg.distillation.objective import DistillationObjective
from promptmm_pyg.distillation.top_adapters import (
    CollaborativeTerm,
    RankAwareTerm,
    RankingTerm,
    RelaxedRankingTerm,
)
from promptmm_pyg.distillation.truncate import truncate_embeddings

__all__ = [
    'CONTROL_WEIGHTS',
    'STUDENT_WEIGHTS',
    'CandidateSampler',
    'CandidateSampling',
    'CollaborativeTerm',
    'DistillationObjective',
    'DistillationResult',
    'JoinedTerms',
    'ListTerm',
    'PairTerm',
    'RankAwareTerm',
    'RankingTerm',
    'RelaxedRankingTerm',
    'RowTerm',
    'distill',
    'ensemble_targets',
    'fit_ensemble_weights',
    'truncate_embeddings',
]
