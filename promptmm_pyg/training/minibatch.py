"""Stage one on neighborhoods, for graphs that one step cannot hold."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import check_choice, check_positive
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import TripletNeighborLoader, Triplets, triplets_of
from promptmm_pyg.loader.neighbors import NumNeighbors
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.nn.embeddings import sparse_gradients
from promptmm_pyg.nn.layerwise import BLOCK
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training.history import History
from promptmm_pyg.training.inputs import check_monitor, cutoff
from promptmm_pyg.training.loop import Schedule, Terms, fit
from promptmm_pyg.training.optimizer import OptimizerKind, make_optimizer
from promptmm_pyg.training.teacher import TEACHER_WEIGHTS, promptmm_terms
from promptmm_pyg.transforms import AddBipartiteNorm


def train_minibatch(
    model: torch.nn.Module,
    train: HeteroData,
    val: HeteroData,
    *,
    num_neighbors: NumNeighbors = (10, 10),
    drop_targets: bool = False,
    rescale: bool = True,
    terms: Callable[[Any, Triplets], Terms] = promptmm_terms,
    weights: Mapping[str, float] = TEACHER_WEIGHTS,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: OptimizerKind = 'dense',
    batch_size: int = 2048,
    negative_items: Tensor | None = None,
    seed: int = 0,
    block_size: int = BLOCK,
    schedule: Schedule | None = None,
) -> History:
    """Trains a teacher or an embedding model on the neighborhoods of its batches, and
    leaves it in the state that was best on validation.

    A step costs what a batch's neighborhood holds, whatever the size of the graph:
    with ``optimizer='lazy'`` not even a gradient is as large as a table. With all
    neighbors (``-1``) and ``model.num_hops`` hops, the steps are those of
    :func:`~promptmm_pyg.training.train_teacher`. Terms see the rows of the batch's
    users and items alone, so a mean over all nodes (``modality_l2``) is a mean over
    these.

    The tables, the edges and, in a teacher, the features have to fit into memory. The
    graph may stay on the CPU while the model is elsewhere. For validation the whole
    graph is gone through by ``model.inference``, layer by layer and in blocks, where
    the model has it, and by its forward where it has not.

    Args:
        model: Called as ``model(edge_index_dict, edge_weight_dict, n_id_dict)``, such
            as :class:`~promptmm_pyg.models.LightGCN` (with ``terms=bpr_terms`` and weights
            of these) or :class:`~promptmm_pyg.models.PromptMM`.
        train: Graph whose message edges are the training interactions; without
            ``edge_weight`` they get symmetric normalization.
        val: Graph with validation positives as ``edge_label_index``.
        num_neighbors: Edges per node in each hop, ``-1`` for all; one list, or one per
            edge type; at least as many hops as the model has. (default: ``(10, 10)``)
        drop_targets: Whether no message passes between the user and the positive item
            of a triplet of the batch. (default: ``False``)
        rescale: Whether weights make up for the edges left out
            (:class:`~promptmm_pyg.loader.HeteroNeighborSampler`). (default: ``True``)
        terms: Named losses of an output on a batch.
            (default: :func:`~promptmm_pyg.training.promptmm_terms`)
        weights: One weight per term. (default: ``TEACHER_WEIGHTS``)
        learning_rate: Of Adam. (default: ``1e-3``)
        weight_decay: Decoupled (AdamW). (default: ``0.0``)
        optimizer: ``'dense'``, or ``'lazy'`` to update only the rows of a batch's
            neighborhood (:class:`~promptmm_pyg.training.LazyAdamW`).
            (default: ``'dense'``)
        batch_size: Interactions per step. (default: ``2048``)
        negative_items: Ids of the items that negatives are drawn among, ``[N]``.
            (default: every item)
        seed: Seed of batches, negatives, neighbors and dropout. (default: ``0``)
        block_size: Rows at a time in validation. (default: ``65536``)
        schedule: Epochs, patience, monitor, run directory, resume.

    Raises:
        ValueError: If the model cannot run on a part of a graph, hops, weights or
            options do not fit it, the monitor is unknown or the graph lacks a direction
            of its messages.
        FloatingPointError: If the loss becomes infinite or NaN.
    """
    schedule = schedule or Schedule()
    check_monitor(schedule.monitor, val)
    check_positive('block_size', block_size)
    check_choice('optimizer', optimizer, ('dense', 'lazy'))
    _check_forward(model)
    torch.manual_seed(seed)
    train = _with_weights(train)
    loader = TripletNeighborLoader(
        train,
        num_neighbors,
        batch_size=batch_size,
        drop_targets=drop_targets,
        rescale=rescale,
        negative_items=negative_items,
        seed=seed,
    )
    _check_hops(model, loader.neighbors.num_hops)
    device = next(model.parameters()).device

    def batch_terms(triplets: Triplets) -> Terms:
        batch = loader.around(triplets).to(device)
        output = model(
            batch.edge_index_dict, batch.collect('edge_weight'), batch.collect('n_id')
        )
        return terms(_of_seeds(output, batch), triplets_of(batch))

    operators = normalized_adj_dict(train)

    def validate() -> dict[str, float]:
        inference: Any = getattr(model, 'inference', None)
        if inference is not None:
            x_dict = inference(operators, block_size=block_size)
        else:
            here = {key: adj.to(device) for key, adj in operators.items()}
            x_dict = get_embeddings(model, (here,))
        return evaluate(x_dict, val, ks=(cutoff(schedule.monitor),)).metrics

    with sparse_gradients(model) if optimizer == 'lazy' else nullcontext():
        return fit(
            model,
            make_optimizer(model.parameters(), learning_rate, weight_decay, optimizer),
            loader.triplets,
            terms=batch_terms,
            weights=weights,
            validate=validate,
            schedule=schedule,
            stateful={'neighbors': loader.neighbors},
            name=type(model).__name__,
        )


def _with_weights(data: HeteroData) -> HeteroData:
    edge_types = [key for key in (INTERACTS, REV_INTERACTS) if key in data.edge_types]
    if len(edge_types) == 2 and not any('edge_weight' in data[k] for k in edge_types):
        return AddBipartiteNorm()(data)  # Works on a shallow copy.
    return data


def _check_forward(model: torch.nn.Module) -> None:
    try:
        inspect.signature(model.forward).bind({}, {}, {})
    except TypeError as error:
        raise ValueError(
            f"'model' requires a forward of (edge_index_dict, edge_weight_dict, "
            f"n_id_dict) (got '{type(model).__name__}': {error}). Train it on the "
            f"whole graph with 'train_teacher'"
        ) from error


def _check_hops(model: torch.nn.Module, num_hops: int) -> None:
    needed = getattr(model, 'num_hops', 0)
    if num_hops < needed:
        raise ValueError(
            f"'num_neighbors' requires at least {needed} hops, as many as "
            f"'{type(model).__name__}' has (got {num_hops})"
        )


def _of_seeds(output: Any, batch: HeteroData) -> Any:
    """The rows of the triplets' own nodes; those of others lack messages."""

    def cut(x_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: x[: batch[key].num_sampled_nodes[0]] for key, x in x_dict.items()}

    if not isinstance(output, TeacherOutput):
        return cut(output)
    views = {name: cut(x_dict) for name, x_dict in output.modality_x_dict.items()}
    return TeacherOutput(cut(output.x_dict), views, cut(output.prompt_dict))
