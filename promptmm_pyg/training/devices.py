"""Whether what trains together lies on one device."""

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, USER


def check_graph_device(name: str, module: torch.nn.Module, train: HeteroData) -> None:
    """Raises if a graph is elsewhere than the model called ``name``; one without
    parameters may be anywhere.
    """
    device = _device(module)
    where = train[INTERACTS].edge_index.device
    if device not in (None, where):
        raise ValueError(
            f"'train' must be on the device of '{name}', {device} (got {where}). "
            f"Move it: 'train.to({str(device)!r})'"
        )


def check_targets_device(student: torch.nn.Module, x_dict: dict[str, Tensor]) -> None:
    """Raises if a teacher's tables are elsewhere than the student."""
    device, where = _device(student), x_dict[USER].device
    if device not in (None, where):
        raise ValueError(
            f"'teacher' must be on the device of 'student', {device} (got "
            f"{where}). Move it, or soft targets: 'teacher.to({str(device)!r})'"
        )


def _device(module: torch.nn.Module) -> torch.device | None:
    return next((p.device for p in module.parameters()), None)
