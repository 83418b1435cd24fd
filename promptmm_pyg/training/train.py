"""Training a model on interactions."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._distributed import assert_equal_across_ranks, run_on_rank0
from promptmm_pyg.data.schema import INTERACTS, ITEM, USER
from promptmm_pyg.data.split import Split
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.loader import TripletLoader, Triplets
from promptmm_pyg.models.base import GraphRecommender, bpr_and_l2
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.nn.sharded_embeddings import sharded_parameters
from promptmm_pyg.targets import TeacherOutput
from promptmm_pyg.training.config import TrainingConfig
from promptmm_pyg.training.distributed import (
    assert_same_data_across_ranks,
    assert_same_rows_across_ranks,
)
from promptmm_pyg.training.history import History
from promptmm_pyg.training.loop import (
    Losses,
    Step,
    StepOutput,
    amortized,
    fit,
    step_output,
)
from promptmm_pyg.training.neighborhood import (
    train_on_neighborhoods,
    with_neighbors,
)
from promptmm_pyg.training.sharded import BatchRows, looks_up_rows
from promptmm_pyg.training.validation import (
    check_device,
    check_monitor,
    check_split,
    cutoff,
    sample_users,
    validation,
)

LossFunction = Callable[[Any, Triplets], Losses]
BPR_WEIGHTS = GraphRecommender.loss_weights


def bpr_losses(output: TeacherOutput | Mapping[str, Tensor], batch: Triplets) -> Losses:
    """``bpr`` and ``l2``, half the squared norm of the rows of an example, on the final
    embeddings of any model.

    Args:
        output: Embeddings ``[N_t, D]`` per node type, alone or in a ``TeacherOutput``.
        batch: User, positive and negative items ``[B]``.
    """
    x_dict = output.x_dict if isinstance(output, TeacherOutput) else output
    return bpr_and_l2(x_dict, USER, ITEM, batch)


def resolve_losses(
    model: torch.nn.Module,
    losses: LossFunction | None,
    loss_weights: Mapping[str, float] | None,
) -> tuple[LossFunction, Mapping[str, float] | None]:
    """The losses of a model and their weights: those given, else the model's own, else
    BPR and ``l2``.

    Raises:
        ValueError: If ``loss_weights`` has a name that the model's losses lack.
    """
    if losses is not None:
        return losses, loss_weights
    own: Any = getattr(model, 'losses', None)
    defaults: Any = getattr(model, 'loss_weights', None)
    if not callable(own):
        own, defaults = bpr_losses, BPR_WEIGHTS
    elif defaults is None:
        return own, loss_weights
    unknown = sorted(set(loss_weights or {}) - set(defaults))
    if unknown:
        raise ValueError(
            f"'loss_weights' must name losses of '{type(model).__name__}', "
            f'{sorted(defaults)} (got {unknown})'
        )
    return own, {**defaults, **(loss_weights or {})}


def train(
    model: Any,
    data: Split,
    *,
    config: TrainingConfig | None = None,
    losses: LossFunction | None = None,
    loss_weights: Mapping[str, float] | None = None,
    negative_items: Tensor | None = None,
    inputs: tuple[Any, ...] | None = None,
) -> History:
    """Trains a model on ``data.train`` and restores the state that was best on
    ``data.val``. ``data.test`` is not read.

    ``model`` is any module whose forward returns a
    :class:`~promptmm_pyg.targets.TeacherOutput` or embeddings per node type. A model
    in closed form (:class:`~promptmm_pyg.models.EASE` and others) is fitted.

    With ``config.num_neighbors`` every step runs on the sampled neighborhood of its
    batch: the model is called as ``model(edge_index_dict, edge_weight_dict,
    n_id_dict)`` and may be on another device than the graph. Losses see the rows of the
    batch's users and items only, so a mean over all nodes (``modality_l2``) becomes a
    mean over these. Validation goes through the whole graph by ``model.inference``,
    layer by layer and in blocks, where the model has it. With all neighbors (``-1``)
    and ``model.num_hops`` hops the steps are those of the whole graph.

    In a ``torch.distributed`` group (:func:`~promptmm_pyg.training.process_group`)
    every process trains on its shard of each batch, and gradients are averaged. The
    global random generator is seeded, for dropout.

    Args:
        model: Called as ``model(*inputs)``.
        data: The message edges of ``data.train`` are the training interactions; the
            positives of ``data.val`` are its ``edge_label_index``.
        config: Optimizer, batches, length, monitor, folder. (default:
            ``TrainingConfig()``)
        losses: ``losses(output, batch)`` returns named scalars. (default:
            ``model.losses``; :func:`bpr_losses` for a model without)
        loss_weights: Weights by name. Names that are left out keep the model's
            weight. (default: ``model.loss_weights``; with ``losses``, one for each)
        negative_items: Ids of the items that negatives are drawn from, ``[N]``.
            (default: the items with training interactions; every item if some user
            has interacted with all of these)
        inputs: Arguments of the model. (default: the normalized message edges of
            ``data.train``)

    Raises:
        ValueError: If the weights do not match the losses, options exclude each other,
            the model does not support ``num_neighbors``, or graph and model are on
            different devices.
        FloatingPointError: If the loss becomes infinite or NaN.
    """
    check_split(data)
    config = with_neighbors(model, data.train, config or TrainingConfig())
    config = config.resolve(
        data.train[INTERACTS].edge_index.size(1),
        shared_forward=not looks_up_rows(model),
    )
    check_monitor(config.monitor, data.val)
    assert_same_data_across_ranks(data.train, data.val)
    val = sample_users(data.val, config.validation_users)
    if isinstance(model, ClosedForm):
        return _fit_closed_form(model, data.train, val, config)
    function, weights = resolve_losses(model, losses, loss_weights)
    assert_equal_across_ranks('loss_weights', weights)
    negative_items = negative_pool(negative_items, data.train)
    if config.samples_neighbors:
        return train_on_neighborhoods(
            model, data.train, val, function, weights, config, negative_items
        )
    check_device('data.train', data.train[INTERACTS].edge_index, 'model', model)
    torch.manual_seed(config.seed)
    loader = triplet_loader(
        data.train,
        batch_size=int(config.batch_size) * config.propagate_every,
        seed=config.seed,
        negative_items=negative_items,
    )
    arguments = (normalized_adj_dict(data.train),) if inputs is None else inputs
    step = whole_graph_step(model, arguments, function, weights, config)
    with lazy_tables(model, arguments, config):
        return fit(
            model,
            step,
            loader,
            config=config,
            validate=lambda: validation(model, arguments, val, config.monitor),
            name=type(model).__name__,
            on_epoch=getattr(model, 'start_epoch', None),
        )


def whole_graph_step(
    model: torch.nn.Module,
    inputs: tuple[Any, ...],
    losses: LossFunction,
    weights: Mapping[str, float] | None,
    config: TrainingConfig,
) -> Step:
    """One forward on the whole graph per step; of sharded tables without edges, one
    look-up of the batch's rows.
    """
    if config.propagate_every > 1:
        return amortized(
            lambda: model(*inputs),
            losses,
            weights,
            model.parameters(),
            int(config.batch_size),
        )
    if not looks_up_rows(model):
        return lambda batch, _: step_output(losses(model(*inputs), batch), weights)

    def on_rows(batch: Triplets, _: Any) -> StepOutput:
        n_id_dict, local, _ = BatchRows.of(batch)
        return step_output(losses(model(n_id_dict=n_id_dict), local), weights)

    return on_rows


def _fit_closed_form(
    model: ClosedForm[Any], train: HeteroData, val: HeteroData, config: TrainingConfig
) -> History:
    model.fit(train[INTERACTS].edge_index)
    record: dict[str, Any] = {'epoch': 1}
    value = math.nan
    if config.validate_every:
        k = cutoff(config.monitor)
        record['validation'] = evaluate(model.scores, val, ks=(k,)).metrics
        value = record['validation'][config.monitor]
    history = History([record], 1, value, config.monitor)

    def call() -> None:
        for callback in config.callbacks:
            if config.validate_every:
                callback.on_validation(type(model).__name__, record)
            callback.on_end(type(model).__name__, history)

    run_on_rank0(call)
    return history


def triplet_loader(
    train: HeteroData,
    *,
    batch_size: int,
    seed: int,
    negative_items: Tensor | None = None,
) -> TripletLoader:
    """The training interactions of ``train`` in batches."""
    num_nodes = train.num_nodes_dict
    assert_same_rows_across_ranks('train', train[INTERACTS].edge_index)
    return TripletLoader(
        train[INTERACTS].edge_index,
        num_users=num_nodes[USER],
        num_items=num_nodes[ITEM],
        batch_size=batch_size,
        seed=seed,
        negative_items=negative_items,
    )


def negative_pool(items: Tensor | None, train: HeteroData) -> Tensor | None:
    """The items that negatives are drawn from; ``None`` for every item.

    By default those with training interactions: a new item that nobody could interact
    with yet is no evidence of dislike, and as a negative it would be pushed behind all
    others.
    """
    num_items = int(train[ITEM].num_nodes)
    if items is not None:
        every = torch.arange(num_items, device=items.device)
        return None if torch.equal(items, every) else items
    user, item = train[INTERACTS].edge_index
    warm = torch.bincount(item, minlength=num_items) > 0
    num_warm = int(warm.sum())
    if num_warm == warm.numel() or int(torch.bincount(user).max()) >= num_warm:
        return None
    return warm.nonzero().view(-1)


def lazy_tables(
    model: torch.nn.Module, inputs: tuple[Any, ...], config: TrainingConfig
) -> Any:
    """A context in which the tables that ``model`` returns unchanged have sparse
    gradients, with ``config.optimizer='lazy'``.

    Raises:
        ValueError: If there is none, as in a model that propagates.
    """
    if config.optimizer == 'dense':
        return nullcontext()
    if looks_up_rows(model):
        return sparse_gradients(sharded_parameters(model).values())
    x_dict = get_embeddings(model, inputs)
    tables = [x for x in x_dict.values() if x.is_leaf and x.requires_grad]
    if not tables:
        raise ValueError(
            f"'optimizer' must be 'dense' for '{type(model).__name__}' (got 'lazy'): "
            f'it returns no parameter unchanged, and computed embeddings have a '
            f"gradient for every row. Use 'lazy' with num_neighbors or another model"
        )
    return sparse_gradients(tables)
