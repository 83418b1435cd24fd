"""From edges to batches of indices."""

from promptmm_pyg.loader.candidates import (
    CandidateLists,
    mixed_candidates,
    uniform_candidates,
)
from promptmm_pyg.loader.negative import ExactNegativeSampler
from promptmm_pyg.loader.triplets import TripletLoader, Triplets

__all__ = [
    'CandidateLists',
    'ExactNegativeSampler',
    'TripletLoader',
    'Triplets',
    'mixed_candidates',
    'uniform_candidates',
]
