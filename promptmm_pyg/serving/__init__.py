from promptmm_pyg.serving.feature_path import FeatureMap, FeaturePath
from promptmm_pyg.serving.fold_in import FoldIn
from promptmm_pyg.serving.recommender import Recommendations, Recommender
from promptmm_pyg.serving.top_items_module import TopItems

__all__ = [
    'FeatureMap',
    'FeaturePath',
    'FoldIn',
    'Recommendations',
    'Recommender',
    'TopItems',
]
