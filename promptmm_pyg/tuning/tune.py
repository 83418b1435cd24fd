"""Tuning one model: trials under a budget, and the best of them."""

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.data.split import Split
from promptmm_pyg.models import get_model
from promptmm_pyg.models._resolve import constructors
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.search_space import SearchSpace
from promptmm_pyg.training import (
    Callback,
    History,
    LastEpochWarning,
    TrainingConfig,
    load_state,
    save_state,
    train,
)
from promptmm_pyg.tuning.progress import Budget, Log
from promptmm_pyg.tuning.study import Study, Trial

TRAINING = frozenset(f.name for f in fields(TrainingConfig))
BEST = 'best.safetensors'
_REPEATS = 20  # In a row: the space is exhausted.
_FAILURES = 3  # In a row, before the error is raised.
_STEPS = 5  # Measured, before an epoch is known to be too long.


class SplitParams(NamedTuple):
    """Hyper-parameters by their place."""

    arguments: dict[str, Any]
    """Arguments of the constructor."""
    loss_weights: dict[str, float]
    training: dict[str, Any]
    """Fields of ``TrainingConfig``."""


def split_params(model: str | type, params: Mapping[str, Any]) -> SplitParams:
    """Sorts flat hyper-parameters by their names into arguments of the constructor,
    weights of losses and fields of ``TrainingConfig``.

    Args:
        model: A model, or its name (:func:`~promptmm_pyg.models.get_model`).
        params: The hyper-parameters.
    """
    cls: Any = get_model(model) if isinstance(model, str) else model
    own = argument_names(cls)  # Such as LATTICE's 'num_neighbors'.
    out = SplitParams({}, {}, {})
    for name, value in params.items():
        if name in cls.loss_weights:
            out.loss_weights[name] = value
        elif name in TRAINING and name not in own:
            out.training[name] = value
        else:
            out.arguments[name] = value
    return out


