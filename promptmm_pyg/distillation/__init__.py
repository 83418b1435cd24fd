"""Distillation from a teacher to a small student."""

from promptmm_pyg.distillation.adapters import (
    Adapter,
    OnEmbeddings,
    OnLists,
    OnPairs,
    OnTopK,
)
from promptmm_pyg.distillation.candidates import CandidateSampler, CandidateSampling
from promptmm_pyg.distillation.distill import DistillationResult, distill
from promptmm_pyg.distillation.ensemble import (
    ensemble_targets,
    fit_ensemble_weights,
)
from promptmm_pyg.distillation.frequencies import OnFrequencies
from promptmm_pyg.distillation.methods import (
    fdrec_losses,
    promptmm_losses,
    tarec_losses,
)
from promptmm_pyg.distillation.start import start_student, truncate_embeddings

__all__ = [
    'Adapter',
    'CandidateSampler',
    'CandidateSampling',
    'DistillationResult',
    'OnEmbeddings',
    'OnFrequencies',
    'OnLists',
    'OnPairs',
    'OnTopK',
    'distill',
    'ensemble_targets',
    'fdrec_losses',
    'fit_ensemble_weights',
    'promptmm_losses',
    'start_student',
    'tarec_losses',
    'truncate_embeddings',
]
