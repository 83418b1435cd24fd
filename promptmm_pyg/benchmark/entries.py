"""The rows of a benchmark: what is trained, tuned and compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.benchmark.config import Params
from promptmm_pyg.benchmark.registry import is_trained
from promptmm_pyg.data import Split
from promptmm_pyg.distillation import Adapter, promptmm_losses, truncate_embeddings
from promptmm_pyg.distillation.start import Start
from promptmm_pyg.models._resolve import file_hash, short_name
from promptmm_pyg.search_space import SearchSpace
from promptmm_pyg.targets import SoftTargets

# Starts of `distill`.
RANDOM: Start = 'random'
STARTED: Start = 'truncated'
TRUNCATED = 'truncated teacher'  # A row without training.


class Teacher(NamedTuple):
    """A teacher: its targets per seed, and what they depend on; with ``module``, the
    trained model itself, whose prompt a student can train.
    """

    key: Any
    targets: Callable[[int], SoftTargets]
    module: Callable[[int], torch.nn.Module] | None = None


class Losses(NamedTuple):
    """Losses of distillation, made from the teacher, the width of the student and the
    weight; and their name.
    """

    key: str
    make: Callable[[SoftTargets, int, float], list[Adapter]]


class Variant(NamedTuple):
    """Another training graph than the prepared one, and what it depends on."""

    key: Any
    make: Callable[[Split], HeteroData]


PROMPTMM = Losses(
    'PromptMM',
    lambda _, __, weight: promptmm_losses(
        pairwise_weight=weight,
        listwise_weight=weight,
        embedding_weight=weight,
        list_views='fused',
        embedding_views='fused',
    ),
)


@dataclass(frozen=True)
class Arm:
    """A way to train a model: all but the tuned hyper-parameters and the seed.

    With ``losses`` the model is a student, whose hyper-parameters also contain
    ``weight`` (of the losses), ``score_scale`` (of the teacher) and ``start``, in place
    of that of the arm.
    """

    model: str
    params: Params = field(default_factory=dict)
    training: Params = field(default_factory=dict)
    losses: Losses | None = None
    teacher: Teacher | None = None
    candidates: Params = field(default_factory=dict)
    start: Start = RANDOM
    """Of ``distill``, and of a training without losses of distillation."""
    prompt: str = 'frozen'
    """With ``'joint'`` the student trains the prompt of its teacher, too."""
    variant: Variant | None = None
    embeddings: Teacher | None = None
    """Embeddings that are tested as they are, in place of a training."""

    @property
    def key(self) -> list[Any]:
        """What a training depends on, for the cache."""
        keyed = (self.losses, self.teacher, self.variant, self.embeddings)
        name = ':'.join([short_name(self.model), *file_hash(self.model).values()])
        return [
            name,
            dict(self.params),
            dict(self.training),
            dict(self.candidates),
            self.start,
            self.prompt,
            *(part and part.key for part in keyed),
        ]

    @property
    def seeded(self) -> bool:
        """Whether seeds differ; closed forms have one result."""
        return self.embeddings is not None or is_trained(self.model)


@dataclass(frozen=True)
class Entry:
    """A row of the result: an arm, and the trials among which validation chooses."""

    name: str
    arm: Arm
    trials: tuple[Params, ...] = ({},)
    tuned_as: Arm | None = None
    """The arm whose trials decide, such as one of another width. (default: ``arm``)"""
    search: tuple[SearchSpace, int] | None = None
    """A search space and the number of trials, which come before ``trials``."""
    factors: Params = field(default_factory=dict)
    """Further columns of the row."""
    references: Mapping[str, 'Entry'] = field(default_factory=dict)
    """Entries that the row is compared with, by the key after ``diff_vs_``."""
    retained_of: 'Entry | None' = None
    """The entry that ``retained_ratio`` refers to."""


def truncated(teacher: Teacher, width: int) -> Arm:
    """The SVD-truncated teacher of a width."""

    def targets(seed: int) -> SoftTargets:
        return SoftTargets(truncate_embeddings(teacher.targets(seed).x_dict, width), {})

    key = [TRUNCATED, width, teacher.key]
    return Arm(TRUNCATED, embeddings=Teacher(key, targets))
