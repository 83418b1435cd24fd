"""Cores, memory, and ``--dry-run``: a few real steps to estimate time and memory."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from promptmm_pyg.data import INTERACTS, ITEM, USER, modality_x_dict
from promptmm_pyg.distillation import distill
from promptmm_pyg.limits import available_memory
from promptmm_pyg.models._resolve import short_name
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.runs import Prepared, Run
from promptmm_pyg.runs.run import build_model, build_student
from promptmm_pyg.runs.stages import distill_arguments, training_options
from promptmm_pyg.runs.teachers import student_teacher
from promptmm_pyg.training import (
    NeighborChoice,
    TrainingConfig,
    choose_neighbors,
    train,
)
from promptmm_pyg.training.neighborhood import blockwise_validation, with_neighbors
from promptmm_pyg.training.validation import sample_users, validation

GIB = 1 << 30
_STEPS = 6  # Measured, after one that warms up.
_SECONDS = 10.0  # No further step is started after this time.
_NEVER = 10**9
_LONG = 3600.0  # Seconds, from which on a training is warned about.
_NOTHING = 'nothing was written'


class _EnoughError(Exception):
    """Ends training after the measured steps."""


class _Clock:
    """Records when each forward of training starts."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, module: torch.nn.Module, _: Any) -> None:
        if not module.training:
            return
        _synchronize(module)
        self.times.append(time.perf_counter())
        late = len(self.times) > 2 and self.times[-1] - self.times[0] > _SECONDS
        if late or len(self.times) > _STEPS + 1:
            raise _EnoughError

    def seconds(self) -> float:
        """The median step; the first one also allocates, and is left out."""
        steps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(steps[1:] or steps)


