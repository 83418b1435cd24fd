"""Validation metrics, and checks that run before training starts."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM, USER, num_nodes_dict
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.evaluation.metrics import METRICS
from promptmm_pyg.models.inference import get_embeddings


def validation(
    model: torch.nn.Module, inputs: tuple[Any, ...], val: HeteroData, monitor: str
) -> dict[str, float]:
    """The metrics of ``val`` at the cutoff of the monitored metric."""
    return evaluate(get_embeddings(model, inputs), val, ks=(cutoff(monitor),)).metrics


def cutoff(monitor: str) -> int:
    """The 20 of ``'Recall@20'``.

    Raises:
        ValueError: If the metric is unknown or has no cutoff.
    """
    name, _, k = monitor.partition('@')
    if name not in METRICS or not k.isdigit() or int(k) == 0:
        raise ValueError(
            f"'monitor' must be one of {sorted(METRICS)} with a cutoff, like "
            f"'Recall@20' (got {monitor!r})"
        )
    return int(k)


def check_monitor(monitor: str, data: HeteroData) -> None:
    """Raises before training if the cutoff exceeds the catalogue."""
    k, num_items = cutoff(monitor), num_nodes_dict(data)[ITEM]
    if k > num_items:
        raise ValueError(
            f"'monitor' requires a cutoff of at most the catalogue's {num_items} items "
            f'(got {monitor!r})'
        )


def check_graph_device(name: str, module: torch.nn.Module, train: HeteroData) -> None:
    """Raises unless the graph is on the device of the model called ``name``."""
    device, current = _device(module), train[INTERACTS].edge_index.device
    if device not in (None, current):
        raise ValueError(
            f"'data.train' must be on the device of '{name}', {device} (got "
            f"{current}). Move it: 'data.train.to({str(device)!r})'"
        )


def check_targets_device(student: torch.nn.Module, x_dict: dict[str, Tensor]) -> None:
    """Raises unless the teacher's embeddings are on the student's device."""
    device, current = _device(student), x_dict[USER].device
    if device not in (None, current):
        raise ValueError(
            f"'teacher' must be on the device of 'student', {device} (got "
            f'{current}). Move the module or its soft targets: '
            f"'teacher.to({str(device)!r})'"
        )


def _device(module: torch.nn.Module) -> torch.device | None:
    return next((p.device for p in module.parameters()), None)
