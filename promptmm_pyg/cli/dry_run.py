"""``--dry-run``: a few real steps, and what they say of time and memory."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from promptmm_pyg.cli.cost_report import Cost, report
from promptmm_pyg.cli.models import (
    Prepared,
    build_student,
    build_teacher,
    distill_arguments,
    load_teacher,
)
from promptmm_pyg.cli.run_folder import RunFolder
from promptmm_pyg.data import INTERACTS, Split
from promptmm_pyg.distillation import distill
from promptmm_pyg.training import TrainingConfig, train
from promptmm_pyg.training.validation import validation

_STEPS = 6  # Measured, after one that warms up.
_SECONDS = 10.0  # After which no further step is begun.
_NEVER = 10**9


class _EnoughError(Exception):
    """Ends training once it has been seen at work."""


class _Clock:
    """Notes when each forward of training begins."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, module: torch.nn.Module, _: Any) -> None:
        if not module.training:
            return
        _finish(module)
        self.times.append(time.perf_counter())
        late = len(self.times) > 2 and self.times[-1] - self.times[0] > _SECONDS
        if late or len(self.times) > _STEPS + 1:
            raise _EnoughError

    def seconds(self) -> float:
        """The median step; the first one also allocates, and is left out."""
        steps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(steps[1:] or steps)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Adds ``--dry-run``."""
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='read the data, build the model, take a few steps and say how long it '
        'would take and how much memory; write nothing',
    )


def without_cache(data: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of data that writes no encoded contents."""
    content = [{**one, 'cache': None} for one in data.get('content', [])]
    return {**data, 'content': content}


def try_teacher(
    run: RunFolder, config: dict[str, Any], data: Prepared, device: torch.device
) -> str:
    """A report on what it would take to train the teacher of a configuration."""
    model = build_teacher(config, data.train).to(device)
    data = data.to(device)

    def run_training(training: TrainingConfig) -> None:
        train(
            model,
            Split(data.train, data.val, data.test),
            loss_weights=config['weights'],
            inputs=data.inputs,
            config=training,
        )

    parts = (config['train'], config['schedule'], data)
    cost = measure('teacher', model, run_training, *parts)
    note = ''
    if run.config_file.is_file():
        note = f"\nnote: '{run.path}' holds a run, see --resume and --overwrite"
    return report([cost], config['schedule'], data) + note


def try_student(
    run: RunFolder,
    config: dict[str, Any],
    student: dict[str, Any],
    data: Prepared,
    device: torch.device,
) -> str:
    """A report on what it would take to train the student of a configuration."""
    teacher = load_teacher(run, config, data.train).to(device)
    model = build_student(student, data.train).to(device)
    data = data.to(device)
    split = Split(data.train, data.val, data.test)
    arguments = distill_arguments(student, data)
    options = arguments.pop('train')

    def run_distillation(training: TrainingConfig) -> None:
        distill(model, teacher, split, config=training, **arguments)

    parts = (options, student['schedule'], data)
    costs = [measure('student', model, run_distillation, *parts)]
    if student['distill']['baseline']:
        baseline = build_student(student, data.train).to(device)

        def run_baseline(training: TrainingConfig) -> None:
            train(
                baseline,
                split,
                loss_weights=arguments['loss_weights'],
                inputs=data.inputs,
                config=training,
            )

        costs.append(measure('control', baseline, run_baseline, *parts))
    note = ''
    if (run.student / 'config.json').is_file():
        note = f"\nnote: '{run.path}' has a student, see --resume and --overwrite"
    return report(costs, student['schedule'], data) + note


def measure(
    name: str,
    model: torch.nn.Module,
    run: Callable[[TrainingConfig], None],
    options: Mapping[str, Any],
    schedule: Mapping[str, Any],
    data: Prepared,
) -> Cost:
    """Trains a model for a few steps, validates once, and tells what that cost.

    Args:
        name: What the model is called in the report.
        model: Is left as these steps leave it.
        run: Trains it with a configuration.
        options: Of the training, such as the ``batch_size``.
        schedule: Holds the ``monitor``.
        data: The graphs.
    """
    clock = _Clock()
    handle = model.register_forward_pre_hook(clock)
    monitor = schedule['monitor']
    length = dict.fromkeys(('epochs', 'patience', 'validate_every'), _NEVER)
    config = TrainingConfig(**options, **length, monitor=monitor, progress=False)
    try:
        run(config)
    except _EnoughError:
        pass
    finally:
        handle.remove()
    _finish(model)
    started = time.perf_counter()
    validation(model, data.inputs, data.val, monitor)
    spent = time.perf_counter() - started
    parameters = [x for x in model.parameters() if x.requires_grad]
    interactions = data.train[INTERACTS].edge_index.size(1)
    a_step = options['batch_size'] * options.get('propagate_every', 1)
    return Cost(
        name,
        sum(x.numel() for x in parameters),
        sum(x.nbytes for x in parameters),
        clock.seconds(),
        -(-interactions // a_step),
        spent,
    )


def _finish(model: torch.nn.Module) -> None:
    """Waits for what a GPU was told to do, so that times are those of the work."""
    one = next(model.parameters(), None)
    if one is not None and one.is_cuda:
        torch.cuda.synchronize(one.device)
