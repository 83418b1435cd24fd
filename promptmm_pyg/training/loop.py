"""The part both training loops share: epochs, validation, best state, resume."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from promptmm_pyg._distributed import Share, assert_equal_across_ranks, run_on_rank0
from promptmm_pyg._utils import check_positive
from promptmm_pyg.loader import TripletLoader, Triplets
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.training.checkpoint import load_state, save_state
from promptmm_pyg.training.distributed import (
    all_reduce_sum,
    broadcast_module,
    sum_gradients,
)
from promptmm_pyg.training.early_stopping import EarlyStopping
from promptmm_pyg.training.history import History, append_jsonl, write_jsonl
from promptmm_pyg.training.summands import summands

Terms = dict[str, Tensor]
CHECKPOINT = 'checkpoint.safetensors'
LOG = 'log.jsonl'


class Stateful(Protocol):
    """Something whose state must survive an interruption."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken."""


class Schedule(NamedTuple):
    """How long to train, how to choose, and where to keep it."""

    epochs: int = 200
    patience: int = 20  # Validations without improvement.
    monitor: str = 'Recall@20'
    validate_every: int = 1
    run_dir: str | Path | None = None  # None: nothing is written.
    resume: bool = False
    progress: bool = True


def train_step(
    optimizer: torch.optim.Optimizer, terms: Terms, weights: Mapping[str, float]
) -> Tensor:
    """Takes one step down the weighted sum of ``terms`` and returns that sum; of
    several processes, each has its summand of every term.

    Raises:
        FloatingPointError: If the sum is not finite; parameters are untouched.
    """
    loss = weighted_sum(terms, weights)
    total = all_reduce_sum(loss)
    if not bool(total.isfinite()):
        values = {
            name: round(float(all_reduce_sum(term)), 6) for name, term in terms.items()
        }
        raise FloatingPointError(
            f"'loss' must be finite (got {float(total)} from {values}). "
            f'Lower the learning rate or the weight of the term that is not finite'
        )
    optimizer.zero_grad()
    loss.backward()
    sum_gradients(p for group in optimizer.param_groups for p in group['params'])
    optimizer.step()
    return total


def fit(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: TripletLoader,
    *,
    terms: Callable[[Triplets], Terms],
    weights: Mapping[str, float],
    validate: Callable[[], dict[str, float]],
    schedule: Schedule,
    stateful: Mapping[str, Stateful] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    divided: bool = False,
    name: str = 'train',
) -> History:
    """Trains ``module`` and leaves it in its best state on validation.

    With ``schedule.run_dir`` every epoch ends in a checkpoint, so a crash or an
    interruption costs one epoch at most, and ``schedule.resume`` goes on from it to
    the very numbers an uninterrupted run gives (same machine, same threads).

    Where ``torch.distributed`` is initialized, every process of the group has to call
    this alike: each goes through the same batches, gradients are summed, and rank 0
    alone writes and shows anything.

    Args:
        module: Everything that is trained; its ``state_dict`` is what is kept.
        optimizer: Over parameters of ``module``.
        loader: Batches of (user, positive, negative).
        terms: The named losses of one batch.
        weights: The weight of each of them.
        validate: Metrics of the present state on validation data.
        schedule: Length, patience, monitor and place.
        stateful: What else ``terms`` depends on and changes from epoch to epoch.
        on_epoch: Called with the epoch's number before it starts.
        divided: Whether ``terms`` returns this process's summands of the losses of a
            batch (:mod:`promptmm_pyg.training.summands`), not the losses themselves.
            (default: ``False``)
        name: Title of the progress bar.

    Raises:
        ValueError: If sizes are not positive, or a run on another kind of device is to
            be gone on from.
        FloatingPointError: If the loss becomes infinite or NaN.
        FileNotFoundError: If ``resume`` finds no checkpoint.
    """
    check_positive('epochs', schedule.epochs)
    check_positive('validate_every', schedule.validate_every)
    _check_alike(loader, weights, schedule)
    broadcast_module(module)
    stopping = EarlyStopping(schedule.patience)
    parts = terms if divided else partial(summands, terms, divide=False)
    run = _Run(module, optimizer, loader, stopping, dict(stateful or {}), schedule)
    records = run.start()
    first = len(records) + 1
    bar = tqdm(
        total=schedule.epochs,
        initial=len(records),
        desc=name,
        unit='epoch',
        disable=not schedule.progress or Share.current().rank > 0,
        dynamic_ncols=True,
    )
    with bar:
        for epoch in range(first, schedule.epochs + 1):
            if stopping.should_stop:
                break
            if on_epoch is not None:
                on_epoch(epoch)
            record = _train_epoch(module, optimizer, loader, parts, weights, epoch)
            if epoch % schedule.validate_every == 0 or epoch == schedule.epochs:
                module.eval()
                metrics = validate()
                record['validation'] = metrics
                stopping.update(metrics[schedule.monitor], epoch, module.state_dict())
            records.append(record)
            run.keep(records)
            _show(bar, record, stopping, schedule.monitor)
    module.load_state_dict(stopping.best_state)
    module.eval()
    return History(records, stopping.best_epoch, stopping.best_value, schedule.monitor)


