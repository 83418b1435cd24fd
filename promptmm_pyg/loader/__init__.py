"""Batches of triplets, candidate lists and sampled neighborhoods."""

from promptmm_pyg.loader.candidates import (
    CandidateLists,
    mixed_candidates,
    uniform_candidates,
)
from promptmm_pyg.loader.neighbors import HeteroNeighborSampler
from promptmm_pyg.loader.triplet_neighbors import TripletNeighborLoader, triplets_of
from promptmm_pyg.loader.triplets import ExactNegativeSampler, TripletLoader, Triplets

__all__ = [
    'CandidateLists',
    'ExactNegativeSampler',
    'HeteroNeighborSampler',
    'TripletLoader',
    'TripletNeighborLoader',
    'Triplets',
    'mixed_candidates',
    'triplets_of',
    'uniform_candidates',
]
