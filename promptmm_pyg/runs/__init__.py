"""Runs: one folder with data settings, teacher, student, baseline and recommender."""

from promptmm_pyg.runs.data import Prepared, RunError, prepare
from promptmm_pyg.runs.run import Run
from promptmm_pyg.runs.stages import distill_run, evaluate_run, train_run

__all__ = [
    'Prepared',
    'Run',
    'RunError',
    'distill_run',
    'evaluate_run',
    'prepare',
    'train_run',
]
