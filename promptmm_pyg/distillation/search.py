"""Several trainings of a student, of which the best is kept."""

import copy
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from promptmm_pyg._distributed import run_on_rank0
from promptmm_pyg._files import replacing
from promptmm_pyg.distillation.start import Start
from promptmm_pyg.training.config import TrainingConfig
from promptmm_pyg.training.history import LastEpochWarning
from promptmm_pyg.training.loop import CHECKPOINT, LOG

if TYPE_CHECKING:
    from promptmm_pyg.distillation.distill import DistillationResult

# A factor of the learning rate, and the weight of the penalty.
_RATE, _PENALTY = (0.1, 4.0), (1e-4, 0.3)
TRIALS, BASELINE = 'trials', 'baseline'
RANDOM: Start = 'random'


def search_settings(rate: float, penalty: float, num_trials: int) -> list[Any]:
    """Learning rates and ``l2`` weights: those given, then points of a Sobol sequence
    on a logarithmic scale, from a tenth of the rate to four times, and from 0.0001
    to 0.3.

    Example:
        >>> search_settings(0.001, 0.01, 1)
        [(0.001, 0.01)]
        >>> len(search_settings(0.001, 0.01, 4))
        4
    """
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(num_trials)
    settings = [(rate, penalty)]
    for x, y in points.tolist()[1:]:
        factor = _RATE[0] * (_RATE[1] / _RATE[0]) ** x
        drawn = _PENALTY[0] * (_PENALTY[1] / _PENALTY[0]) ** y
        settings.append((float(f'{rate * factor:.3g}'), float(f'{drawn:.3g}')))
    return settings


def search(
    run: Callable[..., 'DistillationResult'],
    student: torch.nn.Module,
    teacher: Any,
    weights: Mapping[str, float] | None,
    config: TrainingConfig,
    num_trials: int,
) -> 'DistillationResult':
    """Trains student and baseline with each of the settings, and returns the best of
    each on validation.

    Args:
        run: ``distill`` with all other arguments.
        student: The start; it becomes the best student.
        teacher: A module with a tuned prompt becomes that of the best student.
        weights: The weights of the student's own losses.
        config: The settings that the search starts from.
        num_trials: The number of settings.

    Raises:
        ValueError: If the student has no loss ``'l2'``.
    """
    if weights is None or 'l2' not in weights:
        raise ValueError(
            f"'tune' requires a student with the loss 'l2' (got "
            f'{sorted(weights or {})}). Pass tune=0'
        )
    best: Any = None
    best_teacher = teacher
    baseline: Any = None
    trials: list[dict[str, float]] = []
    settings = search_settings(float(config.learning_rate), weights['l2'], num_trials)
    for number, (rate, penalty) in enumerate(settings):
        own = copy.deepcopy(teacher)  # Its prompt may be tuned.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', LastEpochWarning)
            tried = run(
                copy.deepcopy(student),
                own,
                loss_weights={**weights, 'l2': penalty},
                config=replace(
                    in_folder(config, TRIALS, f'{number:02d}'), learning_rate=rate
                ),
            )
        trial = {'learning_rate': rate, 'l2': penalty}
        trial['student'] = tried.history.best_value
        if best is None or trial['student'] > trials[best[0]]['student']:
            best, best_teacher = (number, tried), own
        if tried.baseline_history is not None:
            trial['baseline'] = tried.baseline_history.best_value
            if baseline is None or trial['baseline'] > trials[baseline[0]]['baseline']:
                baseline = number, tried
        trials.append(trial)
    logs = _trial_logs(best[0], baseline and baseline[0])
    run_on_rank0(lambda: _copy_logs(config, logs))
    student.load_state_dict(best[1].student.state_dict())
    if isinstance(teacher, torch.nn.Module):
        teacher.load_state_dict(best_teacher.state_dict())
    result: DistillationResult = best[1]._replace(student=student.eval(), trials=trials)
    if baseline is not None:
        other = baseline[1]
        result = result._replace(
            baseline=other.baseline, baseline_history=other.baseline_history
        )
    histories = {'student': result.history, 'baseline': result.baseline_history}
    for name, history in histories.items():
        if history is not None and history.best_epoch == config.epochs:
            warnings.warn(LastEpochWarning(name, config.epochs), stacklevel=3)
    return result


def retried_at_random(
    result: 'DistillationResult',
    run: Callable[..., 'DistillationResult'],
    config: TrainingConfig,
) -> 'DistillationResult':
    """Trains a student that ended below its baseline again, from a random start, and
    returns the better one.

    Args:
        result: The student that started from its truncated teacher.
        run: ``distill`` from a random start, without the baseline.
        config: The settings of the first training.
    """
    baseline = result.baseline_history
    if result.start == 'random' or baseline is None or not baseline.best_metrics:
        return result
    if result.history.best_value >= baseline.best_value:
        return result
    other = run(config=in_folder(config, RANDOM))
    if other.history.best_value <= result.history.best_value:
        return result
    run_on_rank0(lambda: _copy_logs(config, {'.': RANDOM}))
    result.student.load_state_dict(other.student.state_dict())
    return result._replace(history=other.history, start=RANDOM)


def in_folder(config: TrainingConfig, *names: str) -> TrainingConfig:
    """The same with a folder of its own in the run's."""
    if config.run_dir is None:
        return config
    folder = Path(config.run_dir, *names)
    # The run may have been interrupted before this training began.
    resume = config.resume and run_on_rank0((folder / CHECKPOINT).is_file)
    return replace(config, run_dir=folder, resume=resume)


def _trial_logs(student: int, baseline: int | None) -> dict[str, str]:
    """The logs of the best trials, by the folder that they are copied to."""
    logs = {'.': f'{TRIALS}/{student:02d}'}
    if baseline is not None:
        logs[BASELINE] = f'{TRIALS}/{baseline:02d}/{BASELINE}'
    return logs


def _copy_logs(config: TrainingConfig, sources: Mapping[str, str]) -> None:
    """Copies logs within the run, by the folder that they are copied to."""
    if config.run_dir is None:
        return
    folder = Path(config.run_dir)
    for target, source in sources.items():
        with replacing(folder / target / LOG) as temporary:
            shutil.copy(folder / source / LOG, temporary)
