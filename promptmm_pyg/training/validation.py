"""Validation metrics, and checks that run before training starts."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, ITEM
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.evaluation.metrics import METRICS, positives
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.training.sharded import evaluate_rows, looks_up_rows


def validation(
    model: torch.nn.Module, inputs: tuple[Any, ...], val: HeteroData, monitor: str
) -> dict[str, float]:
    """The metrics of ``val`` at the cutoff of the monitored metric."""
    k = cutoff(monitor)
    if looks_up_rows(model):
        return evaluate_rows(model, val, k).metrics
    return evaluate(get_embeddings(model, inputs), val, ks=(k,)).metrics


def sample_users(val: HeteroData, num_users: int, seed: int = 0) -> HeteroData:
    """The validation graph with all positives of a sample of its users; the graph
    itself, if it has no more or nothing is held out.
    """
    if 'edge_label_index' not in val[INTERACTS]:  # Of a final model.
        return val
    user, item = positives(val)
    users = user.unique()
    if users.numel() <= num_users:
        return val
    order = torch.randperm(users.numel(), generator=torch.Generator().manual_seed(seed))
    kept = torch.isin(user, users[order[:num_users]])
    graph = copy.copy(val)
    graph[INTERACTS].edge_label_index = torch.stack([user, item])[:, kept]
    if 'edge_label' in graph[INTERACTS]:
        del graph[INTERACTS].edge_label
    return graph


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


def check_split(data: object) -> None:
    """Raises unless ``data`` has the parts of a split."""
    if not all(hasattr(data, part) for part in ('train', 'val', 'test')):
        raise TypeError(
            f"'data' must be a Split (got {type(data).__name__}). 'load_dataset' and "
            f"'split_per_user' return one"
        )


def check_monitor(monitor: str, data: HeteroData) -> None:
    """Raises if the cutoff of the monitored metric exceeds the catalogue."""
    k, num_items = cutoff(monitor), data.num_nodes_dict[ITEM]
    if k > num_items:
        raise ValueError(
            f"'monitor' (--monitor) must have a cutoff of at most the catalogue's "
            f'{num_items} items (got {monitor!r}). Pass '
            f"'{monitor.partition('@')[0]}@{num_items}' or less"
        )


def check_device(name: str, x: Tensor, owner: str, module: torch.nn.Module) -> None:
    """Raises unless ``x``, of the argument ``name``, is on the device of the module
    ``owner``.
    """
    device = next((p.device for p in module.parameters()), None)
    if device not in (None, x.device):
        raise ValueError(
            f"'{name}' must be on the device of '{owner}', {device} (got {x.device}). "
            f"Move it: '{name}.to({str(device)!r})'"
        )
