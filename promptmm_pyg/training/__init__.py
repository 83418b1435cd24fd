"""Training on interactions: one function, its settings, and its parts."""

from promptmm_pyg.training.callbacks import (
    Callback,
    MLflowTracker,
    TensorBoardTracker,
    Tracker,
    WandbTracker,
)
from promptmm_pyg.training.checkpoint import load_state, save_state
from promptmm_pyg.training.config import TrainingConfig
from promptmm_pyg.training.distributed import process_group
from promptmm_pyg.training.history import EarlyStopping, History, LastEpochWarning
from promptmm_pyg.training.neighborhood import NeighborChoice, choose_neighbors
from promptmm_pyg.training.optim import LazyAdamW, tune_allocator
from promptmm_pyg.training.train import bpr_losses, train

__all__ = [
    'Callback',
    'EarlyStopping',
    'History',
    'LastEpochWarning',
    'LazyAdamW',
    'MLflowTracker',
    'NeighborChoice',
    'TensorBoardTracker',
    'Tracker',
    'TrainingConfig',
    'WandbTracker',
    'bpr_losses',
    'choose_neighbors',
    'load_state',
    'process_group',
    'save_state',
    'train',
    'tune_allocator',
]
