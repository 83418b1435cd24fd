"""Tuning a model into the folder of a run."""

import contextlib
import io
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from promptmm_pyg._files import remove
from promptmm_pyg._utils import check_positive
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.models._resolve import constructors, short_name
from promptmm_pyg.runs.data import Prepared, RunError
from promptmm_pyg.runs.folder import (
    TUNING,
    exclusive,
    is_leftover,
    read_json,
    staged,
    write_json,
)
from promptmm_pyg.runs.run import Run, model_class
from promptmm_pyg.runs.stages import (
    CPU,
    best_epoch,
    check_resume,
    complete_config,
    load_data,
    save_teacher,
    training_options,
    write_config,
)
from promptmm_pyg.search_space import SearchSpace
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.training.history import write_jsonl
from promptmm_pyg.training.loop import LOG
from promptmm_pyg.tuning import Tuning, split_params, tune
from promptmm_pyg.tuning.study import import_optuna
from promptmm_pyg.tuning.tune import BudgetError, search_space

_RESERVE = 0.03  # Of the time, at least, to write the run.
_GRACE = 10.0  # Seconds before the end in which no further trial may begin.
_WAIT = 60.0  # Seconds, for another process that reads its data or writes the run.


def tune_run(
    path: str | Path,
    config: Mapping[str, Any],
    *,
    trials: int | None = None,
    minutes: float | None = None,
    jobs: int = 1,
    prune: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = CPU,
) -> Run:
    """Tunes a model (:func:`~promptmm_pyg.tuning.tune`) into the folder of a run, whose
    teacher is the best trial.

    Args:
        path: The folder. Trials and the best state are in its folder ``tuning``.
        config: As in :func:`~promptmm_pyg.runs.train_run`. A hyper-parameter of the
            search space with another value than the model's default is not tuned.
        trials: The number of trials of all processes. (default: no limit)
        minutes: The time, reading data and writing the run included.
            (default: no limit)
        jobs: The number of processes, which share the threads of this one. They are
            spawned, so a script requires ``if __name__ == '__main__'``.
            (default: ``1``)
        prune: Whether to end bad trials early. (default: ``True``)
        overwrite: Whether to replace a run in ``path``. (default: ``False``)
        resume: Whether to continue its search, beside others that run it, too.
            (default: ``False``)
        progress: Whether to print a line per trial. (default: ``True``)
        device: Where to train. (default: the CPU)

    Raises:
        ImportError: If Optuna is not installed.
        RunError: If the folder holds something else, or the data have errors.
        ValueError: If a setting is out of its range, or the time is too short.
    """
    started = time.monotonic()
    import_optuna()
    check_positive('jobs', jobs)
    run, config = Run(path), complete_config(config)
    space = tuned_space(config)
    _check_folder(run, overwrite=overwrite, resume=resume)
    with _when_free(run.path):
        data, config['data_sha256'] = load_data(config)
        _begin(run.path / TUNING, {**config, 'space': space.space}, resume=resume)
    options = {'trials': trials, 'prune': prune}
    end = None
    if minutes is not None:
        elapsed, reserve = time.monotonic() - started, _RESERVE * 60 * minutes
        # To write the run takes about as long as to read the data.
        reserve = min(max(reserve, elapsed), 10 * reserve)
        end = time.time() + 60 * minutes - reserve - elapsed
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(max(1, threads // jobs))
        with _workers(jobs - 1, run.path, config, device, end, options) as wait:
            tuning = _search(
                run.path, config, data, device, end, **options, progress=progress
            )
            wait(tuning)
    except BudgetError as error:
        overhead = (minutes or 0.0) - error.given  # To read the data and to write.
        needed = 1.1 * (error.needed + max(0.0, overhead))
        raise BudgetError(
            short_name(config['model']), needed, minutes or 0.0
        ) from error
    finally:
        torch.set_num_threads(threads)
    with _when_free(run.path):
        _finish(run, config, data, tuning)
    run.data = data
    run.check()
    return run


def tuned_space(config: Mapping[str, Any]) -> SearchSpace:
    """The search space of the model of a configuration, without hyper-parameters that
    differ from their defaults.
    """
    cls: Any = model_class(config)
    defaults = {
        name: parameter.default
        for part in constructors(cls)
        for name, parameter in signature(part).parameters.items()
    }

    def is_default(name: str) -> bool:
        place = split_params(cls, {name: None})
        if place.loss_weights:
            value, default = config['loss_weights'][name], cls.loss_weights[name]
        elif place.training:
            default = getattr(TrainingConfig(), name)
            value = config['train'].get(name, default)
        else:
            default = defaults[name]
            value = config['teacher'].get(name, default)
        return bool(value == default)

    parts = search_space(cls).space
    return SearchSpace({name: x for name, x in parts.items() if is_default(name)})


def with_params(config: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run with tuned hyper-parameters in their places."""
    arguments, loss_weights, training = split_params(model_class(config), params)
    return {
        **config,
        'teacher': {**config['teacher'], **arguments},
        'loss_weights': {**config['loss_weights'], **loss_weights},
        'train': {**config['train'], **training},
    }


def _check_folder(run: Run, *, overwrite: bool, resume: bool) -> None:
    folder = run.path / TUNING
    if resume:
        if not (folder / 'config.json').is_file():
            raise RunError(
                f"'{run.path}' has no search to continue. Leave out --resume"
            )
        return
    if run.path.is_dir() and all(
        is_leftover(x) or x.name == TUNING for x in run.path.iterdir()
    ):
        if folder.exists() and not overwrite:
            raise RunError(
                f"'{run.path}' contains a search. Pass --resume to continue it or to "
                f'share it, or --overwrite to replace it'
            )
        return
    run.check_writable(overwrite=overwrite)


@contextmanager
def _when_free(path: Path) -> Iterator[None]:
    """Holds the lock of a run, and waits for others that share its search."""
    end = time.monotonic() + _WAIT
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(path))
                break
            except RunError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        yield


def _begin(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Writes the settings of a search, or checks them."""
    file = folder / 'config.json'
    settings = json.loads(json.dumps(settings))  # As they are read.
    if resume:
        check_resume(
            settings, read_json(file), subject='options and data of the search'
        )
        return
    remove(folder)
    folder.mkdir()
    write_json(file, settings)


def _search(
    path: Path,
    config: Mapping[str, Any],
    data: Prepared,
    device: str | torch.device,
    end: float | None,
    **options: Any,
) -> Tuning:
    """Runs trials until the time ``end``."""
    on_device = data.to(torch.device(device))
    cls, arguments = model_class(config), dict(config['teacher'])
    if cls.reads_prompt and config['prompt'] is None:
        arguments['prompt_start_dict'] = None
    if end is not None:
        options['minutes'] = max((end - time.time()) / 60, 1e-6)
    num_interactions = data.train[INTERACTS].edge_index.size(1)
    how = TrainingConfig(**training_options(config['train'])).resolve(
        num_interactions, shared_forward=True
    )
    return tune(
        cls,
        on_device.split,
        arguments=arguments,
        loss_weights=config['loss_weights'],
        config=how,
        inputs=on_device.inputs,
        space=tuned_space(config).with_learning_rate(float(how.learning_rate)),
        folder=path / TUNING,
        **options,
    )


@contextmanager
def _workers(
    number: int,
    path: Path,
    config: Mapping[str, Any],
    device: str | torch.device,
    end: float | None,
    options: Mapping[str, Any],
) -> Iterator[Callable[[Tuning], None]]:
    """Runs the same search in further processes. Yields a function that waits for
    them, and stops them if the search ended before its limits.
    """
    context = multiprocessing.get_context('spawn')
    stop = context.Event()
    arguments = (path, config, device, end, options, torch.get_num_threads(), stop)
    workers = [
        context.Process(target=_work, args=arguments, daemon=True)
        for _ in range(number)
    ]

    def wait(tuning: Tuning) -> None:
        is_full = len(tuning.trials) >= (options['trials'] or float('inf'))
        if not is_full and (end is None or time.time() < end - _GRACE):
            stop.set()
        for worker in workers:
            worker.join()

    for worker in workers:
        worker.start()
    try:
        yield wait
    finally:
        stop.set()
        for worker in workers:
            worker.join(timeout=5.0)
            worker.terminate()


def _work(
    path: Path,
    config: Mapping[str, Any],
    device: str | torch.device,
    end: float | None,
    options: Mapping[str, Any],
    threads: int,
    stop: Any,
) -> None:
    """The search in a spawned process, until its parent ends."""
    torch.set_num_threads(threads)
    with contextlib.redirect_stderr(io.StringIO()):  # The parent prints the same.
        data, _ = load_data(config)
    parent = multiprocessing.parent_process()
    assert parent is not None
    with suppress(KeyboardInterrupt, BudgetError):
        _search(
            path,
            config,
            data,
            device,
            end,
            **options,
            progress=False,
            should_stop=lambda: stop.is_set() or not parent.is_alive(),
        )


def _finish(
    run: Run, config: Mapping[str, Any], data: Prepared, tuning: Tuning
) -> None:
    """Writes the best trial as the teacher. What was made from the same trial stays."""
    search = {
        'tuned': True,
        'best_params': tuning.best_params,
        'trials': [asdict(trial) for trial in tuning.trials],
    }
    tuned = with_params(config, tuning.best_params)
    metrics = {**best_epoch(tuning.history), **search}
    if _is_written(run, tuned, metrics):
        write_json(run.teacher_dir / 'metrics.json', metrics)
        return
    with staged(run.path, 'teacher', resume=False, keep=(TUNING,)) as folder:
        write_config(folder, tuned, data)
        target = Run(folder)
        write_jsonl(target.teacher_dir / LOG, tuning.history.records)
        save_teacher(
            target,
            tuned,
            data,
            tuning.model,
            tuning.history,
            recommender=target.teacher_recommender_dir,
            search=search,
        )


def _is_written(
    run: Run, config: Mapping[str, Any], metrics: Mapping[str, Any]
) -> bool:
    if not run.config_file.is_file() or not run.has('teacher'):
        return False
    old, new = run.read_config(), json.loads(json.dumps(config))
    same = all(old.get(key) == value for key, value in new.items())
    names = ('best_value', 'best_epoch', 'num_epochs')
    return same and all(run.metrics('teacher').get(x) == metrics[x] for x in names)
