"""What a run leaves behind: one record per epoch, on disk as JSON lines."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from promptmm_pyg._utils import replacing


class History(NamedTuple):
    """The record of one training run."""

    records: list[dict[str, Any]]  # One per epoch: loss, terms, validation, seconds.
    best_epoch: int
    best_value: float
    monitor: str  # The validation metric that chose the best epoch.

    @property
    def num_epochs(self) -> int:
        """How many epochs were trained."""
        return len(self.records)


def write_jsonl(path: str | Path, records: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(''.join(json.dumps(record) + '\n' for record in records))


def append_jsonl(path: str | Path, record: dict[str, Any]) -> None:
    """Adds one line to a file of JSON lines."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        file.write(json.dumps(record) + '\n')
