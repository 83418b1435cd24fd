"""Training on the sampled neighborhoods of batches."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.limits import total_memory
from promptmm_pyg.loader import (
    CandidateLists,
    TripletNeighborLoader,
    Triplets,
    triplets_of,
)
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.nn.embeddings import NodeEmbeddings
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training.config import TrainingConfig
from promptmm_pyg.training.history import History
from promptmm_pyg.training.loop import Losses, StepOutput, fit, step_output
from promptmm_pyg.training.validation import cutoff
from promptmm_pyg.transforms import AddBipartiteNorm

_NEIGHBORS = 10  # Per hop.
# Bytes of training on the whole graph, per interaction and per byte of parameters
# (benchmarks/speed/scale.py), and the share of the memory that it may use.
_EDGE_BYTES, _PARAMETER_COPIES, _MEMORY_SHARE = 250, 24, 0.6


class NeighborChoice(NamedTuple):
    """Whether to train on the whole graph or on neighborhoods."""

    num_neighbors: list[int] | None
    """Edges per node in each hop; ``None`` for the whole graph."""
    needed: int
    """Bytes that training on the whole graph needs, by estimate."""
    allowed: int
    """Bytes that it may use: 60 % of the memory of the machine, or of the GPU."""
    supported: bool
    """Whether the model can be trained on neighborhoods."""


def choose_neighbors(model: torch.nn.Module, train: HeteroData) -> NeighborChoice:
    """The choice of ``num_neighbors='auto'``: the whole graph where it fits into
    memory, since its epochs cost less; else ten neighbors per hop.

    The estimate is 250 bytes per interaction and 24 times the parameters, as measured
    for PromptMM; ``promptmm train --dry-run`` measures.

    Args:
        model: The model.
        train: Graph with the training interactions.
    """
    parameters = [x for x in model.parameters() if x.requires_grad]
    size = sum(x.nbytes for x in parameters)
    edges = train[INTERACTS].edge_index.size(1)
    needed = _EDGE_BYTES * edges + _PARAMETER_COPIES * size
    device = next(iter(parameters), torch.empty(0)).device
    total = total_memory()
    if device.type == 'cuda':
        total = torch.cuda.get_device_properties(device).total_memory
    num_hops = getattr(model, 'num_hops', 0)
    supported = num_hops > 0 and _takes_neighborhoods(model)
    allowed = int(_MEMORY_SHARE * total)
    sampled = [_NEIGHBORS] * num_hops if supported and needed > allowed else None
    return NeighborChoice(sampled, needed, allowed, supported)


def with_neighbors(
    model: torch.nn.Module | ClosedForm[Any], train: HeteroData, config: TrainingConfig
) -> TrainingConfig:
    """The configuration without ``num_neighbors='auto'``."""
    if config.num_neighbors != 'auto':
        return config
    chosen = None
    if config.propagate_every == 1 and isinstance(model, torch.nn.Module):
        chosen = choose_neighbors(model, train).num_neighbors
    if chosen is None:
        return replace(config, num_neighbors=None)
    return replace(config, num_neighbors=chosen, optimizer='lazy')


def train_on_neighborhoods(
    model: torch.nn.Module,
    train: HeteroData,
    val: HeteroData,
    losses: Callable[[Any, Triplets], Losses],
    weights: Mapping[str, float] | None,
    config: TrainingConfig,
    negative_items: Tensor | None,
) -> History:
    """:func:`~promptmm_pyg.training.train` with ``config.num_neighbors``."""
    assert config.num_neighbors is not None
    assert config.num_neighbors != 'auto'
    _check_forward(model)
    torch.manual_seed(config.seed)
    train = _with_weights(train)
    loader = TripletNeighborLoader(
        train,
        config.num_neighbors,
        batch_size=int(config.batch_size),
        drop_targets=config.drop_targets,
        rescale=config.rescale,
        negative_items=negative_items,
        seed=config.seed,
    )
    _check_hops(model, loader.neighbors.num_hops)
    device = next(model.parameters()).device

    def step(triplets: Triplets, _: CandidateLists | None) -> StepOutput:
        batch = loader.around(triplets).to(device)
        output = model(
            batch.edge_index_dict, batch.collect('edge_weight'), batch.collect('n_id')
        )
        return step_output(
            losses(seed_rows(output, batch), triplets_of(batch)), weights
        )

    lazy = config.optimizer == 'lazy'
    with sparse_gradients(_tables(model)) if lazy else nullcontext():
        return fit(
            model,
            step,
            loader.triplets,
            config=config,
            validate=blockwise_validation(model, train, val, config),
            stateful={'neighbors': loader.neighbors},
            name=type(model).__name__,
        )


def blockwise_validation(
    model: torch.nn.Module, train: HeteroData, val: HeteroData, config: TrainingConfig
) -> Callable[[], dict[str, float]]:
    """A validation that goes through the whole graph layer by layer and in blocks,
    where the model has ``inference``.
    """
    adj_dict = normalized_adj_dict(train)

    def validate() -> dict[str, float]:
        inference: Any = getattr(model, 'inference', None)
        if inference is not None:
            x_dict = inference(adj_dict, block_size=config.block_size)
        else:
            device = next(model.parameters()).device
            moved = {key: adj.to(device) for key, adj in adj_dict.items()}
            x_dict = get_embeddings(model, (moved,))
        return evaluate(x_dict, val, ks=(cutoff(config.monitor),)).metrics

    return validate


def seed_rows(output: Any, batch: HeteroData) -> Any:
    """The rows of the seed nodes in a model's output on their neighborhood; the rows of
    other nodes lack messages.
    """

    def cut(x_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: x[: batch[key].num_sampled_nodes[0]] for key, x in x_dict.items()}

    if not isinstance(output, TeacherOutput):
        return cut(output)
    views = {name: cut(x_dict) for name, x_dict in output.modality_x_dict.items()}
    return TeacherOutput(cut(output.x_dict), views, cut(output.prompt_dict))


def _tables(model: torch.nn.Module) -> list[Tensor]:
    """The id tables that are looked up by ``n_id_dict``."""
    modules = [x for x in model.modules() if isinstance(x, NodeEmbeddings)]
    if not modules:
        raise ValueError(
            f"'model' must have 'NodeEmbeddings' with optimizer='lazy' (got none in "
            f"'{type(model).__name__}'). Train it with optimizer='dense'"
        )
    return [table for module in modules for table in module.tables.values()]


def _with_weights(data: HeteroData) -> HeteroData:
    edge_types = [key for key in (INTERACTS, REV_INTERACTS) if key in data.edge_types]
    if len(edge_types) == 2 and not any('edge_weight' in data[k] for k in edge_types):
        return AddBipartiteNorm()(data)  # Works on a shallow copy.
    return data


def _takes_neighborhoods(model: torch.nn.Module) -> bool:
    try:
        _check_forward(model)
    except ValueError:
        return False
    return True


def _check_forward(model: torch.nn.Module) -> None:
    try:
        inspect.signature(model.forward).bind({}, {}, {})
    except TypeError as error:
        raise ValueError(
            f"'model' must have a forward of (edge_index_dict, edge_weight_dict, "
            f"n_id_dict) with 'num_neighbors' (got '{type(model).__name__}': {error}). "
            f'Train it on the whole graph, without num_neighbors'
        ) from error


def _check_hops(model: torch.nn.Module, num_hops: int) -> None:
    required = getattr(model, 'num_hops', 0)
    if num_hops < required:
        raise ValueError(
            f"'num_neighbors' must have at least {required} hops, as many as "
            f"'{type(model).__name__}' has (got {num_hops})"
        )
