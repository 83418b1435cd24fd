"""From files, tables and arrays to graphs in one schema."""

from promptmm_pyg.data.build import build_graph
from promptmm_pyg.data.dataset import MultiModalDataset
from promptmm_pyg.data.features import open_features, save_features
from promptmm_pyg.data.frames import read_table
from promptmm_pyg.data.load import load_dataset
from promptmm_pyg.data.mmrec import write_mmrec
from promptmm_pyg.data.movielens import from_movielens, split_movielens
from promptmm_pyg.data.recbole import read_recbole_texts
from promptmm_pyg.data.recipes import (
    RawData,
    fetch,
    read_amazon,
    read_microlens,
    read_movielens,
)
from promptmm_pyg.data.safe_pickle import SparseMatrix, load_sparse_pickle
from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    NODE_TYPES,
    REV_INTERACTS,
    USER,
    FeatureDict,
    fingerprint,
    modality_mask_dict,
    modality_x_dict,
    without_raw_ids,
)
from promptmm_pyg.data.split import (
    Split,
    split_by_part,
    split_by_time,
    split_cold_items,
    split_leave_one_out,
    split_per_user,
)
from promptmm_pyg.data.synthetic import checkerboard, make_synthetic_dataset
from promptmm_pyg.data.validate import validate
from promptmm_pyg.data.validate_graph import Issue

__all__ = [
    'INTERACTS',
    'ITEM',
    'NODE_TYPES',
    'REV_INTERACTS',
    'USER',
    'FeatureDict',
    'Issue',
    'MultiModalDataset',
    'RawData',
    'SparseMatrix',
    'Split',
    'build_graph',
    'checkerboard',
    'fetch',
    'fingerprint',
    'from_movielens',
    'load_dataset',
    'load_sparse_pickle',
    'make_synthetic_dataset',
    'modality_mask_dict',
    'modality_x_dict',
    'open_features',
    'read_amazon',
    'read_microlens',
    'read_movielens',
    'read_recbole_texts',
    'read_table',
    'save_features',
    'split_by_part',
    'split_by_time',
    'split_cold_items',
    'split_leave_one_out',
    'split_movielens',
    'split_per_user',
    'validate',
    'without_raw_ids',
    'write_mmrec',
]
