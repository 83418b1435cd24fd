"""The loop behind ``train`` and ``distill``: epochs, validation, best state, resume."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from promptmm_pyg._distributed import (
    all_reduce_sum,
    assert_equal_across_ranks,
    rank_and_size,
    run_on_rank0,
    shard_rows,
)
from promptmm_pyg._files import locked
from promptmm_pyg._progress import Progress
from promptmm_pyg.loader import CandidateLists, TripletLoader, Triplets
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.nn.sharded_embeddings import sharded_parameters
from promptmm_pyg.training.checkpoint import (
    load_sharded_state,
    load_state,
    save_sharded_state,
    save_state,
)
from promptmm_pyg.training.config import TrainingConfig
from promptmm_pyg.training.distributed import (
    average_sparse_gradients,
    broadcast_module,
    data_parallel,
)
from promptmm_pyg.training.history import (
    EarlyStopping,
    History,
    LastEpochWarning,
    append_jsonl,
    write_jsonl,
)
from promptmm_pyg.training.optim import make_optimizer

Losses = dict[str, Tensor]
CHECKPOINT = 'checkpoint.safetensors'
LOG = 'log.jsonl'


class Stateful(Protocol):
    """An object whose state, tensors and JSON values, belongs to a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StepOutput(NamedTuple):
    """The losses of one batch on this process."""

    backward: Tensor
    """The scalar whose gradient is that of the loss."""
    loss: Tensor
    """The weighted sum of the losses, without gradient."""
    losses: Losses
    """Each loss by name, without gradient."""


Step = Callable[[Triplets, CandidateLists | None], StepOutput]


def step_output(losses: Losses, weights: Mapping[str, float] | None) -> StepOutput:
    """The weighted sum of named losses; all weights are one if ``None``."""
    weights = dict.fromkeys(losses, 1.0) if weights is None else weights
    loss = weighted_sum(losses, weights)
    values = {name: value.detach() for name, value in losses.items()}
    return StepOutput(loss, loss.detach(), values)


def amortized(
    forward: Callable[[], Any],
    losses: Callable[[Any, Triplets], Losses],
    weights: Mapping[str, float] | None,
    parameters: Iterable[Tensor],
    batch_size: int,
) -> Step:
    r"""A step of a large batch whose losses are computed piece by piece on one output
    of the model, with one backward through the model.

    The output :math:`\mathbf{H}` is cut off at its tensors. Each piece :math:`k` with
    :math:`B_k` of :math:`B` examples leaves its gradient there, and their sum goes
    through the model once:

    .. math::
        \nabla \ell = \Big( \sum_k \frac{B_k}{B} \frac{\partial \ell^{(k)}}{\partial
        \mathbf{H}} \Big) \frac{\partial \mathbf{H}}{\partial \theta}.

    Equal to the batch at once, up to rounding, for losses that are means over the
    examples. Losses between the examples of a batch see those of their piece.

    Args:
        forward: Returns the model's output: tensors in mappings, tuples or lists.
        losses: The named losses of an output on a batch.
        weights: The weight of each. (``None``: one)
        parameters: Those that ``losses`` may use directly.
        batch_size: The size of a piece.
    """
    trained = [p for p in parameters if p.requires_grad]

    def step(batch: Triplets, _: CandidateLists | None) -> StepOutput:
        cuts: dict[int, tuple[Tensor, Tensor]] = {}
        output = _cut(forward(), cuts)
        sources = [source for source, _ in cuts.values()] + trained
        leaves = [leaf for _, leaf in cuts.values()] + trained
        grads: list[Tensor | None] = [None] * len(leaves)
        parts: list[tuple[float, StepOutput]] = []
        for piece in zip(*(x.split(batch_size) for x in batch), strict=True):
            fraction = piece[0].numel() / batch.user.numel()
            part = step_output(losses(output, Triplets(*piece)), weights)
            _add_gradients(fraction * part.backward, leaves, grads)
            parts.append((fraction, part))
        # Its gradient in every source is the sum of the pieces' gradients there.
        backward = sum(
            (x * grad).sum()
            for x, grad in zip(sources, grads, strict=True)
            if grad is not None
        )
        total = {
            name: sum(fraction * part.losses[name] for fraction, part in parts)
            for name in parts[0][1].losses
        }
        loss = step_output(total, weights).loss  # type: ignore[arg-type]
        return StepOutput(backward, loss, total)  # type: ignore[arg-type]

    return step


