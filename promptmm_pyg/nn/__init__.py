"""Layers and operators on tensors and PyG dictionaries, for any node types."""

from promptmm_pyg.nn.blocked_linear import BlockedLinear, ChunkedFeatures
from promptmm_pyg.nn.csr import CSRPair, as_csr_pair, csr_pair_dict
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.nn.knn import (
    cached_knn_graph,
    knn_graph,
    knn_recall,
    normalize_edges,
)
from promptmm_pyg.nn.modality_encoder import MissingRows, PromptedModalityEncoder
from promptmm_pyg.nn.prompt import PromptStatistics, SoftPrompt, prompt_statistics
from promptmm_pyg.nn.prompted_encoder import PromptedEncoder, TokenPrompt
from promptmm_pyg.nn.prompts import load_prompt, save_prompt
from promptmm_pyg.nn.propagation import HeteroPropagation, propagate_blocks
from promptmm_pyg.nn.sharded_embeddings import ShardedEmbeddings
from promptmm_pyg.nn.shards import Shards

__all__ = [
    'BlockedLinear',
    'CSRPair',
    'ChunkedFeatures',
    'HeteroPropagation',
    'MissingRows',
    'NodeEmbeddings',
    'PromptStatistics',
    'PromptedEncoder',
    'PromptedModalityEncoder',
    'ShardedEmbeddings',
    'Shards',
    'SoftPrompt',
    'TokenPrompt',
    'as_csr_pair',
    'cached_knn_graph',
    'csr_pair_dict',
    'knn_graph',
    'knn_recall',
    'load_prompt',
    'normalize_edges',
    'prompt_statistics',
    'propagate_blocks',
    'save_prompt',
]
