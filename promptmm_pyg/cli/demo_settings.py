"""What the demo trains on, and how."""

from typing import Any

from promptmm_pyg.cli.run_folder import FORMAT
from promptmm_pyg.training import STUDENT_WEIGHTS, TEACHER_WEIGHTS

_SCHEDULE = {
    'epochs': 150,
    'patience': 10,
    'monitor': 'Recall@20',
    'validate_every': 2,
}
# Chosen on validation, for the baseline and the control no less than for the others:
# learning rates 0.001, 0.003, 0.01, 'l2' 0.001, 0.01, 0.03.
_LEARNING = {'learning_rate': 3e-3, 'batch_size': 1024, 'seed': 0}
CONFIG: dict[str, Any] = {
    'format': FORMAT,
    'data': {
        'format': 'planted',
        'planted': {'num_users': 2000, 'num_items': 1000, 'num_clusters': 25},
        'split': {'method': 'per-user', 'val_ratio': 0.2, 'test_ratio': 0.2},
    },
    'titles': None,
    'prompt': {'out_channels': 32},
    'teacher': {'embedding_dim': 64},
    'train': _LEARNING,
    'weights': dict(TEACHER_WEIGHTS),
    'schedule': _SCHEDULE,
}
STUDENT: dict[str, Any] = {
    'student': 'lightgcn',
    'width': 16,
    'num_layers': 2,
    'distill': _LEARNING,
    'weights': {**STUDENT_WEIGHTS, 'l2': 1e-2},
    'objective': {},
    'candidates': {},
    'schedule': _SCHEDULE,
}
BASELINE = {'embedding_dim': 64, 'l2': 3e-2}
