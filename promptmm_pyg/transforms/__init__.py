"""From one graph to the next: weights, scales and the prompt's starting point."""

from promptmm_pyg.transforms.bipartite_norm import AddBipartiteNorm
from promptmm_pyg.transforms.modality_pca import AddModalityPCA, principal_components
from promptmm_pyg.transforms.standardize import StandardizeModalities, standardize

__all__ = [
    'AddBipartiteNorm',
    'AddModalityPCA',
    'StandardizeModalities',
    'principal_components',
    'standardize',
]