def _train_epoch(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: TripletLoader,
    terms: Callable[[Triplets], Terms],
    weights: Mapping[str, float],
    epoch: int,
) -> dict[str, Any]:
    started = time.perf_counter()
    module.train()
    total = torch.zeros(())
    sums: dict[str, Tensor] = {}
    for batch in loader:
        values = terms(batch)
        total = total + train_step(optimizer, values, weights)
        for key, value in values.items():
            sums[key] = sums.get(key, torch.zeros(())) + value.detach()
    means = {
        key: float(all_reduce_sum(value)) / len(loader) for key, value in sums.items()
    }
    loss = float(total) / len(loader)
    seconds = time.perf_counter() - started
    return {'epoch': epoch, 'loss': loss, 'terms': means, 'seconds': seconds}


def _check_alike(
    loader: TripletLoader, weights: Mapping[str, float], schedule: Schedule
) -> None:
    """Several processes that are called differently would wait for ever."""
    draws = loader.state_dict()['generator'].tolist()
    assert_equal_across_ranks('seed', draws)
    assert_equal_across_ranks('batch_size', (loader.batch_size, len(loader)))
    assert_equal_across_ranks('weights', dict(weights))
    kept = None if schedule.run_dir is None else 'kept'  # A path may differ.
    assert_equal_across_ranks(
        'schedule', schedule._replace(run_dir=kept, progress=False)
    )


def _show(
    bar: 'tqdm[Any]', record: dict[str, Any], stopping: EarlyStopping, monitor: str
) -> None:
    shown = {'loss': f'{record["loss"]:.4f}'}
    if 'validation' in record:
        shown[monitor] = f'{record["validation"][monitor]:.4f}'
        shown['best'] = f'{stopping.best_value:.4f}@{stopping.best_epoch}'
    bar.set_postfix(shown, refresh=False)
    bar.update()


class _Run:
    """The state of a run that must survive an interruption."""

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: TripletLoader,
        stopping: EarlyStopping,
        stateful: dict[str, Stateful],
        schedule: Schedule,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.loader = loader
        self.stopping = stopping
        self.stateful = stateful
        self.dir = Path(schedule.run_dir) if schedule.run_dir is not None else None
        self.resume = schedule.resume

    def start(self) -> list[dict[str, Any]]:
        if self.dir is None:
            if self.resume:
                raise ValueError(
                    "'resume' requires a 'run_dir' to resume from (got None)"
                )
            return []
        records: list[dict[str, Any]] = []
        if self.resume:
            checkpoint = self.dir / CHECKPOINT
            state = run_on_rank0(lambda: load_state(checkpoint))
            self._check_device(state['loader']['generator'])
            self.module.load_state_dict(state['module'])
            self.optimizer.load_state_dict(state['optimizer'])
            self.loader.load_state_dict(state['loader'])
            self.stopping.load_state_dict(state['stopping'])
            for key, part in self.stateful.items():
                part.load_state_dict(state['stateful'][key])
            torch.set_rng_state(state['rng'])
            if 'cuda_rng' in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state['cuda_rng'])
            records = state['records']
        # An interrupted run may have logged an epoch that no checkpoint holds.
        log = self.dir / LOG
        run_on_rank0(lambda: write_jsonl(log, records))
        return records

    def _check_device(self, generator: Tensor) -> None:
        # Generators of CPU and GPU have states of other sizes.
        if generator.numel() != self.loader.state_dict()['generator'].numel():
            raise ValueError(
                f"'resume' requires the graph on the kind of device, CPU or GPU, that the "
                f"run in '{self.dir}' was begun on (got the other). Move it there, or "
                f'begin anew without resume'
            )

    def keep(self, records: list[dict[str, Any]]) -> None:
        if self.dir is not None:
            folder = self.dir
            run_on_rank0(lambda: self._write(folder, records))

    def _write(self, folder: Path, records: list[dict[str, Any]]) -> None:
        on_gpu = torch.cuda.is_initialized()
        append_jsonl(folder / LOG, records[-1])
        save_state(
            folder / CHECKPOINT,
            {
                'module': dict(self.module.state_dict()),
                'optimizer': self.optimizer.state_dict(),
                'loader': self.loader.state_dict(),
                'stopping': self.stopping.state_dict(),
                'stateful': {k: part.state_dict() for k, part in self.stateful.items()},
                'rng': torch.get_rng_state(),
                **({'cuda_rng': torch.cuda.get_rng_state()} if on_gpu else {}),
                'records': records,
            },
        )