class Cost(NamedTuple):
    """The cost of a few steps."""

    name: str
    num_parameters: int
    parameter_bytes: int
    seconds_per_step: float
    steps_per_epoch: int
    seconds_per_validation: float

    def seconds(self, epochs: int, validate_every: int) -> float:
        """The estimated time of a number of epochs."""
        training = epochs * self.steps_per_epoch * self.seconds_per_step
        return training + -(-epochs // validate_every) * self.seconds_per_validation


def without_cache(data: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of data, without a cache of encoded contents."""
    content = [{**entry, 'cache': None} for entry in data.get('content', [])]
    return {**data, 'content': content}


def profile_teacher(
    run: Run, config: dict[str, Any], data: Prepared, device: str
) -> str:
    """A report on the cost of training the teacher of a configuration."""
    model = build_model(config, 'teacher', data.train)
    if isinstance(model, ClosedForm):
        name = short_name(config['model'])
        return f'{name} is fitted in closed form, in one step; {_NOTHING}'
    model.to(device)
    data = data.to(torch.device(device))

    run_training = partial(_train, model, data, config['loss_weights'])
    cost = profile_model('teacher', model, run_training, config['train'], data)
    note = ''
    if run.config_file.is_file():
        note = f"\nnote: '{run.path}' contains a run, see --resume and --overwrite"
    choice = choose_neighbors(model, data.train)
    name, given = short_name(config['model']), config['train']['num_neighbors']
    about = neighbors_text(choice, name, given)
    return report([cost], config['train'], data, about=about) + note


def _train(
    model: torch.nn.Module,
    data: Prepared,
    loss_weights: Mapping[str, float],
    config: TrainingConfig,
) -> None:
    train(
        model,
        data.split,
        loss_weights=loss_weights,
        inputs=data.inputs,
        config=config,
    )


def profile_student(run: Run, config: dict[str, Any], device: str) -> str:
    """A report on the cost of training the student of a configuration."""
    teacher = student_teacher(run, config)
    if not isinstance(teacher, ClosedForm):
        teacher = teacher.to(device)
    student, baseline = (
        build_student(config, run.data.train).to(device) for _ in range(2)
    )
    data = run.data.to(torch.device(device))
    arguments = distill_arguments(config, data)
    arguments['baseline'] = False  # It is measured alone.

    def run_distillation(training: TrainingConfig) -> None:
        distill(student, teacher, data.split, config=training, **arguments)

    options = config['train']
    costs = [profile_model('student', student, run_distillation, options, data)]
    if config['distill'].get('baseline', True):
        run_baseline = partial(_train, baseline, data, arguments['loss_weights'])
        costs.append(profile_model('baseline', baseline, run_baseline, options, data))
    note = ''
    if (run.student_dir / 'config.json').is_file():
        note = f"\nnote: '{run.path}' has a student, see --resume and --overwrite"
    trials = max(1, config['distill'].get('tune', 0))
    return report(costs, options, data, trials) + note


def profile_model(
    name: str,
    model: torch.nn.Module,
    run: Callable[[TrainingConfig], None],
    options: Mapping[str, Any],
    data: Prepared,
) -> Cost:
    """Trains a model for a few steps, validates once, and measures both."""
    clock = _Clock()
    handle = model.register_forward_pre_hook(clock)
    length = dict.fromkeys(('epochs', 'patience', 'validate_every'), _NEVER)
    interactions = data.train[INTERACTS].edge_index.size(1)
    config = TrainingConfig(**training_options({**options, **length}), progress=False)
    if name == 'teacher':
        config = with_neighbors(model, data.train, config)
    config = config.resolve(interactions, shared_forward=name == 'teacher')
    try:
        run(config)
    except _EnoughError:
        pass
    finally:
        handle.remove()
    _synchronize(model)
    started = time.perf_counter()
    val = sample_users(data.val, config.validation_users)
    if config.samples_neighbors:
        blockwise_validation(model, data.train, val, config)()
    else:
        validation(model, data.inputs, val, config.monitor)
    seconds = time.perf_counter() - started
    parameters = [x for x in model.parameters() if x.requires_grad]
    return Cost(
        name,
        sum(x.numel() for x in parameters),
        sum(x.nbytes for x in parameters),
        clock.seconds(),
        -(-interactions // (config.batch_size * config.propagate_every)),
        seconds,
    )


def _synchronize(model: torch.nn.Module) -> None:
    """Waits for the work of a GPU, so that times are those of the work."""
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.is_cuda:
        torch.cuda.synchronize(parameter.device)


def report(
    costs: list[Cost],
    options: Mapping[str, Any],
    data: Prepared,
    trials: int = 1,
    about: str = '',
) -> str:
    """Measured and estimated costs, as text."""
    config = TrainingConfig(validate_every=options['validate_every']).resolve(1)
    every, epochs = int(config.validate_every), options['epochs']
    users, items = data.train[USER].num_nodes, data.train[ITEM].num_nodes
    interactions = data.train[INTERACTS].edge_index.size(1)
    lines = [f'data: {users} users, {items} items, {interactions} interactions']
    for cost in costs:
        epoch = cost.seconds(every, every) / every
        lines += [
            f'{cost.name}: {cost.num_parameters:,} parameters '
            f'({bytes_text(cost.parameter_bytes)})',
            f'  {cost.steps_per_epoch} steps per epoch, '
            f'{seconds_text(cost.seconds_per_step)} per step, '
            f'{seconds_text(cost.seconds_per_validation)} per validation: about '
            f'{seconds_text(epoch)} per epoch',
        ]
    least = min(epochs, (options['patience'] + 1) * every)
    low, high = (
        trials * sum(cost.seconds(number, every) for cost in costs)
        for number in (least, epochs)
    )
    each = ' each' if len(costs) > 1 else ''
    if trials > 1:
        each += f', {trials} times by --tune'
    if least < epochs:
        lines.append(
            f'time: {seconds_text(low)} to {seconds_text(high)}: from {least} epochs'
            f'{each}, the earliest end by --patience, to all {epochs}'
        )
    else:
        lines.append(f'time: {seconds_text(high)} for {epochs} epochs{each}')
    if high > _LONG:
        lines.append(
            'warning: it can take more than an hour. Less: a shorter --patience or '
            "fewer --epochs, a model in closed form such as '--model GraphFilter', or "
            "'--model MatrixFactorization --optimizer lazy'"
        )
    lines += [about] if about else []
    return '\n'.join([*lines, *_memory_lines(costs, data), _NOTHING])


def neighbors_text(
    choice: NeighborChoice, name: str, num_neighbors: Sequence[int] | str
) -> str:
    """What a step is trained on, and why."""
    sampled = choice.num_neighbors if num_neighbors == 'auto' else num_neighbors
    memory = (
        f'about {bytes_text(choice.needed)} by the cost model; training may use '
        f'{bytes_text(choice.allowed)}'
    )
    if sampled not in (None, 'none'):
        hops = ' and '.join(map(str, sampled or ()))
        return (
            f'steps: neighborhoods of {hops} edges per node. The whole graph: {memory}'
        )
    text = f'steps: on the whole graph: {memory}'
    if choice.needed > choice.allowed:
        fix = 'Pass --edges-per-hop auto'
        if not choice.supported:
            fix = f'{name} is not trained on neighborhoods; PromptMM and LightGCN are'
        text += f'\nwarning: it may not fit into memory. {fix}'
    return text


def _memory_lines(costs: list[Cost], data: Prepared) -> list[str]:
    features = sum(
        x.nbytes for x_of in modality_x_dict(data.val).values() for x in x_of.values()
    )
    largest = max(cost.parameter_bytes for cost in costs)
    # A copy of the best parameters, which these steps did not make yet.
    best = sum(cost.parameter_bytes for cost in costs)
    lines = []
    peak = peak_memory()
    if peak is not None:
        lines.append(
            f'memory: about {bytes_text(peak + best)} at most: {bytes_text(peak)} '
            f'measured, {bytes_text(best)} for the best parameters'
        )
    lines.append(
        f'  of these, features {bytes_text(features)}, parameters with gradients '
        f'and optimizer state {bytes_text(4 * largest)}'
    )
    device = data.train[INTERACTS].edge_index.device
    if device.type == 'cuda':
        used = torch.cuda.max_memory_allocated(device)
        total = torch.cuda.get_device_properties(device).total_memory
        lines.append(f'  on the GPU {bytes_text(used)} of {bytes_text(total)}')
    lines.append(f'  free now: {bytes_text(available_memory())}')
    return lines


def peak_memory() -> int | None:
    """The peak of this process's memory in bytes; ``None`` on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak


def bytes_text(count: float) -> str:
    """A readable number of bytes.

    Example:
        >>> bytes_text(3 * 1024 * 1024), bytes_text(12)
        ('3.0 MiB', '12 bytes')
    """
    units = ('bytes', 'KiB', 'MiB', 'GiB')
    power = min(len(units) - 1, max(0, math.floor(math.log(max(count, 1), 1024))))
    number = count / 1024**power
    return f'{number:.0f} bytes' if power == 0 else f'{number:.1f} {units[power]}'


def seconds_text(seconds: float) -> str:
    """A readable time, to two or three digits.

    Example:
        >>> seconds_text(0.0123), seconds_text(95), seconds_text(7500)
        ('0.012 s', '1 min 35 s', '2 h 5 min')
    """
    if seconds < 10:
        return f'{seconds:.2g} s'
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60} s'
    minutes = round(seconds / 60)
    return f'{minutes // 60} h {minutes % 60} min'
