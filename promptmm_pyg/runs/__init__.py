"""Runs: one folder with data settings, teacher, student, baseline and recommender."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from promptmm_pyg.runs.data import Prepared, RunError, prepare

if TYPE_CHECKING:
    from promptmm_pyg.runs.evaluation import evaluate_run
    from promptmm_pyg.runs.final import Update, update_run
    from promptmm_pyg.runs.finish import finish_run
    from promptmm_pyg.runs.refit import refit_run
    from promptmm_pyg.runs.run import Run
    from promptmm_pyg.runs.stages import distill_run, train_run
    from promptmm_pyg.runs.tune import tune_run
    from promptmm_pyg.runs.update import update_recommender

# Imported at first use: 'data check' requires no model and no metric.
_HOMES = {
    'Run': 'run',
    'Update': 'final',
    'distill_run': 'stages',
    'evaluate_run': 'evaluation',
    'finish_run': 'finish',
    'refit_run': 'refit',
    'train_run': 'stages',
    'tune_run': 'tune',
    'update_recommender': 'update',
    'update_run': 'final',
}

__all__ = [
    'Prepared',
    'Run',
    'RunError',
    'Update',
    'distill_run',
    'evaluate_run',
    'finish_run',
    'prepare',
    'refit_run',
    'train_run',
    'tune_run',
    'update_recommender',
    'update_run',
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_HOMES[name]}'), name)
