"""The trained models of a search, and which of them is trained next."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptmm_pyg.models import MODELS
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.tuning import split_params

WIDTH = 64  # Of trained models.
MIN_SECONDS = 1.0  # Of a training.
ETA = 3
"""One of so many trials is continued, for as many times the seconds."""
REFERENCES = ('LightGCN', 'EASE')
"""What every result is compared with: tuned by as many trials as any other model."""


@dataclass
class Trial:
    """One model with one setting of its hyper-parameters."""

    name: str
    """Its folder, such as ``'LightGCN-2'``."""
    model: str
    params: dict[str, Any] = field(default_factory=dict)
    status: str = 'new'
    """``'new'``, ``'running'``, ``'paused'`` (it can be continued), ``'done'`` or
    ``'failed'`` or, at the end, ``'removed'``."""
    rung: int = -1
    """The number of times it was continued; -1 before its first training."""
    value: float = -math.inf
    """The best validation metric so far."""
    weight: float | None = None
    """Its weight in the ensemble of all trials so far; ``None`` if it is not known."""
    seed: int | None = None
    """Of its training; that of the search, if there is none."""
    epochs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tried: int = 1
    """Settings of a closed form, of which this is the best."""
    error: str = ''

    @property
    def epoch_seconds(self) -> float:
        """The seconds of an epoch so far."""
        return self.seconds / self.epochs if self.epochs else 0.0

    @property
    def is_usable(self) -> bool:
        """Whether its trained parameters are there."""
        return self.value > -math.inf and self.status != 'removed'


def best_trials(trials: Sequence[Trial]) -> dict[str, Trial]:
    """The best trial of every model, the best model first."""
    usable = [trial for trial in trials if trial.is_usable]
    ranked = sorted(usable, key=lambda trial: -trial.value)
    best: dict[str, Trial] = {}
    for trial in ranked:
        best.setdefault(trial.model, trial)
    return best


def next_trial(trials: Sequence[Trial], *, explore: bool) -> Trial | None:
    """The trial to train next, by asynchronous successive halving (`"A System for
    Massively Parallel Hyperparameter Tuning" <https://arxiv.org/abs/1810.05934>`_).

    Of the trials that were trained for a rung, the best third on validation is
    continued to the next one, the highest rung first; and so are the third with most
    weight in the ensemble, which profits from models that differ, and the best of the
    references. Without such a trial, the first new one begins.

    Args:
        trials: All trials, in the order in which new ones begin.
        explore: Whether new trials may begin. Else the most promising paused trial is
            continued, of whatever rung, if it is in the best third.

    Returns:
        The trial; ``None`` if there is nothing to train.
    """
    trials = [trial for trial in trials if not is_closed_form(trial.model)]
    paused = [trial for trial in trials if trial.status == 'paused']
    best = best_trials(trials)
    if not explore:
        peers = [x for x in trials if x.is_usable]
        promise = {x.name: _promise(x, peers, best) for x in paused}
        first = min(paused, key=lambda x: promise[x.name], default=None)
        allowed = max(1, len(peers) // ETA)
        return first if first and promise[first.name][0] < allowed else None
    for rung in sorted({trial.rung for trial in paused}, reverse=True):
        peers = [x for x in trials if x.rung >= rung and x.is_usable]
        allowed = len(peers) // ETA
        continued = sum(x.rung > rung for x in peers)
        waiting = [trial for trial in paused if trial.rung == rung]
        waiting.sort(key=lambda trial: -trial.value)
        for trial in waiting:
            rank = min(_ranks(trial, peers))
            is_reference = best.get(trial.model) is trial and trial.model in REFERENCES
            if rank < allowed or (is_reference and continued):
                return trial
    return next((trial for trial in trials if trial.status == 'new'), None)


def _ranks(trial: Trial, peers: Sequence[Trial]) -> tuple[int, int]:
    """How many peers are better, by value and by weight; all, without a weight."""
    weight = trial.weight or 0.0
    by_weight = sum((peer.weight or 0.0) > weight for peer in peers)
    return (
        sum(peer.value > trial.value for peer in peers),
        by_weight if weight > 0 else len(peers),
    )


def _promise(
    trial: Trial, trials: Sequence[Trial], best: Mapping[str, Trial]
) -> tuple[int, int]:
    """Its better rank; the best trial of a reference is among the first."""
    rank = min(_ranks(trial, trials))
    if best.get(trial.model) is trial and trial.model in REFERENCES:
        rank = min(rank, 1)
    return rank, trial.rung


def draw_trial(trials: Sequence[Trial], seed: int, num_best: int = 6) -> Trial | None:
    """A further trial of one of the models, which are tried in proportion to their
    share (D'Hondt's method): half of it their weight in the ensemble, half of it equal
    among the best models. A model of four times the seconds has half the share. A
    reference is tried as often as any other model.

    The second setting of a model has a strong penalty. Then its best setting so far,
    trained with another seed, and random points of its ``search_space`` take turns: the
    sum of several trainings ranks better than one.

    Args:
        trials: All trials.
        seed: Of the random points.
        num_best: The number of best models. (default: ``6``)

    Returns:
        The trial; ``None`` if no model has hyper-parameters that are tuned.
    """
    best = best_trials(trials)
    models = [m for m in best if not is_closed_form(m) and MODELS[m].search_space.space]
    if not models:
        return None
    weights = [sum(x.weight or 0.0 for x in trials if x.model == m) for m in models]
    total = sum(weights) or 1.0
    shares = {
        m: weight / total + (n < num_best) / min(num_best, len(models))
        for n, (m, weight) in enumerate(zip(models, weights, strict=True))
    }
    counts = {m: sum(trial.model == m for trial in trials) for m in models}
    for m in models:
        spent = sum(x.seconds for x in trials if x.model == m)
        shares[m] /= math.sqrt(max(spent, MIN_SECONDS) / counts[m])
    most = max((counts[m] for m in models if m not in REFERENCES), default=0)
    few = [m for m in REFERENCES if counts.get(m, math.inf) <= most]
    model = max(few or models, key=lambda m: shares[m] / (counts[m] + 1))
    count, again = counts[model], best[model]
    name = f'{model}-{count + 1}'
    if count >= 2 and count % 2 == 0:
        return Trial(name, model, dict(again.params), seed=seed + count)
    return Trial(name, model, setting(model, count, seed))


def setting(model: str, number: int, seed: int) -> dict[str, Any]:
    """The hyper-parameters of a model's trial; of the first ones, those that differ
    from its defaults: the learning rate is then that of the data.
    """
    space = MODELS[model].search_space
    first, defaults = space.first_trials(), space.defaults
    if number < len(first):
        return {k: v for k, v in first[number].items() if v != defaults[k]}
    generator = random.Random(f'{seed} {model} {number}')
    drawn: Any = _Draw(generator)
    return {name: part.suggest(name, drawn) for name, part in space.space.items()}


class _Draw:
    """A random point of a search space, with the methods of an Optuna trial."""

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator

    def suggest_float(self, _: str, low: float, high: float, *, log: bool) -> float:
        """A number, log-uniform: the only kind of the search spaces."""
        assert log
        exponent = self.generator.uniform(math.log(low), math.log(high))
        return float(f'{math.exp(exponent):.3g}')

    def suggest_categorical(self, _: str, values: Sequence[Any]) -> Any:
        """One of several values."""
        return self.generator.choice(values)


def is_closed_form(model: str) -> bool:
    """Whether a model is fitted, not trained in steps."""
    return issubclass(MODELS[model], ClosedForm)


def models_for(names: Sequence[str] | None, *, has_features: bool) -> list[str]:
    """The models that data allow, those named or all.

    Raises:
        ValueError: If none is left.
    """
    allowed = [
        m
        for m in MODELS
        if has_features or is_closed_form(m) or not MODELS[m].reads_features
    ]
    chosen = [m for m in allowed if names is None or m in names]
    if not chosen:
        raise ValueError(
            f"'models' (--models) must name a model that reads no item features, since "
            f'the data have none (got {sorted(names or ())}). Pass some of {allowed}, '
            f'or --features'
        )
    return chosen


def as_config(trial: Trial, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial's run."""
    arguments, loss_weights, training = split_params(trial.model, trial.params)
    config = {**settings, 'model': trial.model, 'teacher': arguments}
    config['train'] = {**settings['train'], **training}
    if trial.seed is not None:
        config['train']['seed'] = trial.seed
    if not is_closed_form(trial.model):
        config['teacher'] = {'embedding_dim': WIDTH, **arguments}
    return {**config, 'loss_weights': loss_weights}
