from promptmm_pyg.serving._feature_fit import FeatureMap
from promptmm_pyg.serving._ids import RawIds
from promptmm_pyg.serving._ranker import Recommendations
from promptmm_pyg.serving._tables import Tables
from promptmm_pyg.serving.exports import (
    TopItems,
    export_embeddings,
    export_lancedb,
    export_program,
    faiss_index,
)
from promptmm_pyg.serving.feature_mapper import FeatureMapper
from promptmm_pyg.serving.fold_in import FoldIn
from promptmm_pyg.serving.onnx_program import export_onnx
from promptmm_pyg.serving.placement import Placement, place_cold
from promptmm_pyg.serving.recommender import Recommender
from promptmm_pyg.serving.server import create_app

__all__ = [
    'FeatureMap',
    'FeatureMapper',
    'FoldIn',
    'Placement',
    'RawIds',
    'Recommendations',
    'Recommender',
    'Tables',
    'TopItems',
    'create_app',
    'export_embeddings',
    'export_lancedb',
    'export_onnx',
    'export_program',
    'faiss_index',
    'place_cold',
]
