"""From one graph to the next: weights, scales and the prompt's starting point."""

from promptmm_pyg.transforms.bipartite_norm import AddBipartiteNorm
from promptmm_pyg.transforms.features import (
    ImputeFromNeighbors,
    StandardizeModalities,
    is_standardized,
    standardize,
)
from promptmm_pyg.transforms.prompt_start import (
    AddModalityICA,
    AddModalityPCA,
    AddRandomPrompt,
    independent_components,
    principal_axes,
    principal_components,
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
