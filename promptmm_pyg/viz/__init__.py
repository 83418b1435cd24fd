"""Figures of training and evaluation; needs matplotlib, draws without a display."""

from promptmm_pyg.viz.embedding_map import plot_embedding_map
from promptmm_pyg.viz.figure import save_figure
from promptmm_pyg.viz.run import (
    Bar,
    Records,
    plot_explanation,
    plot_learning_curves,
    plot_metric_bars,
    plot_run,
)
from promptmm_pyg.viz.trials import plot_trials

__all__ = [
    'Bar',
    'Records',
    'plot_embedding_map',
    'plot_explanation',
    'plot_learning_curves',
    'plot_metric_bars',
    'plot_run',
    'plot_trials',
    'save_figure',
]
