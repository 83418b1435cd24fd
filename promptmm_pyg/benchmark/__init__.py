"""Benchmarks from a configuration file: tuned on validation, tested once per seed."""

from promptmm_pyg.benchmark.config import BenchmarkConfig, Dataset, load_config
from promptmm_pyg.benchmark.entries import Arm, Entry
from promptmm_pyg.benchmark.experiments import KINDS, Experiment
from promptmm_pyg.benchmark.run import run_benchmark

__all__ = [
    'KINDS',
    'Arm',
    'BenchmarkConfig',
    'Dataset',
    'Entry',
    'Experiment',
    'load_config',
    'run_benchmark',
]
