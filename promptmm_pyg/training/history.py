"""The record of a run: one entry per epoch, the best state, and early stopping."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from promptmm_pyg._files import replacing
from promptmm_pyg._utils import check_positive


class History(NamedTuple):
    """The record of one training run."""

    records: list[dict[str, Any]]
    """Per epoch: ``epoch``, ``loss``, ``losses`` by name, ``seconds`` and, where it was
    validated, the metrics as ``validation``; those before the first epoch, if any, are
    the ``start`` of the first record."""
    best_epoch: int
    """From 1; 0 if no epoch is better than the start."""
    best_value: float
    monitor: str
    """The validation metric that chose the best epoch."""

    @property
    def num_epochs(self) -> int:
        """The number of epochs trained."""
        return len(self.records)

    @property
    def best_metrics(self) -> dict[str, float]:
        """The validation metrics of the best epoch; empty without validation."""
        record = self.records[max(self.best_epoch, 1) - 1]
        metrics: dict[str, float] = record.get(
            'validation' if self.best_epoch else 'start', {}
        )
        return metrics


class LastEpochWarning(UserWarning):
    """The best epoch is the last one allowed: more epochs may be better."""

    def __str__(self) -> str:
        name, epochs = self.args
        return (
            f"the best epoch of '{name}' is the last ({epochs}): raise 'epochs'; "
            f'continue with resume=True'
        )


def write_jsonl(path: str | Path, records: list[dict[str, Any]]) -> None:
    """Writes one JSON object per line, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(''.join(json.dumps(record) + '\n' for record in records))


def append_jsonl(path: str | Path, record: dict[str, Any]) -> None:
    """Adds one line to a file of JSON lines."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        file.write(json.dumps(record) + '\n')


class EarlyStopping:
    """Keeps the state with the highest validation metric, and stops after ``patience``
    evaluations in a row without improvement.

    Args:
        patience: Evaluations without improvement until :attr:`should_stop`.

    Example:
        >>> import torch
        >>> stopping = EarlyStopping(patience=1)
        >>> stopping.update(0.2, epoch=1, state={'w': torch.zeros(1)})
        True
        >>> stopping.update(0.1, epoch=2, state={'w': torch.ones(1)})
        False
        >>> stopping.should_stop, stopping.best_epoch, stopping.best_state['w']
        (True, 1, tensor([0.]))
    """

    def __init__(self, patience: int) -> None:
        check_positive('patience', patience)
        self.patience = patience
        self.best_value = -float('inf')
        self.best_epoch = 0
        self.best_state: dict[str, Tensor] = {}
        self.num_stale = 0

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.num_stale >= self.patience

    def update(self, value: float, epoch: int, state: dict[str, Tensor]) -> bool:
        """Adds one evaluation; returns whether it is the best so far.

        Raises:
            ValueError: If ``value`` is NaN, which never compares as better.
        """
        if value != value:
            raise ValueError(
                f"'value' must be a number (got NaN at epoch {epoch}). "
                f'Lower the learning rate'
            )
        if value > self.best_value:
            self.best_value, self.best_epoch, self.num_stale = value, epoch, 0
            self.best_state = {key: x.detach().clone() for key, x in state.items()}
            return True
        self.num_stale += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, as tensors and plain numbers."""
        names = ('best_value', 'best_epoch', 'best_state', 'num_stale')
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        for name in self.state_dict():
            setattr(self, name, state[name])
