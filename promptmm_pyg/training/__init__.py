"""Two loops as functions, and the parts they are made of."""

from promptmm_pyg.training.amortized import AmortizedTerms
from promptmm_pyg.training.candidates import Candidates
from promptmm_pyg.training.checkpoint import load_state, save_state
from promptmm_pyg.training.copying import copy_tables
from promptmm_pyg.training.distill import (
    CONTROL_WEIGHTS,
    STUDENT_WEIGHTS,
    Distilled,
    distill,
)
from promptmm_pyg.training.distributed import process_group
from promptmm_pyg.training.early_stopping import EarlyStopping
from promptmm_pyg.training.freed_memory import keep_freed_memory
from promptmm_pyg.training.history import History
from promptmm_pyg.training.inputs import embed, message_operators
from promptmm_pyg.training.loop import Schedule
from promptmm_pyg.training.minibatch import train_minibatch
from promptmm_pyg.training.mix_weights import learn_mix_weights
from promptmm_pyg.training.objective import DistillationObjective
from promptmm_pyg.training.optimizer import LazyAdamW
from promptmm_pyg.training.row_tables import row_tables
from promptmm_pyg.training.summands import by_example
from promptmm_pyg.training.teacher import (
    TEACHER_WEIGHTS,
    bpr_terms,
    promptmm_terms,
    train_teacher,
)
from promptmm_pyg.training.teacher_mix import mix_targets
from promptmm_pyg.training.terms import JoinedTerms, ListTerm, PairTerm, RowTerm
from promptmm_pyg.training.top_terms import (
    CollaborativeTerm,
    RankAwareTerm,
    RankingTerm,
    RelaxedRankingTerm,
)

__all__ = [
    'CONTROL_WEIGHTS',
    'STUDENT_WEIGHTS',
    'TEACHER_WEIGHTS',
    'AmortizedTerms',
    'Candidates',
    'CollaborativeTerm',
    'DistillationObjective',
    'Distilled',
    'EarlyStopping',
    'History',
    'JoinedTerms',
    'LazyAdamW',
    'ListTerm',
    'PairTerm',
    'RankAwareTerm',
    'RankingTerm',
    'RelaxedRankingTerm',
    'RowTerm',
    'Schedule',
    'bpr_terms',
    'by_example',
    'copy_tables',
    'distill',
    'embed',
    'keep_freed_memory',
    'learn_mix_weights',
    'load_state',
    'message_operators',
    'mix_targets',
    'process_group',
    'promptmm_terms',
    'row_tables',
    'save_state',
    'train_minibatch',
    'train_teacher',
]
