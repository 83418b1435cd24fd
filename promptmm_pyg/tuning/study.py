"""A series of trials, in memory or in a folder that several processes share."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from promptmm_pyg._files import locked, temporary_folder
from promptmm_pyg._utils import missing_extra
from promptmm_pyg.search_space import SearchSpace

JOURNAL = 'trials.jsonl'
State = Literal['running', 'complete', 'pruned', 'stopped', 'failed', 'repeated']
_NAME = 'promptmm'
_INFO, _WORKER = 'trial', 'worker'
_STARTUP_TRIALS = 4  # Before the first trial may be pruned.


@dataclass(frozen=True)
class Trial:
    """One setting of the hyper-parameters and what became of it."""

    number: int
    """From 0, in the order in which trials began."""
    params: dict[str, Any]
    """The tuned hyper-parameters."""
    state: State = 'running'
    """``'pruned'``: worse than the median of the others. ``'stopped'``: the time was
    over. ``'failed'``: see ``error``. ``'repeated'``: had been tried before."""
    value: float | None = None
    """The validation metric of its best epoch; ``None`` if it has none."""
    best_epoch: int | None = None
    num_epochs: int | None = None
    seconds: float | None = None
    error: str | None = None


def import_optuna() -> Any:
    """Optuna, with its messages off.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing_extra('tune', 'optuna', 'tune') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """Trials of Optuna's TPE: the defaults of the space, these with a strong penalty,
    then the sampler's, whose first ten are random.

    In memory, trials are one sequence of draws: the same values lead to the same
    trials. In a folder, where several processes may share the study and continue it,
    every trial has its own seed, and a trial whose process was killed is run again.

    Args:
        space: The hyper-parameters.
        seed: Seed of the sampler. (default: ``0``)
        folder: The folder of the study; used as a context manager.
            (default: ``None``, in memory)
        warmup: Epochs before a trial may be pruned. (default: ``20``)

    Raises:
        ImportError: If Optuna is not installed.

    Example:
        >>> from promptmm_pyg.models import EASE
        >>> study = Study(EASE.search_space)
        >>> trial = study.ask()
        >>> trial.params
        {'l2': 250.0}
        >>> study.tell(trial, 0.25)
        >>> study.best.value
        0.25
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        folder: str | Path | None = None,
        warmup: int = 20,
    ) -> None:
        self._optuna = import_optuna()
        self.space, self.seed = space, seed
        self.folder = None if folder is None else Path(folder)
        self._worker: Path | None = None
        self._running: dict[int, Any] = {}
        self._stack = ExitStack()
        sampler = self._optuna.samplers.TPESampler(seed=seed % 2**32)
        pruner = self._optuna.pruners.MedianPruner(_STARTUP_TRIALS, warmup)
        with self.exclusive():
            self._study = self._optuna.create_study(
                storage=self._storage(),
                study_name=_NAME,
                load_if_exists=True,
                direction='maximize',
                sampler=sampler,
                pruner=pruner,
            )
            if not self._study.get_trials(deepcopy=False):
                for params in space.first_trials():
                    self._study.enqueue_trial(params)

    def _storage(self) -> Any:
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / JOURNAL
        journal = self._optuna.storages.journal
        backend = journal.JournalFileBackend(str(file), lock_obj=_KernelLock(file))
        return self._optuna.storages.JournalStorage(backend)

    def __enter__(self) -> 'Study':
        if self.folder is not None:
            self._worker = self._stack.enter_context(temporary_folder(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other process asks, or tells its best trial, meanwhile."""
        if self.folder is None:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            yield

    def ask(self, limit: int | None = None) -> Trial | None:
        """The next trial, or ``None`` at the limit.

        Args:
            limit: The number of trials of all processes, running ones included.
                (default: ``None``)
        """
        with self.exclusive():
            self._retry_killed()
            if limit is not None and len(self.trials()) >= limit:
                return None
            trial = self._study.ask()
            if self._worker is not None:
                trial.set_user_attr(_WORKER, self._worker.name)
        if self.folder is not None:
            # One sequence of draws would be the same in every process.
            seed = (self.seed * 1_000_003 + trial.number + 1) % 2**32
            sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            self._study.sampler = sampler
        self._running[trial.number] = trial
        return Trial(trial.number, self.space.suggest(trial))

    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Records the best value up to an epoch; returns whether the trial is worse
        than the median of the complete ones were at this epoch.
        """
        running = self._running[trial.number]
        running.report(value, epoch)
        return bool(running.should_prune())

    def tell(
        self,
        trial: Trial,
        value: float | None = None,
        state: State = 'complete',
        **info: Any,
    ) -> None:
        """Records the end of a trial.

        Args:
            trial: The trial.
            value: Its validation metric. (default: none)
            state: How it ended. (default: ``'complete'``)
            **info: Further fields of :class:`Trial`.
        """
        running = self._running.pop(trial.number)
        ended = asdict(replace(trial, value=value, state=state, **info))
        running.set_user_attr(_INFO, ended)
        states = self._optuna.trial.TrialState
        if value is None:
            self._study.tell(running, state=states.FAIL)
        elif state in ('pruned', 'stopped'):
            # With the value of its last epoch, for the sampler.
            self._study.tell(running, state=states.PRUNED)
        else:
            self._study.tell(running, value)

    def forget(self, trial: Trial) -> None:
        """Ends a trial without a record; a continued study runs it again."""
        running = self._running.pop(trial.number)
        self._study.tell(running, state=self._optuna.trial.TrialState.FAIL)
        with self.exclusive():
            self._study.enqueue_trial(running.params)

    def trials(self) -> list[Trial]:
        """All trials of all processes, without repeated ones, in order."""
        states, out = self._optuna.trial.TrialState, []
        for trial in self._study.get_trials(deepcopy=False):
            if _INFO in trial.user_attrs:
                ended = Trial(**trial.user_attrs[_INFO])
                out += [ended] * (ended.state != 'repeated')
            elif trial.state == states.RUNNING:
                out.append(Trial(trial.number, dict(trial.params)))
        return out

    @property
    def best(self) -> Trial | None:
        """The trial with the highest value, of equals the first."""
        ended = [trial for trial in self.trials() if trial.value is not None]
        return max(ended, key=lambda trial: trial.value or 0.0, default=None)

    def known(self, params: dict[str, Any]) -> Trial | None:
        """The complete trial of the same parameters."""
        same = (x for x in self.trials() if x.params == params)
        return next((x for x in same if x.state == 'complete'), None)

    def _retry_killed(self) -> None:
        """Ends the trials of killed processes and queues them again."""
        if self.folder is None:
            return
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if not self._is_alive(trial.user_attrs.get(_WORKER)):
                self._study.tell(trial.number, state=states.FAIL)
                fixed = trial.system_attrs.get('fixed_params', {})
                self._study.enqueue_trial({**fixed, **trial.params})

    def _is_alive(self, worker: str | None) -> bool:
        assert self.folder is not None
        folder = self.folder / (worker or '')
        if worker is None or not folder.is_dir():
            return False
        with locked(folder, timeout=0) as is_free:
            return is_free is not True


class _KernelLock:
    """Optuna's interface of a lock; unlike its own, a killed process leaves none."""

    def __init__(self, file: Path) -> None:
        self._file, self._stack = file, ExitStack()

    def acquire(self) -> bool:
        """Waits for other processes."""
        return self._stack.enter_context(locked(self._file)) is not False

    def release(self) -> None:
        """Lets others write."""
        self._stack.close()