def _cut(output: Any, cuts: dict[int, tuple[Tensor, Tensor]]) -> Any:
    """``output`` with a leaf in place of every tensor; the pairs are in ``cuts``."""
    if isinstance(output, Tensor):
        if not output.requires_grad:
            return output
        if id(output) not in cuts:
            leaf = output.detach().requires_grad_()
            leaf.sparse_grad = leaf.dim() == 2  # type: ignore[attr-defined]
            cuts[id(output)] = output, leaf
        return cuts[id(output)][1]
    if isinstance(output, Mapping):
        return {key: _cut(value, cuts) for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, '_fields'):
        return type(output)(*(_cut(value, cuts) for value in output))
    if isinstance(output, tuple | list):
        return type(output)(_cut(value, cuts) for value in output)
    return output


def _add_gradients(
    loss: Tensor, leaves: list[Tensor], sums: list[Tensor | None]
) -> None:
    """Adds the gradient of ``loss`` to ``sums``, in place where possible."""
    if not loss.requires_grad:
        return
    # Losses may use tensors that the model kept from its forward: its graph is needed.
    grads: Iterable[Tensor | None] = torch.autograd.grad(
        loss, leaves, allow_unused=True, retain_graph=True
    )
    for i, grad in enumerate(grads):
        if grad is not None:
            current = sums[i]
            if current is not None:
                current.add_(grad)
            else:  # A gradient may share memory with another one.
                sums[i] = grad.to_dense() if grad.is_sparse else grad.clone()


def train_step(
    optimizer: torch.optim.Optimizer,
    step: Callable[..., StepOutput],
    batch: Triplets,
    lists: CandidateLists | None = None,
    sparse: Iterable[torch.nn.Parameter] = (),
) -> tuple[Tensor, Losses]:
    """Takes one optimizer step on a batch that all processes hold, each on its shard.

    Args:
        optimizer: Over the trained parameters.
        step: Returns the losses of a shard; gradients are averaged in its backward.
        batch: User, positive and negative items ``[B]``.
        lists: The candidate lists of the batch. (default: none)
        sparse: Parameters whose gradients are averaged after the backward.

    Returns:
        The loss of the global batch, and this process's summands of each loss.

    Raises:
        FloatingPointError: If the loss is not finite; parameters are unchanged.
    """
    batch, lists, fraction = _shard(batch, lists)
    output = step(batch, lists)
    losses = {name: fraction * value for name, value in output.losses.items()}
    total = all_reduce_sum(fraction * output.loss)
    if not bool(total.isfinite()):
        values = {
            name: round(float(all_reduce_sum(value)), 6)
            for name, value in losses.items()
        }
        raise FloatingPointError(
            f"'loss' must be finite (got {float(total)} from {values}). "
            f'Lower the learning rate or the weight of the loss that is not finite'
        )
    optimizer.zero_grad()
    size = rank_and_size()[1]
    # Averaged over processes, this is the sum of gradients times fractions.
    (output.backward if size == 1 else size * fraction * output.backward).backward()
    average_sparse_gradients(sparse)
    optimizer.step()
    return total, losses


def _shard(
    batch: Triplets, lists: CandidateLists | None
) -> tuple[Triplets, CandidateLists | None, float]:
    given = [x for x in lists or () if x is not None]
    rows, fraction = shard_rows(*batch, *given)
    own = None if lists is None else CandidateLists(*rows[3:])
    return Triplets(*rows[:3]), own, fraction


