"""What a report shows, as plain values: no tensor, no path, no HTML."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Bar(NamedTuple):
    """A value and, where it is known, its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Curve(NamedTuple):
    """A value by epoch."""

    epochs: tuple[int, ...]
    values: tuple[float, ...]
    kept: int | None = None
    """The epoch whose parameters were kept."""


class Training(NamedTuple):
    """How long a model was trained."""

    epochs: int
    kept: int | None
    seconds: float
    """The median of an epoch."""


class Difference(NamedTuple):
    """Two models on the same users."""

    pair: str
    metric: str
    bar: Bar


@dataclass(frozen=True)
class Comparison:
    """What an evaluation found, as it was written to the run."""

    part: str
    """``'validation'`` or ``'test'``."""
    num_users: int
    metric: str
    """The one that is drawn."""
    metrics: dict[str, dict[str, float | None]]
    """By model and metric."""
    widths: dict[str, int]
    bars: dict[str, Bar]
    differences: list[Difference]
    num_readings: int
    last_reading: str


class SliceRow(NamedTuple):
    """One part of an evaluation."""

    name: str
    num_users: int
    bars: dict[str, Bar]


class Slice(NamedTuple):
    """An evaluation taken apart in one way."""

    title: str
    caption: str
    rows: list[SliceRow]


class Size(NamedTuple):
    """How large a model is; ``None`` where it could not be found out."""

    parameters: int | None
    stored: int | None
    """Bytes of its file."""
    served: int | None
    """Bytes of its embeddings."""


class Latency(NamedTuple):
    """How long a list takes, in milliseconds."""

    model: str
    num_users: int
    median: float
    low: float
    """A quarter of the repeats are faster."""
    high: float
    """A quarter are slower."""
    repeats: int


class Item(NamedTuple):
    """An item as people see it; ``held_out`` where validation asks for it."""

    raw_id: str
    title: str | None
    score: float | None = None
    held_out: bool = False


class Example(NamedTuple):
    """What one user took and is recommended."""

    user: str
    why: str
    history: list[Item]
    history_length: int
    items: list[Item]


class Missing(NamedTuple):
    """Something that the run does not hold, and how to get it."""

    what: str
    command: str | None


@dataclass(frozen=True)
class Report:
    """Everything on the page; what is empty is left out or said to be missing."""

    name: str
    made: str
    missing: list[Missing] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    monitor: str = ''
    curves: dict[str, Curve] = field(default_factory=dict)
    losses: dict[str, Curve] = field(default_factory=dict)
    """Relative to the first epoch."""
    trainings: dict[str, Training] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    slice_metric: str = ''
    weights: dict[str, float] = field(default_factory=dict)
    """Settings of the teacher, by what they weight."""
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    """By node type and source; each node type's sum to one."""
    sizes: dict[str, Size] = field(default_factory=dict)
    recommender_bytes: int | None = None
    latencies: list[Latency] = field(default_factory=list)
    latency_k: int = 10
    num_threads: int = 1
    examples: list[Example] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
