"""The real data sets named by ``PROMPTMM_DATA``, whole and as a sample."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_matrix

from promptmm_pyg.data.safe_pickle import load_sparse_pickle


def real_folder(name: str) -> Path:
    """The folder of a data set; the test is skipped without it."""
    root = os.environ.get('PROMPTMM_DATA')
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"requires the folder '{name}' in PROMPTMM_DATA")
    return Path(root) / name


def sample_tiktok(target: Path, num_users: int = 200) -> None:
    """Writes TikTok with all its items and features and its first users only."""
    source = real_folder('tiktok')
    target.mkdir(parents=True)
    for path in source.glob('*.npy'):
        shutil.copyfile(path, target / path.name)
    for path in source.glob('*Mat.pkl'):
        row, col, shape = load_sparse_pickle(path)
        sample = row < num_users
        edges = (row[sample], col[sample])
        matrix = coo_matrix((np.ones(sample.sum()), edges), (num_users, shape[1]))
        (target / path.name).write_bytes(pickle.dumps(matrix))
