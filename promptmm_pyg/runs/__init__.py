"""Runs: one folder with data settings, teacher, student, baseline and recommender."""

from promptmm_pyg.runs.data import Prepared, RunError, prepare
from promptmm_pyg.runs.evaluation import evaluate_run
from promptmm_pyg.runs.final import Update, refit_run, update_run
from promptmm_pyg.runs.finish import finish_run
from promptmm_pyg.runs.run import Run
from promptmm_pyg.runs.stages import distill_run, train_run
from promptmm_pyg.runs.update import update_recommender

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
    'update_recommender',
    'update_run',
]
