"""Tuning on validation: trials of Optuna's TPE in the search space of a model."""

from promptmm_pyg.search_space import Choices, Range, SearchSpace, trained_space
from promptmm_pyg.tuning.study import Study, Trial
from promptmm_pyg.tuning.tune import (
    SplitParams,
    Tuning,
    search_space,
    split_params,
    tune,
)

__all__ = [
    'Choices',
    'Range',
    'SearchSpace',
    'SplitParams',
    'Study',
    'Trial',
    'Tuning',
    'search_space',
    'split_params',
    'trained_space',
    'tune',
]
