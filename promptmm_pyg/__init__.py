"""Multi-modal recommendation by knowledge distillation, on PyG.

The names a new user meets first are here; the rest lives in the subpackages. Names are
looked up when they are used, so that ``promptmm_pyg.serving`` and
``promptmm_pyg.losses`` can be imported where torch_geometric is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

if TYPE_CHECKING:
    from promptmm_pyg.data import load_dataset, read_table, split_per_user
    from promptmm_pyg.distillation import distill
    from promptmm_pyg.evaluation import evaluate, paired_test
    from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
    from promptmm_pyg.nn import PromptedEncoder, load_prompt, save_prompt
    from promptmm_pyg.runs import Run
    from promptmm_pyg.serving import Recommender
    from promptmm_pyg.targets import (
        SoftTargets,
        TeacherOutput,
        load_targets,
        save_targets,
        soft_targets,
    )
    from promptmm_pyg.training import TrainingConfig, train

_HOMES = {
    'LightGCN': 'models',
    'MatrixFactorization': 'models',
    'PromptMM': 'models',
    'PromptedEncoder': 'nn',
    'Recommender': 'serving',
    'Run': 'runs',
    'SoftTargets': 'targets',
    'TeacherOutput': 'targets',
    'TrainingConfig': 'training',
    'distill': 'distillation',
    'evaluate': 'evaluation',
    'load_dataset': 'data',
    'load_prompt': 'nn',
    'load_targets': 'targets',
    'paired_test': 'evaluation',
    'read_table': 'data',
    'save_prompt': 'nn',
    'save_targets': 'targets',
    'soft_targets': 'targets',
    'split_per_user': 'data',
    'train': 'training',
}

__all__ = [
    'LightGCN',
    'MatrixFactorization',
    'PromptMM',
    'PromptedEncoder',
    'Recommender',
    'Run',
    'SoftTargets',
    'TeacherOutput',
    'TrainingConfig',
    '__version__',
    'distill',
    'evaluate',
    'load_dataset',
    'load_prompt',
    'load_targets',
    'paired_test',
    'read_table',
    'save_prompt',
    'save_targets',
    'soft_targets',
    'split_per_user',
    'train',
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
