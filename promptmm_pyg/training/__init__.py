"""Two loops as functions, and the parts they are made of."""

from promptmm_pyg.training.amortized import AmortizedTerms
from promptmm_pyg.training.checkpoint import load_state, save_state
from promptmm_pyg.training.distributed import process_group
from promptmm_pyg.training.early_stopping import EarlyStopping
from promptmm_pyg.training.freed_memory import tune_allocator
from promptmm_pyg.training.history import History
from promptmm_pyg.training.loop import Schedule
from promptmm_pyg.training.minibatch import train_minibatch
from promptmm_pyg.training.optimizer import LazyAdamW
from promptmm_pyg.training.row_tables import row_tables
from promptmm_pyg.training.summands import by_example
from promptmm_pyg.training.teacher import (
    TEACHER_WEIGHTS,
    bpr_terms,
    promptmm_terms,
    train_teacher,
)

__all__ = [
    'TEACHER_WEIGHTS',
    'AmortizedTerms',
    'EarlyStopping',
    'History',
    'LazyAdamW',
    'Schedule',
    'bpr_terms',
    'by_example',
    'load_state',
    'process_group',
    'promptmm_terms',
    'row_tables',
    'save_state',
    'train_minibatch',
    'train_teacher',
    'tune_allocator',
]
