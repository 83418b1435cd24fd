"""The content of a report as plain values, without tensors, paths and HTML."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Bar(NamedTuple):
    """A value and, where known, its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Curve(NamedTuple):
    """A value per epoch, and the epoch whose parameters were restored."""

    epochs: tuple[int, ...]
    values: tuple[float, ...]
    best: int | None = None


class Training(NamedTuple):
    """Number of epochs, the best one, and the median seconds per epoch."""

    epochs: int
    best: int | None
    seconds: float


class Difference(NamedTuple):
    """Two models on the same users."""

    pair: str
    metric: str
    bar: Bar

    @property
    def significant(self) -> bool:
        """Whether there is an interval and zero is outside of it."""
        _, low, high = self.bar
        return low is not None and high is not None and not low <= 0 <= high


@dataclass(frozen=True)
class Comparison:
    """A recorded evaluation: metrics by model, and the ``metric`` of the chart."""

    split: str
    num_users: int
    metric: str
    metrics: dict[str, dict[str, float | None]]
    widths: dict[str, int]
    bars: dict[str, Bar]
    differences: list[Difference]
    num_test_reads: int
    last_test_read: str


class Trial(NamedTuple):
    """A setting that was tried for the teacher; ``value`` is ``None`` if it failed."""

    number: int
    params: dict[str, str]
    value: float | None
    state: str
    epochs: int | None
    seconds: float


class SliceRow(NamedTuple):
    """One group of users or items."""

    name: str
    num_users: int
    bars: dict[str, Bar]


class Slice(NamedTuple):
    """An evaluation by groups."""

    title: str
    caption: str
    rows: list[SliceRow]


class Size(NamedTuple):
    """Number of parameters, bytes of the file and of the embeddings in memory;
    ``None`` where unknown.
    """

    parameters: int | None
    stored: int | None
    served: int | None


class Latency(NamedTuple):
    """Milliseconds per call: the median and the quartiles."""

    model: str
    num_users: int
    median: float
    low: float
    high: float
    repeats: int


class Item(NamedTuple):
    """A listed item; ``held_out`` if it is a validation positive."""

    raw_id: str
    title: str | None
    score: float | None = None
    held_out: bool = False


class Example(NamedTuple):
    """The history of one user and the recommendations."""

    user: str
    why: str
    history: list[Item]
    history_length: int
    items: list[Item]


class Missing(NamedTuple):
    """A missing part of the run, and the command that adds it."""

    what: str
    command: str | None


@dataclass(frozen=True)
class Report:
    """Everything on the page; empty parts are left out.

    Args:
        name: Name of the run.
        made: Date of the report.
        missing: Missing parts of the run.
        facts: Sizes of the data set.
        monitor: The metric of ``curves``.
        curves: Validation metric by model.
        losses: Training loss by model, relative to the first epoch.
        trainings: Duration by model.
        trials: Settings that were tried for the teacher.
        trial_curves: The value of each trial and the best so far.
        comparisons: Evaluations on validation and, where it was read, on test.
        slices: The validation metric ``slice_metric`` by groups.
        weights: Fixed weights of the teacher's settings.
        shares: By node type and source; the shares of a node type sum to one.
        sizes: By model.
        recommender_bytes: Size of the saved recommender.
        latencies: Time of top-``latency_k`` lists with ``num_threads`` threads.
        examples: A few users and their lists.
        settings: By name.
        leaderboard: The models of a search: the names of the columns, then one row
            per model.
        ensemble: The ensemble of a search: ``fitted``, ``judged`` and ``single``.
    """

    name: str
    made: str
    missing: list[Missing] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    monitor: str = ''
    curves: dict[str, Curve] = field(default_factory=dict)
    losses: dict[str, Curve] = field(default_factory=dict)
    trainings: dict[str, Training] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    trial_curves: dict[str, Curve] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    slice_metric: str = ''
    weights: dict[str, float] = field(default_factory=dict)
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    recommender_bytes: int | None = None
    latencies: list[Latency] = field(default_factory=list)
    latency_k: int = 10
    num_threads: int = 1
    examples: list[Example] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    leaderboard: list[list[Any]] = field(default_factory=list)
    ensemble: dict[str, Any] = field(default_factory=dict)
