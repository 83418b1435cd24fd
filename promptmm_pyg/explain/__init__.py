"""Exact decompositions of scores by sources and neighbors."""

from promptmm_pyg.explain.explainer import Explainer
from promptmm_pyg.explain.explanation import Explanation, Side
from promptmm_pyg.explain.pca_map import PCAMap, pca_map

__all__ = ['Explainer', 'Explanation', 'PCAMap', 'Side', 'pca_map']
