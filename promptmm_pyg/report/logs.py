"""Learning curves from what training left in ``log.jsonl``."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptmm_pyg.report.content import Curve, Training

Log = list[dict[str, Any]]


def read_log(path: Path) -> Log:
    """The records of a log, without a last line that an interruption cut off; none
    if there is no log.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get('epoch'), int):
            records.append(record)
    return records


def shared_metric(logs: Mapping[str, Log], preferred: str) -> str:
    """``preferred`` if every model that was validated has it, else the first that
    all have; empty if there is none.
    """
    seen = [
        list(record['validation'])
        for log in logs.values()
        for record in log
        if record.get('validation')
    ]
    if not seen:
        return ''
    common = [key for key in seen[0] if all(key in keys for keys in seen)]
    return preferred if preferred in common else next(iter(common), '')


def validation_curve(log: Log, metric: str, kept: int | None) -> Curve | None:
    """The epochs at which a metric was found, and its values."""
    points = [(r['epoch'], r['validation'].get(metric)) for r in _validated(log)]
    return _curve(points, kept)


def loss_curve(log: Log, kept: int | None) -> Curve | None:
    """The training loss as a multiple of the first epoch's, since the losses of
    different models are sums of different terms.
    """
    first = log[0].get('loss') if log else None
    if not _finite(first) or first <= 0:  # type: ignore[operator]
        return None
    points = [
        (record['epoch'], record['loss'] / first)
        for record in log
        if _finite(record.get('loss'))
    ]
    return _curve(points, kept)


def training(log: Log, kept: int | None) -> Training | None:
    """How many epochs, and how long one took."""
    seconds = [r['seconds'] for r in log if _finite(r.get('seconds'))]
    if not seconds:
        return None
    return Training(len(log), kept, statistics.median(seconds))


def _validated(log: Log) -> Log:
    return [record for record in log if isinstance(record.get('validation'), dict)]


def _curve(points: Sequence[tuple[int, Any]], kept: int | None) -> Curve | None:
    points = [(epoch, value) for epoch, value in points if _finite(value)]
    if not points:
        return None
    epochs, values = zip(*points, strict=True)
    return Curve(epochs, values, kept if kept in epochs else None)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
