"""Runs: one folder with data settings, teacher, student, baseline and recommender."""

from promptmm_pyg.runs.data import Prepared, RunError, prepare
from promptmm_pyg.runs.evaluation import evaluate_run
from promptmm_pyg.runs.run import Run
from promptmm_pyg.runs.stages import distill_run, finish_run, train_run

__all__ = [
    'Prepared',
    'Run',
    'RunError',
    'distill_run',
    'evaluate_run',
    'finish_run',
    'prepare',
    'train_run',
]