def fit(
    module: torch.nn.Module,
    step: Step,
    loader: TripletLoader,
    *,
    config: TrainingConfig,
    validate: Callable[[], dict[str, float]],
    lists: Callable[[Triplets], CandidateLists] | None = None,
    stateful: Mapping[str, Stateful] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    validate_start: bool = False,
    name: str = 'train',
) -> History:
    """Trains ``module`` and restores its best state on validation; the last one
    without validation.

    With ``config.run_dir`` every epoch ends in a checkpoint, and ``config.resume``
    continues from it to exactly the numbers of an uninterrupted run (same machine,
    same threads). In a ``torch.distributed`` group every process must call this with
    the same arguments; only rank 0 writes files and shows progress.

    Args:
        module: All that is trained; its ``state_dict`` is saved.
        step: The losses of a batch and its lists.
        loader: Batches of (user, positive, negative).
        config: Optimizer, length, monitor and folder.
        validate: Metrics of the current state on validation data.
        lists: Draws the candidate lists of a batch. (default: no lists)
        stateful: Further objects whose state belongs to the checkpoint.
        on_epoch: Called with the epoch's number before it starts.
        validate_start: Whether the state before training is validated, too, and
            restored if no epoch is better. (default: ``False``)
        name: Title of the progress bar.
    """
    _check_processes(loader, config)
    broadcast_module(module)
    optimizer = make_optimizer(module.parameters(), config)
    stopping = EarlyStopping(config.patience)
    run = _Run(module, optimizer, loader, stopping, dict(stateful or {}), config)
    records = run.start()
    parallel, sparse = data_parallel(module, step)
    bar = Progress(
        config.epochs,
        name,
        unit='epoch',
        initial=len(records),
        disable=not config.progress or rank_and_size()[0] > 0,
    )

    def validate_epoch(epoch: int) -> dict[str, float]:
        module.eval()
        metrics = validate()
        stopping.update(metrics[config.monitor], epoch, module.state_dict())
        return metrics

    is_started = validate_start and config.validate_every and not records
    with run, bar:
        start = {'start': validate_epoch(0)} if is_started else {}
        epochs = range(len(records) + 1, config.epochs + 1)
        for epoch in epochs if not stopping.should_stop else ():
            if on_epoch is not None:
                on_epoch(epoch)
            module.train()
            started = time.perf_counter()
            record = {
                'epoch': epoch,
                **start,
                **_train_epoch(optimizer, parallel, loader, lists, sparse),
                'seconds': time.perf_counter() - started,
            }
            start = {}
            if _is_validated(config, epoch):
                record['validation'] = validate_epoch(epoch)
            records.append(record)
            is_last = stopping.should_stop or epoch == config.epochs
            run.save(records, now=is_last)
            _show(bar, record, stopping, config.monitor)
            if _is_ended_by_callback(config, record, name):
                run.save(records, now=True)
                break
            if is_last:
                break
        # Stopped, or continued with fewer epochs, before the first validation.
        if records and config.validate_every and not stopping.best_state:
            records[-1]['validation'] = validate_epoch(len(records))
    module.eval()
    history = History(records, len(records), math.nan, config.monitor)
    if config.validate_every:
        best_epoch, best_value = stopping.best_epoch, stopping.best_value
        history = history._replace(best_epoch=best_epoch, best_value=best_value)
        module.load_state_dict(stopping.best_state)
    return _ended(history, config, name)


def _ended(history: History, config: TrainingConfig, name: str) -> History:
    """Calls what is called at the end of a training."""
    if config.validate_every and history.best_epoch == config.epochs:
        warnings.warn(LastEpochWarning(name, config.epochs), stacklevel=4)

    def call() -> None:
        for callback in config.callbacks:
            callback.on_end(name, history)

    run_on_rank0(call)
    return history


def _train_epoch(
    optimizer: torch.optim.Optimizer,
    step: Callable[..., StepOutput],
    loader: TripletLoader,
    lists: Callable[[Triplets], CandidateLists] | None,
    sparse: list[torch.nn.Parameter],
) -> dict[str, Any]:
    """The mean loss of an epoch, and each loss by name."""
    total = torch.zeros(())
    sums: Losses = {}
    for batch in loader:
        # Lists are drawn for all processes' examples: the same everywhere.
        drawn = None if lists is None else lists(batch)
        loss, losses = train_step(optimizer, step, batch, drawn, sparse)
        total = total + loss
        for key, value in losses.items():
            sums[key] = sums.get(key, torch.zeros(())) + value
    means = {key: float(all_reduce_sum(x)) / len(loader) for key, x in sums.items()}
    return {'loss': float(total) / len(loader), 'losses': means}


def _is_validated(config: TrainingConfig, epoch: int) -> bool:
    every = int(config.validate_every)
    return every > 0 and (epoch % every == 0 or epoch == config.epochs)


def _is_ended_by_callback(
    config: TrainingConfig, record: Mapping[str, Any], name: str
) -> bool:
    """Calls what is called after an epoch."""

    def call() -> bool:
        is_ended = False
        for callback in config.callbacks:
            is_ended |= bool(callback.on_epoch(name, record))
            if 'validation' in record:
                callback.on_validation(name, record)
        return is_ended

    return run_on_rank0(call)


