"""Callbacks of trainings, and trackers: TensorBoard, MLflow, Weights & Biases."""

import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from promptmm_pyg.training.history import History


class Callback:
    """Is called during trainings, with ``TrainingConfig(callbacks=(...,))``; each
    method does nothing unless it is overridden. In several processes the callbacks of
    rank 0 are called.

    ``name`` is the class of the model in ``train``, ``'student'`` or ``'baseline'`` in
    ``distill``. A record is that of an epoch in
    :class:`~promptmm_pyg.training.History`.
    """

    def on_epoch(self, name: str, record: Mapping[str, Any]) -> bool | None:
        """Called after each epoch; its checkpoint is written. The training ends with
        its best state if this returns ``True``, and ``resume`` continues it.
        """

    def on_validation(self, name: str, record: Mapping[str, Any]) -> None:
        """Called after each epoch with ``validation`` in its record."""

    def on_end(self, name: str, history: History) -> None:
        """Called when the training ends, with the best epoch restored."""


class Tracker(Callback):
    """The base of trackers: one tracked run per trained model. A tracker that fails
    during a training is turned off with a warning; the training goes on.

    Args:
        params: Settings to record. (default: none)
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})
        self._runs: dict[str, Any] = {}
        self._is_off = False

    def on_epoch(self, name: str, record: Mapping[str, Any]) -> None:
        values = {'loss': record.get('loss'), 'seconds': record.get('seconds')}
        values |= {f'losses/{k}': x for k, x in record.get('losses', {}).items()}
        self._send(name, values, record['epoch'])

    def on_validation(self, name: str, record: Mapping[str, Any]) -> None:
        values = {f'validation/{k}': x for k, x in record['validation'].items()}
        self._send(name, values, record['epoch'])

    def on_end(self, name: str, history: History) -> None:
        best = {'best_epoch': history.best_epoch, 'best_value': history.best_value}
        self._send(name, best, history.num_epochs)
        if name in self._runs:
            self._guarded(lambda: self._close(self._runs.pop(name)))

    def _send(self, name: str, values: Mapping[str, Any], step: int) -> None:
        known = {key: float(x) for key, x in values.items() if x is not None}

        def write() -> None:
            if name not in self._runs:
                self._runs[name] = self._open(name)
            self._log(self._runs[name], known, step)

        self._guarded(write)

    def _guarded(self, action: Any) -> None:
        if self._is_off:
            return
        try:
            action()
        except Exception as error:
            self._is_off = True
            what = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
            warnings.warn(
                f"'{type(self).__name__}' must be able to write (got {what}). Nothing "
                f'more is tracked; the training goes on',
                stacklevel=2,
            )

    def _open(self, name: str) -> Any:
        """Starts the tracked run of a model."""
        raise NotImplementedError

    def _log(self, run: Any, values: Mapping[str, float], step: int) -> None:
        raise NotImplementedError

    def _close(self, run: Any) -> None:
        raise NotImplementedError


class TensorBoardTracker(Tracker):
    """Writes event files for TensorBoard, in a folder per model.

    Args:
        folder: Where they are written.
        params: Settings to record. (default: none)

    Raises:
        ImportError: If ``tensorboard`` is not installed.
        OSError: If the folder cannot be written.
    """

    def __init__(
        self, folder: str | Path, params: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(params)
        self._writer = _imported('torch.utils.tensorboard', 'tensorboard').SummaryWriter
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _open(self, name: str) -> Any:
        writer = self._writer(str(self.folder / name))
        if self.params:
            writer.add_text('params', json.dumps(self.params, default=str))
        return writer

    def _log(self, run: Any, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            run.add_scalar(key, value, step)
        run.flush()

    def _close(self, run: Any) -> None:
        run.close()


class MLflowTracker(Tracker):
    """Writes metrics to MLflow, a run per model. Names have ``_at_`` in place of
    ``@``, which MLflow does not allow.

    Args:
        tracking_uri: A server, a database or a folder (``'file:mlruns'``).
        experiment: The name of the experiment. (default: ``'promptmm_pyg'``)
        params: Settings to record. (default: none)

    Raises:
        ImportError: If ``mlflow`` is not installed.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str = 'promptmm_pyg',
        params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(params)
        self._client = _imported('mlflow', 'mlflow').MlflowClient(tracking_uri)
        self.experiment = experiment

    def _open(self, name: str) -> Any:
        found = self._client.get_experiment_by_name(self.experiment)
        number = (
            self._client.create_experiment(self.experiment)
            if found is None
            else found.experiment_id
        )
        run = self._client.create_run(number, run_name=name).info.run_id
        for key, value in self.params.items():
            self._client.log_param(run, key, value)
        return run

    def _log(self, run: Any, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._client.log_metric(run, key.replace('@', '_at_'), value, step=step)

    def _close(self, run: Any) -> None:
        self._client.set_terminated(run)


class WandbTracker(Tracker):
    """Writes metrics to Weights & Biases, a run per model.

    Args:
        project: The name of the project.
        folder: Where files are written. (default: the current folder)
        mode: ``'online'``, or ``'offline'`` for files that ``wandb sync`` uploads
            later. (default: ``'offline'``)
        params: Settings to record. (default: none)

    Raises:
        ImportError: If ``wandb`` is not installed.
    """

    def __init__(
        self,
        project: str,
        folder: str | Path = '.',
        mode: Literal['online', 'offline'] = 'offline',
        params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(params)
        self._wandb = _imported('wandb', 'wandb')
        self.project, self.folder, self.mode = project, Path(folder), mode

    def _open(self, name: str) -> Any:
        return self._wandb.init(
            project=self.project,
            name=name,
            dir=str(self.folder),
            mode=self.mode,
            config=self.params,
            reinit='create_new',
            settings=self._wandb.Settings(silent=True),
        )

    def _log(self, run: Any, values: Mapping[str, float], step: int) -> None:
        run.log({**values, 'epoch': step}, step=step)

    def _close(self, run: Any) -> None:
        run.finish()


def _imported(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the tracker requires '{package}' (not installed). Install it with 'pip "
            f"install {package}'"
        ) from error
