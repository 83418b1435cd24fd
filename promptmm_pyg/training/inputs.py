"""What a model is called with, and what is asked of it while it trains."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import (
    INTERACTS,
    ITEM,
    USER,
    num_nodes_dict,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.evaluation.metrics import METRICS
from promptmm_pyg.loader import TripletLoader
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.training.distributed import assert_same_rows_across_ranks


def triplet_loader(
    train: HeteroData,
    *,
    batch_size: int,
    seed: int,
    negative_items: Tensor | None = None,
) -> TripletLoader:
    """The training interactions of ``train`` in batches."""
    num_nodes = num_nodes_dict(train)
    assert_same_rows_across_ranks('train', train[INTERACTS].edge_index)
    return TripletLoader(
        train[INTERACTS].edge_index,
        num_users=num_nodes[USER],
        num_items=num_nodes[ITEM],
        batch_size=batch_size,
        seed=seed,
        negative_items=negative_items,
    )


def validation(
    model: torch.nn.Module, inputs: tuple[Any, ...], val: HeteroData, monitor: str
) -> dict[str, float]:
    """The metrics of ``val`` at the cutoff of the monitored metric."""
    return evaluate(get_embeddings(model, inputs), val, ks=(cutoff(monitor),)).metrics


def check_monitor(monitor: str, data: HeteroData) -> None:
    """Raises, before any work is lost, if validation could not end."""
    k, num_items = cutoff(monitor), num_nodes_dict(data)[ITEM]
    if k > num_items:
        raise ValueError(
            f"'monitor' requires a cutoff of at most the catalogue's {num_items} items "
            f'(got {monitor!r})'
        )


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