def argument_names(cls: type) -> set[str]:
    """The keyword arguments of a model."""
    return {
        name
        for part in constructors(cls)
        for name, parameter in signature(part).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def search_space(model: str | type) -> SearchSpace:
    """What is tuned of a model. One of your own that inherits the space of its base may
    lack some of its hyper-parameters.
    """
    cls: Any = get_model(model) if isinstance(model, str) else model
    known = {*argument_names(cls), *cls.loss_weights, *TRAINING}
    space = cls.search_space.space
    return SearchSpace({name: x for name, x in space.items() if name in known})


class Tuning(NamedTuple):
    """The best trial and all trials."""

    model: Any
    """The model of the best trial, trained."""
    history: History
    """Of the best trial."""
    best_params: dict[str, Any]
    """The tuned hyper-parameters of the best trial."""
    trials: list[Trial]


class _Best(NamedTuple):
    params: dict[str, Any]
    history: History
    state: dict[str, Tensor]


class _NoEpochError(Exception):
    """Ends a trial in its first epoch."""


class BudgetError(ValueError):
    """The time is too short for one epoch; in minutes."""

    def __init__(self, model: str, needed: float, given: float) -> None:
        self.needed, self.given = needed, given
        super().__init__(
            f"'minutes' (--minutes) must be at least {needed:.2g} for one epoch of "
            f'{model} on these data (got {given:.2g}). Give it more time, or tune a '
            f'faster model'
        )


def tune(
    model: str | type,
    data: Split,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    arguments: Mapping[str, Any] | None = None,
    loss_weights: Mapping[str, float] | None = None,
    config: TrainingConfig | None = None,
    inputs: tuple[Any, ...] | None = None,
    space: SearchSpace | None = None,
    prune: bool = True,
    folder: str | Path | None = None,
    progress: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tuning:
    """Searches hyper-parameters on ``data.val`` and returns the best trial as a trained
    model. ``data.test`` is not read.

    Trials are those of Optuna's TPE in the ``search_space`` of the model. One that is
    worse than the median of the complete trials were after as many epochs is ended
    (``prune``), once it has trained for ``config.patience`` validations. A trial that
    fails or diverges is recorded and left out. When the time is over, or at the first
    Ctrl-C, the current trial ends after its epoch, with its best epoch so far; the
    second Ctrl-C ends it at once.

    Args:
        model: A model, or its name (:func:`~promptmm_pyg.models.get_model`).
        data: As in :func:`~promptmm_pyg.training.train`.
        trials: The number of trials, those of ``folder`` and failed ones included.
            (default: ``None``, no limit)
        minutes: The time. (default: ``None``, no limit)
        arguments: Arguments of the constructor. (default: none)
        loss_weights: Weights of losses. (default: those of the model)
        config: The training. (default: ``TrainingConfig()``)
        inputs: Arguments of the model. (default: the normalized message edges of
            ``data.train``)
        space: What is tuned. (default: the ``search_space`` of the model, without
            what ``arguments`` and ``loss_weights`` contain)
        prune: Whether to end bad trials early. (default: ``True``)
        folder: Where trials and the best state are written. The study in it is
            continued, and several processes may share it. (default: ``None``)
        progress: Whether to print a line per trial, and a bar on a terminal.
            (default: ``True``)
        should_stop: Asked after every epoch; a true result ends as Ctrl-C does.
            (default: never)

    Raises:
        ImportError: If Optuna is not installed.
        ValueError: If there is neither ``trials`` nor ``minutes``, or ``minutes`` is
            too short for one epoch.
        Exception: That of the last trial, if the first three or all have failed.

    Example:
        >>> from promptmm_pyg.data import make_synthetic_dataset, split_per_user
        >>> data = split_per_user(make_synthetic_dataset(60, 40, seed=0))
        >>> tuning = tune('EASE', data, trials=3, progress=False)
        >>> [trial.number for trial in tuning.trials]
        [0, 1, 2]
        >>> tuning.history.best_value == max(trial.value for trial in tuning.trials)
        True
    """
    if trials is None and minutes is None:
        raise ValueError("'trials' or 'minutes' must be set (got neither)")
    for name, value in (('trials', trials), ('minutes', minutes)):
        if value is not None:
            check_positive(name, value)
    tuner = _Tuner(
        get_model(model) if isinstance(model, str) else model,
        data,
        dict(arguments or {}),
        dict(loss_weights or {}),
        (config or TrainingConfig()).resolve(
            data.train[INTERACTS].edge_index.size(1), shared_forward=True
        ),
        inputs,
        Budget(trials, minutes),
    )
    every = int(tuner.config.validate_every)
    check_positive('validate_every', every)
    if space is None:
        fixed = {*(arguments or {}), *(loss_weights or {})}
        parts = search_space(tuner.cls).space
        space = SearchSpace({k: v for k, v in parts.items() if k not in fixed})
        space = space.with_learning_rate(float(tuner.config.learning_rate))
    tuner.prune, tuner.should_stop = prune, should_stop
    warmup = tuner.config.patience * every
    study = Study(space, seed=tuner.config.seed, folder=folder, warmup=warmup)
    with study:
        return tuner.run(study, progress)


class _Tuner:
    """Runs the trials of a study."""

    prune: bool
    should_stop: Callable[[], bool]
    study: Study

    def __init__(
        self,
        cls: Any,
        data: Split,
        arguments: dict[str, Any],
        loss_weights: dict[str, float],
        config: TrainingConfig,
        inputs: tuple[Any, ...] | None,
        budget: Budget,
    ) -> None:
        self.cls, self.arguments, self.loss_weights = cls, arguments, loss_weights
        self.data = data._replace(train=cls.prepare_data(data.train))
        self.inputs = inputs or (normalized_adj_dict(data.train),)
        self.config = replace(config, progress=False, run_dir=None, resume=False)
        self.budget = budget
        self.is_ended = False
        self.best: _Best | None = None
        self.epoch_seconds = 0.0  # The shortest epoch so far.
        self.trial_seconds = 0.0  # The longest trial so far; the first one begins.

    def run(self, study: Study, progress: bool) -> Tuning:
        """Runs trials until the budget is used."""
        self.study = study
        name, monitor = self.cls.__name__, self.config.monitor
        self.log = Log(name, study, self.budget, monitor, disable=not progress)
        errors: list[Exception] = []
        with self._interrupts(), self.log:
            while (trial := self._next()) is not None:
                error = self._run_trial(trial)
                errors = [] if error is None else [*errors, error]
                if len(errors) == _FAILURES and study.best is None:
                    break
        if study.best is None:
            if errors:
                raise errors[-1]
            raise KeyboardInterrupt
        return self._result()

    def _next(self) -> Trial | None:
        """The next trial that was not run before and is likely to end in time."""
        if issubclass(self.cls, ClosedForm):
            seconds = 2.2 * self.trial_seconds  # The best one is fitted again.
        else:
            seconds = 3 * self.epoch_seconds
        for _ in range(_REPEATS):
            is_over = self.trial_seconds > 0 and self.budget.is_over(seconds)
            if self._is_stopped() or is_over:
                return None
            trial = self.study.ask(self.budget.trials)
            known = trial and self.study.known(trial.params)
            if trial is None or known is None:
                return trial
            self.study.tell(trial, known.value, 'repeated')
        return None

    def _is_stopped(self) -> bool:
        return self.is_ended or self.should_stop()

    def _run_trial(self, trial: Trial) -> Exception | None:
        """Runs a trial; returns its error."""
        current = _Current(self, trial)
        error: Exception | None = None
        try:
            model, history = self._train(trial, current)
        except BudgetError:
            self.study.forget(trial)
            raise
        except (_NoEpochError, KeyboardInterrupt):
            self.study.forget(trial)
            self.is_ended = True
            return None
        except (ArithmeticError, RuntimeError, ValueError, MemoryError) as raised:
            error, message = raised, f'{type(raised).__name__}: {raised}'
            self.study.tell(
                trial, None, 'failed', seconds=current.seconds, error=message[:300]
            )
        else:
            self._keep(trial, current, model, history)
        self.trial_seconds = max(self.trial_seconds, current.seconds)
        self.log.update()
        return error

    def _train(self, trial: Trial, current: '_Current') -> tuple[Any, History]:
        model = self._build(trial.params)
        _, weights, training = split_params(self.cls, trial.params)
        callbacks = (*self.config.callbacks, current)
        config = replace(self.config, **training, callbacks=callbacks)
        with warnings.catch_warnings(), current.watch(model):
            warnings.simplefilter('ignore', LastEpochWarning)
            history = train(
                model,
                self.data,
                config=config,
                loss_weights={**self.loss_weights, **weights},
                inputs=self.inputs,
            )
        return model, history

    def _build(self, params: Mapping[str, Any]) -> Any:
        own = split_params(self.cls, params).arguments
        torch.manual_seed(self.config.seed)
        model = self.cls.from_data(self.data, **{**self.arguments, **own})
        if isinstance(model, ClosedForm):
            return model
        return model.to(self.data.train[INTERACTS].edge_index.device)

    def _keep(
        self, trial: Trial, current: '_Current', model: Any, history: History
    ) -> None:
        """Records a trial, and its model if it is the best."""
        with self.study.exclusive():
            best = self.study.best
            if best is None or history.best_value > (best.value or 0.0):
                is_closed_form = isinstance(model, ClosedForm)
                state = {} if is_closed_form else model.state_dict()
                state = {key: x.detach().cpu().clone() for key, x in state.items()}
                self.best = _Best(trial.params, history, state)
                if self.study.folder is not None:
                    path = self.study.folder / BEST
                    content = self.best._asdict() | {'history': history._asdict()}
                    save_state(path, content)
            self.study.tell(
                trial,
                history.best_value,
                current.state,
                best_epoch=history.best_epoch,
                num_epochs=history.num_epochs,
                seconds=current.seconds,
            )

    def _result(self) -> Tuning:
        best = self.best
        if self.study.folder is not None:
            content = load_state(self.study.folder / BEST)
            content['history'] = History(**content['history'])
            best = _Best(**content)
        assert best is not None
        model = self._build(best.params)
        if isinstance(model, ClosedForm):
            model.fit(self.data.train[INTERACTS].edge_index)
        else:
            model.load_state_dict(best.state)
            model.eval()
        return Tuning(model, best.history, best.params, self.study.trials())

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """The first Ctrl-C ends the search after the current epoch."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def on_interrupt(*_: Any) -> None:
            self.is_ended = True
            signal.signal(signal.SIGINT, before)
            self.log.write(
                'ending after this epoch, with the best trial so far (Ctrl-C again: '
                'at once)'
            )

        signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _Current(Callback):
    """The trial that is running."""

    def __init__(self, tuner: _Tuner, trial: Trial) -> None:
        self.tuner, self.trial = tuner, trial
        self.state: Any = 'complete'
        self.best_value = -math.inf
        self.started = self.last = time.monotonic()
        self.num_epochs = 0
        self.steps: list[float] = []

    @property
    def seconds(self) -> float:
        """Since its start."""
        return round(time.monotonic() - self.started, 3)

    def on_epoch(self, _: str, record: Mapping[str, Any]) -> bool:
        """Whether the trial ends with this epoch."""
        tuner, now = self.tuner, time.monotonic()
        seconds, self.last = now - self.last, now
        shortest = tuner.epoch_seconds or seconds
        tuner.epoch_seconds = min(shortest, seconds)
        self.num_epochs = record['epoch']
        if 'validation' in record:
            value = record['validation'][tuner.config.monitor]
            self.best_value = max(self.best_value, value)
            is_bad = tuner.study.report(self.trial, record['epoch'], self.best_value)
            if is_bad and tuner.prune:
                self.state = 'pruned'
        if tuner._is_stopped() or tuner.budget.is_over(seconds):
            self.state = 'stopped'
        tuner.log.update(f'epoch {self.num_epochs}, {self.best_value:.4f}')
        return bool(self.state != 'complete')

    @contextmanager
    def watch(self, model: Any) -> Iterator[None]:
        """Ends the trial within its first epoch if that would end too late."""
        if isinstance(model, ClosedForm):
            yield
            return
        handle = model.register_forward_pre_hook(self._before_step)
        try:
            yield
        finally:
            handle.remove()

    def _before_step(self, model: torch.nn.Module, _: Any) -> None:
        if self.num_epochs or not model.training:
            return
        if self.tuner.is_ended:
            raise _NoEpochError
        self.steps.append(time.monotonic())
        if len(self.steps) > _STEPS:
            self._check_first_epoch()

    def _check_first_epoch(self) -> None:
        tuner = self.tuner
        # The first step also allocates.
        step = (self.steps[-1] - self.steps[1]) / (len(self.steps) - 2)
        config = tuner.config
        batch_size = config.batch_size * config.propagate_every
        num_edges = tuner.data.train[INTERACTS].edge_index.size(1)
        rest = step * (math.ceil(num_edges / batch_size) - len(self.steps) + 1)
        if not tuner.budget.is_over(rest):
            return
        if tuner.study.best is not None:
            raise _NoEpochError
        minutes = (self.steps[-1] - tuner.budget.started + rest) / 60
        # Validation follows, which was not measured.
        raise BudgetError(
            tuner.cls.__name__, 1.2 * minutes + 0.01, tuner.budget.minutes or 0.0
        )
