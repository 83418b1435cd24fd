"""What is measured at one size of graph, in the order of a run."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.scale_costs import Costs, peak_mib
from benchmarks.scale_graph import Size, draw_graph
from benchmarks.scale_students import distillation, ranking, training
from benchmarks.scale_teachers import asked, propagation, teaching
from promptmm_pyg.data import open_features, save_features
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.training import tune_allocator


def measure(size: Size, folder: Path) -> dict[str, Any]:
    """Everything of one size, in this process; the student comes before the teacher,
    so that the peak of its training and evaluation is its own.

    Args:
        size: The size.
        folder: Where features and targets are written meanwhile.
    """
    tune_allocator()
    torch.set_num_threads(size.threads)
    torch.manual_seed(size.seed)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        return _measure(size, Path(name), Costs(f'{size.interactions:,}'))


def _measure(size: Size, folder: Path, costs: Costs) -> dict[str, Any]:
    start_mib = peak_mib()
    features, targets = folder / 'features', folder / 'targets'
    with costs.timed('graph drawn'):
        data = draw_graph(size)
    with costs.timed('features written'):
        save_features(features, _random_features(size))
    ranking(size, data, training(size, data, costs), costs)
    student_peak_mib = peak_mib()
    propagation(size, data, costs)
    teacher = teaching(size, data, open_features(features), costs)
    asked(teacher, data, targets, costs)
    del teacher
    distillation(size, data, targets, costs)
    return {
        'interactions': size.interactions,
        'edges': data[INTERACTS].edge_index.size(1),
        'users': size.users,
        'items': size.items,
        'costs': costs.found,
        'features_bytes': features.stat().st_size,
        'tables_bytes': size.table,
        'start_mib': start_mib,
        'student_peak_mib': student_peak_mib,
        'peak_mib': peak_mib(),
        'estimated_mib': (size.whole_graph if size.whole_fits else size.peak) / 2**20,
    }


def _random_features(size: Size) -> Iterator[Tensor]:
    """All rows, some at a time: they are nowhere as a whole but on disk."""
    g = torch.Generator().manual_seed(size.seed)
    for rows in torch.arange(size.items).split(2**14):
        yield torch.randn(rows.numel(), size.features, generator=g)