def _check_processes(loader: TripletLoader, config: TrainingConfig) -> None:
    """Raises if processes were called differently: they would wait for each other."""
    draws = loader.state_dict()['generator'].tolist()
    assert_equal_across_ranks('seed', draws)
    assert_equal_across_ranks('batch_size', (loader.batch_size, len(loader)))
    folder = None if config.run_dir is None else 'set'  # A path may differ.
    settings = replace(config, run_dir=folder, progress=False, callbacks=())
    assert_equal_across_ranks('config', settings)


def _show(
    bar: Progress, record: dict[str, Any], stopping: EarlyStopping, monitor: str
) -> None:
    shown = {'loss': f'{record["loss"]:.4f}'}
    if 'validation' in record:
        shown[monitor] = f'{record["validation"][monitor]:.4f}'
        shown['best'] = f'{stopping.best_value:.4f}@{stopping.best_epoch}'
    bar.update(values=shown)


class _Run:
    """The checkpoint and the log of a run."""

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: TripletLoader,
        stopping: EarlyStopping,
        stateful: dict[str, Stateful],
        config: TrainingConfig,
    ) -> None:
        self.module = module
        self.parts: dict[str, Stateful] = {
            'optimizer': optimizer,
            'loader': loader,
            'stopping': stopping,
            **{f'stateful/{key}': part for key, part in stateful.items()},
        }
        self.dir = Path(config.run_dir) if config.run_dir is not None else None
        self.resume = config.resume
        self.seconds = config.checkpoint_seconds
        self.is_sharded = bool(sharded_parameters(module))
        self._saved, self._saved_at = 0, time.monotonic()
        self._lock = ExitStack()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def start(self) -> list[dict[str, Any]]:
        """Restores the checkpoint with ``resume``; returns its records."""
        if self.dir is None:
            return []
        folder = self.dir
        run_on_rank0(lambda: self._exclude_others(folder))
        try:
            return self._restore(folder)
        except BaseException:
            self._lock.close()
            raise

    def _restore(self, folder: Path) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        if self.resume:
            checkpoint = folder / CHECKPOINT
            if self.is_sharded:
                state = load_sharded_state(checkpoint)
            else:
                state = run_on_rank0(lambda: load_state(checkpoint))
            self._check_device(state['loader']['generator'])
            self.module.load_state_dict(state['module'])
            for key, part in self.parts.items():
                part.load_state_dict(state[key])
            torch.set_rng_state(state['rng'])
            if 'cuda_rng' in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state['cuda_rng'])
            records = state['records']
            self._saved = len(records)
        # An interrupted run may have logged an epoch that no checkpoint holds.
        log = folder / LOG
        run_on_rank0(lambda: write_jsonl(log, records))
        return records

    def _exclude_others(self, folder: Path) -> None:
        """Holds the lock of the folder until the training ends."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._lock.enter_context(locked(folder, timeout=0)) is False:
            raise ValueError(
                f"'run_dir' must not be in use (got '{folder}', in which another "
                f'process trains). Wait until it ends, or choose another folder'
            )

    def _check_device(self, generator: Tensor) -> None:
        # Generators of CPU and GPU have states of different sizes.
        current = self.parts['loader'].state_dict()['generator']
        if generator.numel() != current.numel():
            raise ValueError(
                f"'resume' requires the graph on the kind of device, CPU or GPU, that "
                f"the run in '{self.dir}' was started on (got the other). Move it "
                f'there, or start again without resume'
            )

    def save(self, records: list[dict[str, Any]], *, now: bool) -> None:
        """Writes log and checkpoint, if ``now`` or if it is time."""
        if self.dir is None:
            return
        folder = self.dir

        def begin() -> bool:
            is_time = now or time.monotonic() - self._saved_at >= self.seconds
            if not is_time or len(records) <= self._saved:
                return False
            for record in records[self._saved :]:
                append_jsonl(folder / LOG, record)
            self._saved, self._saved_at = len(records), time.monotonic()
            return True

        if not run_on_rank0(begin):
            return
        if self.is_sharded:
            save_sharded_state(folder / CHECKPOINT, self._state(records), len(records))
        else:
            run_on_rank0(lambda: save_state(folder / CHECKPOINT, self._state(records)))

    def _state(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        on_gpu = torch.cuda.is_initialized()
        return {
            'module': dict(self.module.state_dict()),
            **{key: part.state_dict() for key, part in self.parts.items()},
            'rng': torch.get_rng_state(),
            **({'cuda_rng': torch.cuda.get_rng_state()} if on_gpu else {}),
            'records': records,
        }
