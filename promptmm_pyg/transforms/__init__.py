"""From one graph to the next: weights, scales and the prompt's starting point."""

from promptmm_pyg.transforms.bipartite_norm import AddBipartiteNorm
from promptmm_pyg.transforms.impute import ImputeFromNeighbors
from promptmm_pyg.transforms.modality_ica import AddModalityICA, independent_components
from promptmm_pyg.transforms.modality_pca import (
    AddModalityPCA,
    principal_axes,
    principal_components,
)
from promptmm_pyg.transforms.prompt_start import AddRandomPrompt
from promptmm_pyg.transforms.standardize import (
    StandardizeModalities,
    is_standardized,
    standardize,
)

__all__ = [
    'AddBipartiteNorm',
    'AddModalityICA',
    'AddModalityPCA',
    'AddRandomPrompt',
    'ImputeFromNeighbors',
    'StandardizeModalities',
    'independent_components',
    'is_standardized',
    'principal_axes',
    'principal_components',
    'standardize',
]
