"""How long the benchmarks train; part of every result file and cache key."""

from pathlib import Path
from typing import Any, NamedTuple

from promptmm_pyg.training import TrainingConfig


class Schedule(NamedTuple):
    """The length of a training run."""

    epochs: int = 200
    patience: int = 20
    monitor: str = 'Recall@20'
    validate_every: int = 1
    run_dir: str | Path | None = None
    resume: bool = False
    progress: bool = True

    def config(self, **options: Any) -> TrainingConfig:
        """With further options of a :class:`~promptmm_pyg.training.TrainingConfig`."""
        return TrainingConfig(**self._asdict(), **options)
