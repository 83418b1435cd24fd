"""The settings of a training run."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from promptmm_pyg._utils import check_choice, check_non_negative, check_positive
from promptmm_pyg.loader.neighbors import NumNeighbors
from promptmm_pyg.nn.layerwise import BLOCK
from promptmm_pyg.training.callbacks import Callback
from promptmm_pyg.training.validation import cutoff

OptimizerKind = Literal['dense', 'lazy']
Auto = Literal['auto']
# Steps per epoch, and the smallest and the largest batch that shares its memory.
_STEPS, _SMALLEST, _LARGEST = 8, 1024, 32_768
_NEIGHBORHOOD = 2048  # The largest batch on neighborhoods.
_RATE, _LARGEST_RATE = 3e-3, 1e-2
_STARTED_RATE = 1e-3  # Of a student that starts from a good state.
_VALIDATE_EVERY = 5


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How :func:`~promptmm_pyg.training.train` and
    :func:`~promptmm_pyg.distillation.distill` train.

    Raises:
        ValueError: If a value is out of its range or two options exclude each other.

    Example:
        >>> from dataclasses import replace
        >>> config = TrainingConfig(epochs=50, learning_rate=3e-3)
        >>> replace(config, seed=1).seed
        1
    """

    learning_rate: float | Auto = 'auto'
    """Step size of Adam. ``'auto'``: 0.003 for steps of at most 2,048 interactions,
    and in proportion to larger ones, at most 0.01; 0.001 for a student that does not
    start at random."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    batch_size: int | Auto = 'auto'
    """Interactions per batch, over all processes. ``'auto'``: the power of two next to
    an eighth of the training interactions, at least 1,024 and at most 32,768 (with
    ``num_neighbors`` 2,048). An epoch then has about eight steps, and its cost on the
    whole graph grows linearly with the data; ``train`` raises ``propagate_every``
    beyond."""
    optimizer: OptimizerKind = 'dense'
    """``'lazy'`` updates only the rows of a batch, in tables that the model returns
    unchanged or looks up by id (:class:`~promptmm_pyg.training.LazyAdamW`)."""
    propagate_every: int = 1
    """Batches that share one forward of the model and one optimizer step: the step of
    ``batch_size * propagate_every`` interactions with the memory of ``batch_size``.
    Equal to the large batch for losses that are means over the batch; in-batch losses
    see their ``batch_size`` examples only."""
    epochs: int = 500
    """Passes over the training interactions, at most."""
    patience: int = 10
    """Validations without improvement before training stops."""
    monitor: str = 'Recall@20'
    """Validation metric that chooses the best epoch."""
    validate_every: int | Auto = 'auto'
    """Epochs between two validations. ``'auto'``: 5, and 1 for a student that does not
    start at random, which is best after few epochs. With 0 there is none: all epochs
    are trained and the last is kept, as for a final model on all interactions."""
    validation_users: int = 20_000
    """Users that are validated, at most: of more, a sample by the fixed seed 0, so that
    validation does not grow with the data and two trainings have the same users. The
    metrics of :func:`~promptmm_pyg.evaluation.evaluate` are of all."""
    seed: int = 0
    """Seed of batches, negatives, candidates, neighbors and dropout."""
    run_dir: str | Path | None = None
    """Folder for checkpoint and log. (``None``: nothing is written)"""
    resume: bool = False
    """Whether to continue from the checkpoint in ``run_dir``."""
    progress: bool = True
    """Whether to show a progress bar."""
    num_neighbors: NumNeighbors | Auto | None = 'auto'
    """Edges per node in each hop, ``-1`` for all; one list, or one per edge type. With
    it a step runs on the sampled neighborhood of its batch and its memory does not
    grow with the graph. ``None``: every step runs on the whole graph. ``'auto'``:
    ``train`` does so where that fits into memory, by
    :func:`~promptmm_pyg.training.choose_neighbors`, and ``distill`` always."""
    drop_targets: bool = False
    """With ``num_neighbors``: whether the edges of the batch's own interactions are
    left out of the messages."""
    rescale: bool = True
    """With ``num_neighbors``: whether edge weights are scaled up for the edges that
    were not sampled."""
    block_size: int = BLOCK
    """With ``num_neighbors``: rows per block in validation."""
    checkpoint_seconds: float = 0.0
    """Seconds between two checkpoints in ``run_dir``, if epochs are shorter; the last
    epoch always has one."""

    callbacks: tuple[Callback, ...] = ()
    """Objects that are called during training and may end it
    (:class:`~promptmm_pyg.training.Callback`), such as trackers
    (:class:`~promptmm_pyg.training.TensorBoardTracker`)."""

    def __post_init__(self) -> None:
        self._check_auto()
        for name in (
            'propagate_every',
            'epochs',
            'patience',
            'validation_users',
            'block_size',
        ):
            check_positive(name, getattr(self, name))
        for name in ('weight_decay', 'checkpoint_seconds'):
            check_non_negative(name, getattr(self, name))
        check_choice('optimizer', self.optimizer, ('dense', 'lazy'))
        cutoff(self.monitor)
        if self.resume and self.run_dir is None:
            raise ValueError("'resume' requires a 'run_dir' to resume from (got None)")
        if self.propagate_every == 1:
            return
        if self.optimizer == 'lazy':
            raise ValueError(
                f"'propagate_every' must be 1 with optimizer='lazy' (got "
                f'{self.propagate_every}). Tables that are returned unchanged have no '
                f'forward to share'
            )
        if self.samples_neighbors:
            raise ValueError(
                f"'propagate_every' must be 1 with 'num_neighbors' (got "
                f'{self.propagate_every}). Every batch has its own neighborhood'
            )

    def _check_auto(self) -> None:
        for name in ('learning_rate', 'batch_size', 'validate_every'):
            value = getattr(self, name)
            if isinstance(value, str) and value != 'auto':
                raise ValueError(f"'{name}' must be a number or 'auto' (got {value!r})")
            check = check_non_negative if name == 'validate_every' else check_positive
            if value != 'auto':
                check(name, value)
        value = self.num_neighbors
        if isinstance(value, str) and value != 'auto':
            raise ValueError(
                f"'num_neighbors' must have a number per hop, or be 'auto' or None "
                f'(got {value!r})'
            )

    @property
    def samples_neighbors(self) -> bool:
        """Whether a step runs on a sampled neighborhood."""
        return self.num_neighbors not in (None, 'auto')

    def resolve(
        self,
        num_interactions: int,
        *,
        shared_forward: bool = False,
        is_started: bool = False,
    ) -> 'TrainingConfig':
        """The same with numbers in place of ``'auto'``.

        Args:
            num_interactions: Of the training graph.
            shared_forward: Whether ``propagate_every`` may be raised.
                (default: ``False``)
            is_started: Whether the model does not start at random.
                (default: ``False``)

        Example:
            >>> config = TrainingConfig().resolve(60_000)
            >>> config.batch_size, config.learning_rate
            (8192, 0.01)
        """
        size, every = self.batch_size, self.propagate_every
        if size == 'auto':
            step = 2 ** round(math.log2(max(num_interactions, 1) / _STEPS))
            largest = _NEIGHBORHOOD if self.samples_neighbors else _LARGEST
            step = max(_SMALLEST, step // every)
            size = min(step, largest)
            if shared_forward and not self.samples_neighbors and every == 1:
                every = step // size if self.optimizer == 'dense' else 1
        rate = self.learning_rate
        if rate == 'auto':
            rate = _RATE * int(size) * every / 2048
            rate = _STARTED_RATE if is_started else min(max(_RATE, rate), _LARGEST_RATE)
        validate_every = self.validate_every
        if validate_every == 'auto':
            validate_every = 1 if is_started else _VALIDATE_EVERY
        return replace(
            self,
            batch_size=size,
            propagate_every=every,
            learning_rate=rate,
            validate_every=validate_every,
        )
