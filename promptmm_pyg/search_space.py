"""The hyper-parameters of a model that are worth tuning. Imports neither torch nor
Optuna.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import optuna

STRONG_L2 = 0.03  # As models of ids without a graph require.
_LOSS_WEIGHTS = {'projection_l2', 'contrast', 'alignment', 'modality_bpr'}


class Range(NamedTuple):
    """A float in an interval, on a logarithmic scale."""

    default: float
    low: float
    high: float

    def suggest(self, name: str, trial: 'optuna.Trial') -> float:
        """The value of an Optuna trial."""
        return trial.suggest_float(name, self.low, self.high, log=True)


class Choices(NamedTuple):
    """One of a few values."""

    default: float | str
    values: tuple[float, ...] | tuple[str, ...]

    def suggest(self, name: str, trial: 'optuna.Trial') -> Any:
        """The value of an Optuna trial."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class SearchSpace:
    """The tuned hyper-parameters of a model by name: arguments of its constructor,
    weights of its losses, fields of :class:`~promptmm_pyg.training.TrainingConfig`.
    """

    space: Mapping[str, Range | Choices] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """The first trial."""
        return {name: part.default for name, part in self.space.items()}

    def with_learning_rate(self, rate: float) -> 'SearchSpace':
        """The same with another default learning rate, if it is tuned.

        Example:
            >>> trained_space(0.1).with_learning_rate(0.01).defaults
            {'learning_rate': 0.01, 'l2': 0.1}
        """
        old = self.space.get('learning_rate')
        if not isinstance(old, Range):
            return self
        new = Range(rate, min(rate, old.low), max(rate, old.high))
        return SearchSpace({**self.space, 'learning_rate': new})

    def first_trials(self) -> list[dict[str, Any]]:
        """The defaults and, for models trained in steps, these with a strong
        penalty.
        """
        l2 = self.space.get('l2')
        if 'learning_rate' not in self.space or l2 is None:
            return [self.defaults]
        strong: Any
        if isinstance(l2, Range):
            strong = STRONG_L2 if l2.default < STRONG_L2 else l2.high
        else:
            strong = max(l2.values)
        return [self.defaults, {**self.defaults, 'l2': strong}]

    def suggest(self, trial: 'optuna.Trial') -> dict[str, Any]:
        """The parameters of an Optuna trial."""
        return {name: part.suggest(name, trial) for name, part in self.space.items()}


def trained_space(l2: float, **parts: Range | Choices) -> SearchSpace:
    """The space of a model that is trained in steps: learning rate, penalty, and at
    most two or three parameters of its own.

    Args:
        l2: The default weight of the penalty. With 0, as in papers without a penalty,
            none is one of the choices.
        **parts: Arguments of the constructor and further weights of losses.

    Example:
        >>> trained_space(1e-4, num_layers=Choices(3, (2, 3, 4))).defaults
        {'learning_rate': 0.003, 'num_layers': 3, 'l2': 0.0001}
    """
    # Optuna draws the parameters in this order.
    weights = {k: v for k, v in parts.items() if k in _LOSS_WEIGHTS}
    arguments = {k: v for k, v in parts.items() if k not in weights}
    penalty = (
        Range(l2, min(l2, 1e-5), 0.2)
        if l2
        else Choices(0.0, (0.0, 1e-5, 1e-4, 1e-3, 1e-2))
    )
    rate = Range(3e-3, 1e-3, 2e-2)  # The default depends on the data.
    return SearchSpace({'learning_rate': rate, **arguments, 'l2': penalty, **weights})
