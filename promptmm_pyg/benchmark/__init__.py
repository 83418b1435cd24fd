"""Benchmarks from a configuration file: tuned on validation, tested once per seed."""

from promptmm_pyg.benchmark.config import BenchmarkConfig, Dataset, load_config
from promptmm_pyg.benchmark.experiments import KINDS
from promptmm_pyg.benchmark.report import render, update_page
from promptmm_pyg.benchmark.runner import run_benchmark

__all__ = [
    'KINDS',
    'BenchmarkConfig',
    'Dataset',
    'load_config',
    'render',
    'run_benchmark',
    'update_page',
]
